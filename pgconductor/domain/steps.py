"""Steps and waits of an execution, as they begin, as they are recorded, and as they are found."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from pgconductor.domain.claims import Claim
from pgconductor.domain.outcomes import Failure

__all__ = [
    "ChildSpec",
    "Decision",
    "Due",
    "EventPlace",
    "History",
    "Recorded",
    "Settled",
    "Started",
    "StepKind",
    "StepRecord",
    "StepStart",
]


class StepKind(StrEnum):
    """What a key of an execution stands for.

    Attributes:
        STEP: A function that was called, transactional or not.
        TRY: A call of such a function that failed and is to be tried again.
        SLEEP: A time that is waited for.
        CHILD: Another execution that is waited for.
        SPAWN: Another execution that is not waited for.
        EVENT: An event that is waited for.
        EMIT: An event that was emitted.
        PATCH: Which code an execution goes by.
        FIRST: Which of several was first.
    """

    STEP = "step"
    TRY = "try"
    SLEEP = "sleep"
    CHILD = "child"
    SPAWN = "spawn"
    EVENT = "event"
    EMIT = "emit"
    PATCH = "patch"
    FIRST = "first"

    @property
    def waits(self) -> bool:
        """Whether it is pending at first, until something comes."""
        return self in (StepKind.TRY, StepKind.SLEEP, StepKind.CHILD, StepKind.EVENT)


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A step that has ended, and is to be recorded.

    Attributes:
        execution_id: Its execution.
        claim: The owner that writes.
        key: Its name.
        result: Its result as JSON text, or None.
        kind: What it was.
        place: Its number among what the handler itself has begun; None within a branch.
        failure: The error that it has ended by, for good; None if it has returned.
        began: When it began, by the process's monotonic clock, in seconds.
        woke: How many ends of waits the handler had been told of by then.
        turn: Its number among what the handler was told beside these.
    """

    execution_id: UUID
    claim: Claim
    key: str
    result: str | None = None
    kind: StepKind = StepKind.STEP
    place: int | None = None
    failure: Failure | None = None
    began: float = field(default_factory=time.monotonic, compare=False)
    woke: int | None = None
    turn: int | None = None

    @property
    def took(self) -> float:
        """For how many seconds it has gone on by now."""
        return max(time.monotonic() - self.began, 0.0)


@dataclass(frozen=True, slots=True)
class Decision:
    """Which of several was first, as it is to be recorded, with the end of the others.

    Attributes:
        step: Which one.
        lost: The keys of the waits that end with it.
        begun: The keys of all that was begun for any of them.
    """

    step: StepRecord
    lost: tuple[str, ...] = ()
    begun: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """An execution that another one invokes.

    Attributes:
        id: Its id.
        queue: Where it goes.
        priority: Higher is sooner.
        max_attempts: How often it may be tried; None for what the task declares.
        max_crashes: Likewise.
    """

    id: UUID
    queue: str
    priority: int = 0
    max_attempts: int | None = None
    max_crashes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStart:
    """Something that begins: a wait, a child, or an event that is emitted.

    Attributes:
        execution_id: Its execution.
        claim: The owner that writes.
        key: Its name.
        kind: What it is.
        place: As in :class:`StepRecord`.
        detail: The child's task, or the event's name.
        delay: A wait ends after this long, a spawned execution is due then.
        until: The same as an instant.
        text: JSON text: a payload, or what an event's payload must contain.
        child: The child.
        failure: The error of a try.
        woke: As in :class:`StepRecord`.
        turn: Likewise.
    """

    execution_id: UUID
    claim: Claim
    key: str
    kind: StepKind
    place: int | None = None
    detail: str | None = None
    delay: timedelta | None = None
    until: datetime | None = None
    text: str | None = None
    child: ChildSpec | None = None
    failure: Failure | None = None
    woke: int | None = None
    turn: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What is on record under a key.

    Attributes:
        key: The key.
        kind: What it stands for.
        pending: What it waits for has not come.
        place: As in :class:`StepRecord`.
        result: JSON text, or None.
        error_type: The type of the error that it has ended by, or None.
        error: That error's message.
        detail: The child's task, or the event's name.
        child_id: The child.
        remaining: How long it is still to wait at most, by the database's clock.
        woke: With which settling it has ended; of what is no wait, as in :class:`StepRecord`.
        turn: As in :class:`StepRecord`; None for a wait.
    """

    key: str
    kind: StepKind = StepKind.STEP
    pending: bool = False
    place: int | None = None
    result: str | None = None
    error_type: str | None = None
    error: str | None = None
    detail: str | None = None
    child_id: UUID | None = None
    remaining: timedelta | None = None
    # When it came, not what.
    woke: int | None = field(default=None, compare=False)
    turn: int | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Started:
    """What came of something that began.

    Attributes:
        held: Whether the writer owns the execution; otherwise nothing was written.
        recorded: What is on record: this, or an earlier one of the same key. None if it was
            refused, because the execution is to be cancelled.
    """

    held: bool
    recorded: Recorded | None


@dataclass(frozen=True, slots=True)
class History:
    """What is on record of an execution.

    Attributes:
        records: By key, in the order in which they were recorded.
        wakes: How many of its waits have ended so far.
    """

    records: Mapping[str, Recorded] = field(default_factory=dict[str, Recorded])
    wakes: int = 0


@dataclass(frozen=True, slots=True)
class Settled:
    """How far the waits of an execution are.

    Attributes:
        execution_id: The execution.
        wakes: How many of its waits have ended so far; None where the caller is not its owner, and
            is not told which: then it must not count them as seen.
        ended: Those that have ended since the number of wakes that was asked about.
    """

    execution_id: UUID
    wakes: int | None
    ended: tuple[Recorded, ...] = ()


@dataclass(frozen=True, slots=True)
class EventPlace:
    """Where an event is among those that nobody has looked at.

    Attributes:
        name: Its name.
        emitted_at: When it was emitted.
        id: Its id.
    """

    name: str
    emitted_at: datetime
    id: UUID


@dataclass(frozen=True, slots=True)
class Due:
    """What there is to settle.

    Attributes:
        execution_ids: Executions with waits that may have come to their end.
        event_ids: Events that these executions may wait for, and that nobody has looked at.
        next_in: When the next wait ends by its time, from now; None if none does.
        until: When the last of these events was emitted.
        last: The last of them in the order in which they are looked at.
    """

    execution_ids: tuple[UUID, ...] = ()
    event_ids: tuple[UUID, ...] = ()
    next_in: timedelta | None = None
    until: datetime | None = field(default=None, compare=False)
    last: EventPlace | None = field(default=None, compare=False)
