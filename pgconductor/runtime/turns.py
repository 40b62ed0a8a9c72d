"""How an attempt gives its slot up, and comes to one again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from pgconductor.runtime.reasons import LATE
from pgconductor.runtime.suspension import Interrupted

__all__ = ["Desk", "Turns"]


class Desk(Protocol):
    """Who gives and takes the slot of an attempt."""

    @property
    def patience(self) -> float:
        """For how many seconds to wait for a slot to go on in."""
        ...

    def park(self) -> bool:
        """Take the slot back; whether there is room in memory."""
        ...

    def ask(self) -> None:
        """Call :meth:`Turns.go_on` when there is a slot, perhaps at once."""
        ...

    def insist(self) -> None:
        """Call it now: there was no slot for too long."""
        ...

    def stay(self) -> None:
        """It waits in memory, without a slot, and cannot be suspended."""
        ...


class Turns:
    """The branches of an attempt that go on when it has a slot again.

    They never wait for that without end: whoever has the slots may wait for what this handler
    holds, a lock for instance.

    Args:
        desk: Who gives and takes the slot.
        guarded: Calls what nobody waits for.
        leave: Suspends the attempt if it can be, and says whether it was.
        on_calm: Called when nobody waits for a slot any more.
    """

    def __init__(
        self,
        desk: Desk,
        guarded: Callable[[Callable[[], None]], None],
        *,
        leave: Callable[[], bool],
        on_calm: Callable[[], None],
    ) -> None:
        self._desk = desk
        self._guarded = guarded
        self._leave = leave
        self._on_calm = on_calm
        #: Whether the attempt has no slot.
        self.parked = False
        self._may_stay = True
        #: Who waits for a slot, with the wait whose end each has not seen yet.
        self.waiting: dict[asyncio.Future[None], str | None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def give(self) -> bool:
        """Give the slot to others; whether there is room to stay in memory."""
        if not self.parked:
            self.parked = True
            self._may_stay = self._desk.park()
        return self._may_stay

    async def wait(self, ended: str | None = None) -> None:
        """Wait for a slot, perhaps to see the end of a wait.

        Raises:
            Suspension: There was none for a while.
            Interrupted: The attempt has ended.
        """
        if not self.waiting:
            self._desk.ask()
            if not self.parked:
                return
            patience = self._desk.patience
            self._timer = asyncio.get_running_loop().call_later(
                patience, self._guarded, self._insist
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting[turn] = ended
        try:
            await turn
        finally:
            del self.waiting[turn]
            if not self.waiting:
                # Perhaps it was cancelled: others need not wait until it has gone on.
                self.calm()
                self._on_calm()

    def go_on(self) -> None:
        """There is a slot again."""
        self.parked = False
        self.calm()
        for turn in self.waiting:
            if not turn.done():
                turn.set_result(None)
        if not self.waiting:
            self._on_calm()

    def _insist(self) -> None:
        """There was no slot for a while: leave, or else go on beside those that have one."""
        self._timer = None
        if self.waiting and not self._leave():
            self._desk.insist()

    def calm(self) -> None:
        """Wait for a slot without end, or for none any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """The attempt has ended."""
        self.calm()
        for turn in self.waiting:
            if not turn.done():
                turn.set_exception(Interrupted(LATE))
                turn.exception()
