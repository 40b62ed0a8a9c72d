"""Where in its queue a worker's next fetch begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pgconductor.domain.claims import Fetched, Position

__all__ = ["Frontier"]

#: Where a look at the whole queue takes no longer, there is nothing to gain.
_SLOW: Final = 0.002
#: Looks at the whole queue may take a tenth of the time.
_SHARE: Final = 9
_LONGEST: Final = 10.0


@dataclass(slots=True)
class Frontier:
    """Leads fetches past what was fetched before, where that is worth it.

    The entries of what was fetched stay in the index until vacuum removes them, and vacuum must
    leave them while some older transaction is open. A fetch from the queue's first place then reads
    them all; one that begins where the last fetch ended reads none of them, but it does not see
    what has come in ahead of that place: given back, to be tried again, or of a higher priority. So
    the whole queue is looked at whenever that is quick, and for a tenth of the time where not.
    """

    _whole_from: float = 0.0
    _place: Position | None = None
    _found: bool = False
    _part: bool = False

    def place(self, now: float, *, hasty: bool = False) -> Position | None:
        """Where a fetch at this monotonic second begins; None for the queue's first place.

        Args:
            now: The monotonic second.
            hasty: Look at the whole queue as soon as nothing is found behind the place.
        """
        if now >= self._whole_from or (hasty and not self._found):
            return None
        return self._place

    def fetched(
        self, batch: Sequence[Fetched], *, after: Position | None, began: float, ended: float
    ) -> None:
        """Take note of a fetch.

        Args:
            batch: What it returned.
            after: Where it began.
            began: The monotonic second at which it was sent.
            ended: The one at which it was answered.
        """
        if after is None:
            took = ended - began
            self._whole_from = ended + min(took * _SHARE, _LONGEST) if took > _SLOW else 0.0
        self._part = after is not None
        self._found = bool(batch)
        if batch:
            self._place = Position.of(batch[-1])

    def patience(self, now: float) -> float:
        """For how many seconds there is no need to look again, unless woken."""
        return max(self._whole_from - now, 0.0) if self._part else _LONGEST
