"""In which order an attempt is told of what has ended: that of the record, one after the other."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from pgconductor.domain.steps import Recorded

__all__ = ["Order", "Place"]

T = TypeVar("T")

#: After so many rounds of the event loop everybody has gone on who could because of what was told:
#: a task that ends, its joint with others, whoever awaits that, and so on for some levels. It is
#: less where the loop can tell that nothing is left to do in it.
_ROUNDS: Final = 16


@dataclass(slots=True, eq=False)
class Place:
    """When the handler is told of one thing.

    Attributes:
        woke: How many ends of waits come before it.
        number: Its number among the things between two ends of waits; None for an end of a wait.
        ready: Whether it has happened: what comes behind it is held back until then.
        over: Whether it was told, or is not to be told any more.
        tell: Tells it.
    """

    woke: int
    number: int | None = None
    ready: bool = False
    over: bool = False
    tell: Callable[[], None] | None = None
    told: asyncio.Future[None] | None = None


def _key(turn: Place, asked: int) -> tuple[int, int, int, int]:
    """What turns are sorted by.

    Ends of waits come before the steps that they were told before; of those that were found at
    once, in the order in which they were asked for.
    """
    if turn.number is None:
        return turn.woke, 0, asked, asked
    return turn.woke, 1, turn.number, asked


class Order:
    """Tells an attempt of ends of steps and waits in one order, the same in each attempt.

    Between branches that race, the order in which they are told decides. So a step is told with the
    number under which it is on record: how many ends of waits came before it, and how many steps.
    What is on record is told in this order again, as far as the handler has asked for it, and never
    two things at once: between two of them, everybody goes on who can.

    Args:
        wakes: How many ends of waits the attempt was told of by now.
        branched: Whether the handler has branches; one that has none has nobody to wait for.
        held: Whether nobody can be told now; then :meth:`settle` is called when somebody can.
    """

    def __init__(
        self, wakes: Callable[[], int], branched: Callable[[], bool], held: Callable[[], bool]
    ) -> None:
        self._wakes = wakes
        self._branched = branched
        self._held = held
        self._queue: list[tuple[tuple[int, int, int, int], Place]] = []
        self._asked = 0
        self._number = 0
        self._rounds = 0
        self._turning = False
        self._closed: BaseException | None = None

    def go_on_from(self, number: int) -> None:
        """Number what comes behind what is on record."""
        self._number = max(self._number, number)

    # What has not happened yet.

    def reserve(self) -> Place:
        """A turn for something that is about to be recorded."""
        self._number += 1
        return self._add(Place(self._wakes(), self._number))

    async def write(self, write: Callable[[Place], Awaitable[T]]) -> T:
        """Record something, and go on when it is its turn.

        Args:
            write: Records it, under the number of its turn.
        """
        turn = self.reserve()
        try:
            answer = await write(turn)
        except BaseException:
            self.drop(turn)
            raise
        await self.happened(turn)
        return answer

    async def happened(self, turn: Place) -> None:
        """It is on record: wait for its turn."""
        turn.ready = True
        if self._closed is not None:
            return
        if not self._turning and not self._held() and self._head() is turn:
            self._done(turn)
            return
        await self._wait(turn)

    def drop(self, turn: Place | None) -> None:
        """It does not happen, or nobody is to be told any more."""
        if turn is not None and not turn.over:
            turn.over = True
            self._go()

    # What has.

    async def asked(self, found: Recorded) -> None:
        """Something that is on record was asked for: wait for its turn."""
        number = None if found.kind.waits else found.turn or 0
        turn = self._add(Place(found.woke or 0, number, ready=True))
        self._again()
        await self._wait(turn)

    def ended(self, woke: int, tell: Callable[[], None]) -> Place:
        """A wait has ended: tell it when it is its turn; :meth:`go` follows."""
        return self._add(Place(woke, ready=True, tell=tell))

    def go(self) -> None:
        """Tell what can be told."""
        if not self._turning:
            self._turn()

    def settle(self) -> None:
        """Somebody may go on: tell nothing more before they have."""
        self._again()
        self._go()

    def close(self, error: BaseException) -> None:
        """The attempt has ended: whoever waits for a turn is told so."""
        self._closed = error
        for _, turn in self._queue:
            turn.over = True
            if turn.told is not None and not turn.told.done():
                turn.told.set_exception(error)
                turn.told.exception()
        self._queue.clear()

    def _add(self, turn: Place) -> Place:
        self._asked += 1
        heapq.heappush(self._queue, (_key(turn, self._asked), turn))
        return turn

    async def _wait(self, turn: Place) -> None:
        if self._closed is not None:
            raise self._closed
        turn.told = asyncio.get_running_loop().create_future()
        self._go()
        try:
            await turn.told
        finally:
            self.drop(turn)

    def _again(self) -> None:
        self._rounds = max(self._rounds, _ROUNDS if self._branched() else 1)

    def _go(self) -> None:
        if not self._turning:
            self._turning = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _head(self) -> Place | None:
        while self._queue and self._queue[0][1].over:
            heapq.heappop(self._queue)
        return self._queue[0][1] if self._queue else None

    def _turn(self) -> None:
        if self._rounds > 0 and not _is_quiet():
            self._rounds -= 1
            self._turning = True
            asyncio.get_running_loop().call_soon(self._turn)
            return
        self._turning = False
        self._rounds = 0
        turn = self._head()
        if turn is None or not turn.ready or self._held():
            return
        self._done(turn)
        if turn.tell is not None:
            turn.tell()
        elif turn.told is not None and not turn.told.done():
            turn.told.set_result(None)

    def _done(self, turn: Place) -> None:
        turn.over = True
        self.settle()


def _is_quiet() -> bool:
    """Whether nothing else is to be executed in the event loop; False where it does not tell."""
    ready = getattr(asyncio.get_running_loop(), "_ready", None)
    return ready is not None and not ready
