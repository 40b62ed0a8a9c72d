"""One wait of an attempt."""

from __future__ import annotations

import asyncio
import sys
from asyncio import tasks, timeouts
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import cast

from pgconductor.domain.steps import Recorded
from pgconductor.runtime.order import Place

__all__ = ["End", "Wait"]


class End(asyncio.Future[Recorded]):
    """How a wait has ended.

    Args:
        own: The attempt's own time limit, which is no clock of its handler's.
    """

    def __init__(self, own: Callable[[], object]) -> None:
        super().__init__()
        self._own = own
        #: Whether it was given up because of a clock of this process.
        self.by_clock = False

    def cancel(self, msg: object = None) -> bool:
        """Give it up."""
        if not self.done():
            limit = _expired()
            self.by_clock = limit is not None and limit is not self._own()
        return super().cancel(msg)


def _expired() -> object:
    """The time limit because of which asyncio cancels just now, if it is because of one."""
    frame: FrameType | None = sys._getframe(2)  # pyright: ignore[reportPrivateUsage]  # who cancels, asyncio does not tell
    while frame is not None:
        where = frame.f_code.co_filename, frame.f_code.co_name
        if where == (timeouts.__file__, "_on_timeout"):
            return frame.f_locals["self"]
        if where == (tasks.__file__, "wait_for"):  # Before Python 3.12.
            waiter = frame.f_locals.get("waiter")
            if isinstance(waiter, asyncio.Future) and not waiter.cancelled():
                return cast("object", waiter)
        frame = frame.f_back
    return None


@dataclass(slots=True, eq=False)
class Wait:
    """One wait of an attempt.

    Attributes:
        recorded: What is on record of it.
        ended: How it has ended.
        number: 1 for the first that the attempt has begun.
        timer: When its time has come, by our clock.
        looks: How often it was looked for since.
        open: Whether it is not known to have ended.
        turn: When the handler is told of its end.
        cancel_late: Whether a child is to be cancelled that is not waited for any more.
    """

    recorded: Recorded
    ended: End
    number: int
    timer: asyncio.TimerHandle | None = None
    looks: int = 0
    open: bool = True
    turn: Place | None = None
    cancel_late: bool = True

    def tell(self, ended: Recorded) -> None:
        """Tell whoever waits how it has ended."""
        if not self.ended.done():
            self.ended.set_result(ended)
