"""How many executions to hold ready beyond those that are being executed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["Prefetch"]

#: What is held ready should last for so many fetches, and for so many seconds at the least and the
#: most.
_TRIPS: Final = 4
_SHORTEST: Final = 0.02
_LONGEST: Final = 0.2
_MOST: Final = 500
#: A shorter look than this tells nothing of the pace.
_LEAST_LOOK: Final = 0.001


@dataclass(slots=True)
class Prefetch:
    """Holds ready what the handlers of the queue are seen to end while a few fetches are answered.

    Short handlers so get large batches, and long ones hoard nothing that others could execute.

    Attributes:
        size: How many to hold ready beyond those that are being executed.
    """

    size: int = 0
    _pace: float = 0.0
    _trip: float = _LONGEST
    _ended: int = 0
    _looked: float | None = None

    def ended(self) -> None:
        """A handler has ended."""
        self._ended += 1

    def answered(self, seconds: float) -> None:
        """A fetch took so long."""
        self._trip += (seconds - self._trip) / 8

    def look(self, now: float) -> None:
        """Take the pace since the last look, at this monotonic second, and set ``size`` by it."""
        elapsed = None if self._looked is None else now - self._looked
        if elapsed is not None and elapsed < _LEAST_LOOK:
            return
        if elapsed is not None:
            self._pace = (self._pace + self._ended / elapsed) / 2
            horizon = min(max(_TRIPS * self._trip, _SHORTEST), _LONGEST)
            self.size = min(int(self._pace * horizon), _MOST)
        self._looked = now
        self._ended = 0

    def shrink(self) -> None:
        """What was held ready was not started in time: start over."""
        self.size = 0
        self._pace = 0.0
