"""How many executions to hold ready beyond those that are being executed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["Prefetch"]

#: What is held ready should last for so many seconds: long enough to hide a fetch.
_HORIZON: Final = 0.2
_MOST: Final = 500
#: A shorter look than this tells nothing of the pace.
_LEAST_LOOK: Final = 0.001


@dataclass(slots=True)
class Prefetch:
    """Holds ready what the handlers of the queue are seen to end within a fifth of a second.

    Short handlers so get large batches, and long ones hoard nothing that others could execute.

    Attributes:
        size: How many to hold ready beyond those that are being executed.
    """

    size: int = 0
    _pace: float = 0.0
    _ended: int = 0
    _looked: float | None = None

    def ended(self) -> None:
        """A handler has ended."""
        self._ended += 1

    def look(self, now: float) -> None:
        """Take the pace since the last look, at this monotonic second, and set ``size`` by it."""
        elapsed = None if self._looked is None else now - self._looked
        if elapsed is not None and elapsed < _LEAST_LOOK:
            return
        if elapsed is not None:
            self._pace = (self._pace + self._ended / elapsed) / 2
            self.size = min(int(self._pace * _HORIZON), _MOST)
        self._looked = now
        self._ended = 0

    def shrink(self) -> None:
        """What was held ready was not started in time: start over."""
        self.size = 0
        self._pace = 0.0
