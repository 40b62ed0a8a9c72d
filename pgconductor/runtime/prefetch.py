"""How many executions to hold ready beyond those that are being executed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["Prefetch"]

_BUSY: Final = 0.1
_SLOW: Final = 1.0
_MOST: Final = 500


@dataclass(slots=True)
class Prefetch:
    """Doubles while a batch is used up within a tenth of a second, halves when it lasts a second.

    Short handlers so get large batches, and long ones hoard nothing that others could execute.

    Attributes:
        slots: How many executions are executed at once.
        size: How many to hold ready beyond that.
    """

    slots: int
    size: int = 0
    _last: float | None = None
    _full: bool = False

    def fetched(self, count: int, asked: int, now: float) -> None:
        """A fetch has asked for so many and got so many, at this monotonic second."""
        elapsed = None if self._last is None else now - self._last
        # After a fetch that found little there was no batch to be used up: the first batch of long
        # handlers must not be followed by a second one.
        used_up, self._full = self._full, count == asked
        self._last = now
        if elapsed is None:
            return
        if count == asked and used_up and elapsed < _BUSY:
            self.size = min(max(self.size * 2, self.slots), _MOST)
        elif elapsed > _SLOW:
            self.size //= 2

    def shrink(self) -> None:
        """What was held ready was not started in time."""
        self.size = 0
