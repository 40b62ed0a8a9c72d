"""What is to be seen of the demo, whoever shows it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from pgconductor.cli.demo.proof import Proof
from pgconductor.cli.demo.watch import Sample

__all__ = ["Display", "Event", "Figures", "Seat", "View"]

_RATE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Event:
    """Something worth a line.

    Attributes:
        at: Seconds since the beginning.
        text: The line.
        tone: ``plain``, ``bad`` or ``good``.
    """

    at: float
    text: str
    tone: str = "plain"


@dataclass(frozen=True, slots=True)
class Seat:
    """A worker process as it is shown."""

    number: int
    pid: int
    state: str
    holds: int


@dataclass(frozen=True, slots=True)
class Figures:
    """The numbers of the whole demo.

    Attributes:
        seconds: From the start of the first worker to the last completed file.
        throughput: Files a second in that time.
        retries: Executions whose first attempt failed.
        crashes: Workers that were killed.
        recovered: Executions that were taken back from them.
        recovery_seconds: From the kill until they were taken back.
    """

    seconds: float
    throughput: float
    retries: int
    crashes: int
    recovered: int
    recovery_seconds: float | None


@dataclass(slots=True)
class View:
    """The state of what is shown."""

    title: str
    began: float = field(default_factory=time.monotonic)
    total: int = 0
    sample: Sample = field(default_factory=Sample)
    seats: list[Seat] = field(default_factory=list[Seat])
    events: list[Event] = field(default_factory=list[Event])
    _pace: deque[tuple[float, int]] = field(default_factory=deque[tuple[float, int]])

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.began

    @property
    def rate(self) -> float:
        """Files a second, of late."""
        if len(self._pace) < 2:
            return 0.0
        (then, before), (now, after) = self._pace[0], self._pace[-1]
        return (after - before) / (now - then) if now > then else 0.0

    def take(self, sample: Sample, seats: Iterable[Seat]) -> None:
        """Take note of a new sample."""
        self.sample, self.seats = sample, list(seats)
        self._pace.append((self.elapsed, sample.completed))
        while self._pace[0][0] < self.elapsed - _RATE_SECONDS and len(self._pace) > 2:
            self._pace.popleft()


class Display(Protocol):
    """Shows the demo."""

    view: View

    def __enter__(self) -> Self:
        """Begin to show it."""
        ...

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the screen in order."""
        ...

    def say(self, text: str, tone: str = "plain") -> None:
        """Show an event."""
        ...

    def update(self) -> None:
        """The view has changed."""
        ...

    def report(self, proof: Proof, figures: Figures) -> None:
        """Show the end."""
        ...
