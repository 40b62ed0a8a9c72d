"""Orchestrators as seen by one another, and the rule by which one is held to be dead."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

__all__ = ["Beat", "Heartbeat", "OrchestratorSnapshot", "Recovery", "StaleObserver"]


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The database's answer to a heartbeat: levels, true at every beat until they change.

    Attributes:
        number: How many beats have been accepted.
        shutdown_requested: Whether this orchestrator is asked to stop.
        shutdown_reason: Why, if somebody said so.
        schema_floor: The lowest revision that an orchestrator must know to go on.
        schema_ceiling: The highest revision that there is, or will be when a downgrade that is
            being prepared is done; who needs a higher one cannot go on.
        cancellations: Executions held by it whose cancellation is asked for.
    """

    number: int
    shutdown_requested: bool
    shutdown_reason: str | None
    schema_floor: int
    schema_ceiling: int
    cancellations: frozenset[UUID]


@dataclass(frozen=True, slots=True)
class OrchestratorSnapshot:
    """A row of ``orchestrators``."""

    id: UUID
    version: str
    schema_version: int
    schema_required: int
    hostname: str
    pid: int
    queues: tuple[str, ...]
    started_at: datetime
    last_heartbeat_at: datetime
    heartbeat_number: int
    shutdown_requested_at: datetime | None
    shutdown_reason: str | None


@dataclass(frozen=True, slots=True)
class Beat:
    """What an observer reads of an orchestrator.

    Attributes:
        orchestrator_id: Which one.
        number: Its count of heartbeats.
        late: The last one is older than the stale threshold by the database's clock.
    """

    orchestrator_id: UUID
    number: int
    late: bool


@dataclass(frozen=True, slots=True)
class Recovery:
    """What was taken back from the dead.

    Attributes:
        orchestrators: Those that were removed.
        available: Executions that may be fetched again.
        failed: Executions that ended because they crashed their process once too often.
        cancelled: Executions whose cancellation had been asked for.
        left: Orchestrators that are still there, for some of what they hold is locked by others.
    """

    orchestrators: frozenset[UUID] = frozenset()
    available: int = 0
    failed: int = 0
    cancelled: int = 0
    left: frozenset[UUID] = frozenset()

    @property
    def executions(self) -> int:
        """All executions that were taken back."""
        return self.available + self.failed + self.cancelled

    def __add__(self, other: Recovery) -> Recovery:
        return Recovery(
            self.orchestrators | other.orchestrators,
            self.available + other.available,
            self.failed + other.failed,
            self.cancelled + other.cancelled,
            (self.left | other.left) - other.orchestrators,
        )


@dataclass(slots=True)
class StaleObserver:
    """Decides who is dead, by what this observer has itself watched.

    An orchestrator is stale if its heartbeat is too old by the database's clock **and** this
    observer has seen the same beat number for ``stale_after`` of its own monotonic time, without
    a gap in its watching. So neither an outage of the database, after which every heartbeat is
    old, nor a jump of its clock evicts a healthy fleet. Where more than two and more than half of
    the fleet look dead at once, something else is likelier, and it watches twice as long.

    Attributes:
        stale_after: The threshold.
    """

    stale_after: timedelta
    _seen: dict[UUID, tuple[int, float]] = field(
        default_factory=dict[UUID, tuple[int, float]], repr=False
    )
    _last_look: float | None = field(default=None, repr=False)

    def observe(self, beats: Iterable[Beat], now: float) -> frozenset[UUID]:
        """Take note of what was just read, and return those that are stale.

        Args:
            beats: Every orchestrator but the observer's own.
            now: The observer's monotonic time in seconds.
        """
        threshold = self.stale_after.total_seconds()
        current = list(beats)
        if self._last_look is not None and now - self._last_look > threshold:
            self._seen.clear()  # Nobody was watching: what looks unchanged proves nothing.
        self._last_look = now
        seen: dict[UUID, tuple[int, float]] = {}
        for beat in current:
            number, since = self._seen.get(beat.orchestrator_id, (beat.number, now))
            seen[beat.orchestrator_id] = (beat.number, since if number == beat.number else now)
        self._seen = seen
        suspects = [
            beat.orchestrator_id
            for beat in current
            if beat.late and now - seen[beat.orchestrator_id][1] >= threshold
        ]
        if len(suspects) > max(2, len(current) // 2):
            suspects = [one for one in suspects if now - seen[one][1] >= 2 * threshold]
        return frozenset(suspects)
