"""What an attempt waits for while it is in memory, and how it is told of what has come."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from functools import partial
from typing import Any, Final
from uuid import UUID

from pgconductor.domain.steps import Recorded, Settled, StepKind
from pgconductor.exceptions import RaceNotRecorded
from pgconductor.runtime.order import Order
from pgconductor.runtime.reasons import LATE
from pgconductor.runtime.scopes import Scope
from pgconductor.runtime.sentry import Sentry
from pgconductor.runtime.suspension import Interrupted
from pgconductor.runtime.threads import Call
from pgconductor.runtime.turns import Desk, Turns
from pgconductor.runtime.waited import End, Wait

__all__ = ["Told"]

logger = logging.getLogger("pgconductor.waits")

#: Seconds after which a wait is looked at again whose time should have come by our clock.
_AGAIN: Final = 0.05
#: A timer of the event loop that is set further ahead is of no use.
_LONGEST: Final = 86_400.0


class Told(ABC):
    """The waits of one attempt, as they begin and as they are told.

    While nothing but waits is left of an attempt, it takes up no slot. If nothing comes for a
    while, everything that waits is ended by :class:`Suspension`, and so the handler. So it is if
    something has come, and there is no slot for a while to go on in: whoever has the slots may wait
    for what this handler holds, a lock for instance.

    Args:
        execution_id: The execution.
        sentry: Who looks whether what is waited for has come.
        desk: Who gives and takes the attempt's slot.
        patience: Seconds to stay in memory.
        known: The asyncio tasks of the handler that are known: it is suspended if all of them wait.
        branched: Whether the handler has branches.
        may_linger: Whether it may stay longer if it was replayed.
        limit: The attempt's own time limit.
    """

    def __init__(
        self,
        execution_id: UUID,
        sentry: Sentry,
        *,
        desk: Desk,
        patience: float,
        known: Callable[[], Iterable[asyncio.Task[Any]]],
        branched: Callable[[], bool] = lambda: True,
        may_linger: bool = True,
        limit: Callable[[], object] = lambda: None,
    ) -> None:
        self.execution_id = execution_id
        #: How many ends of waits the handler has seen.
        self.wakes = 0
        self._sentry = sentry
        self._desk = desk
        self.turns = Turns(desk, self._guarded, leave=self._leave_overdue, on_calm=self._calmed)
        self._patience = patience
        self._may_linger = may_linger
        self._limit = limit
        #: The error that the handler was ended by instead of being suspended.
        self.refused: RaceNotRecorded | None = None
        #: How many steps were on record when the attempt began.
        self.replayed = 0
        #: Whether somebody else says when it leaves memory.
        self.lingers = False
        self._known = known
        self._waiting: dict[str, Wait] = {}
        # Ended before anybody waited for them: a settling tells of all at once.
        self._ended: dict[str, Recorded] = {}
        # Waits for an event that no look was sent for by now, and that none was answered for.
        self._unsought: set[Wait] = set()
        self._unanswered: set[Wait] = set()
        self._events = 0
        self._begun = 0
        self._busy = 0
        # Of those that wait, how many have not been told of their end.
        self._open = 0
        self._resting = False
        self._closed = False
        self._patient: asyncio.TimerHandle | None = None
        self._inner: asyncio.TimerHandle | None = None
        #: Calls of steps in threads, which may wait by the handler's context.
        self.calls: dict[asyncio.Future[Any], Call] = {}
        #: The wait because of which the attempt was suspended.
        self.suspended_by: str | None = None
        #: Whether it was suspended though a wait is over: it is to go on as soon as it can.
        self.overdue = False
        #: In which order the handler is told of what has ended.
        self.order = Order(
            wakes=lambda: self.wakes, branched=branched, held=lambda: bool(self.turns.waiting)
        )

    @contextmanager
    def at_work(self) -> Generator[None]:
        """While inside, the attempt has something to do."""
        self._busy += 1
        self._stay()
        try:
            yield
        finally:
            self._busy -= 1
            self._rest()

    async def active(self) -> None:
        """Come back to a slot, if it was given up.

        Raises:
            CancelledError: Another contender of a race was first meanwhile.
        """
        if self.turns.parked:
            await self.turns.wait()
            Scope.check()

    def _calmed(self) -> None:
        self.order.settle()
        self._rest()

    async def until_ended(self, recorded: Recorded, *, cancel_late: bool = True) -> Recorded:
        """Wait for the end of something that is on record as pending.

        Args:
            recorded: What is on record.
            cancel_late: Whether a child is to be cancelled that is not waited for any more.

        Raises:
            Suspension: It did not come soon enough; raise it on.
            Interrupted: The attempt has ended.
            RaceNotRecorded: It was given up because of a clock of this process.
        """
        if (early := self._ended.get(recorded.key)) is not None:
            try:
                with self.at_work():
                    await self.order.asked(early)
            finally:
                del self._ended[recorded.key]
            return early
        if self._closed:
            # A branch that nobody awaited has put it on record meanwhile.
            raise Interrupted(LATE)
        self._begun += 1
        wait = Wait(recorded, End(self._limit), self._begun, cancel_late=cancel_late)
        self._waiting[recorded.key] = wait
        self._open += 1
        if recorded.kind is StepKind.EVENT:
            self._events += 1
            self._unsought.add(wait)
        self._watch(recorded.child_id)
        self._set_timer(wait)
        if recorded.kind in (StepKind.EVENT, StepKind.CHILD):
            # It may have come before the wait was on record, or before this attempt.
            self._sentry.look(self.execution_id)
        self._rest()
        try:
            ended = await wait.ended
        except asyncio.CancelledError:
            if wait.ended.by_clock:
                raise RaceNotRecorded(recorded.key) from None
            raise
        finally:
            self._drop(wait)
        with self.at_work():
            if self.turns.parked:
                await self.turns.wait(recorded.key)
        return ended

    def _drop(self, wait: Wait) -> None:
        if wait.timer is not None:
            wait.timer.cancel()
        self._close(wait)
        self.order.drop(wait.turn)
        if self._waiting.get(wait.recorded.key) is wait:
            del self._waiting[wait.recorded.key]
            self._events -= wait.recorded.kind is StepKind.EVENT
        self._unsought.discard(wait)
        self._unanswered.discard(wait)
        if not self._waiting:
            self._forget()
            self._stay()

    def _close(self, wait: Wait) -> None:
        if wait.open:
            wait.open = False
            self._open -= 1

    def _set_timer(self, wait: Wait) -> None:
        if wait.recorded.remaining is not None:
            seconds = max(wait.recorded.remaining.total_seconds(), 0.0)
            wait.timer = self._later(min(seconds, _LONGEST), self._time_has_come, wait)

    def _time_has_come(self, wait: Wait) -> None:
        """By our clock; the database's decides."""
        self._sentry.look(self.execution_id)
        wait.looks += 1
        pause = min(_AGAIN * 2.0 ** min(wait.looks, 6), 1.0)
        wait.timer = self._later(pause, self._time_has_come, wait)

    def seen(self) -> int:
        """How many ends of waits were seen, by somebody who is about to look for more."""
        self._unanswered |= self._unsought
        self._unsought.clear()
        return self.wakes

    def settled(self, settled: Settled) -> None:
        """Hear how far the waits are."""
        self._guarded(self._hear, settled)

    def _hear(self, settled: Settled) -> None:
        if self.suspended_by is not None or settled.wakes is None:
            # The handler does not see it: it must count as not seen, or nobody would be woken.
            return
        self.wakes = max(self.wakes, settled.wakes)
        self._unanswered.clear()
        there: list[tuple[Wait, Recorded]] = []
        for ended in settled.ended:
            wait = self._waiting.get(ended.key)
            if wait is None:
                self._ended[ended.key] = ended
            elif wait.open and not wait.ended.done():
                there.append((wait, ended))
        for wait, ended in sorted(there, key=lambda one: one[0].number):
            woke = self.wakes if ended.woke is None else ended.woke
            wait.turn = self.order.ended(woke, partial(wait.tell, ended))
            self._close(wait)
            self._stay()
        if settled.ended and self._events:
            # Of two waits for an event only one takes it: there may be another event.
            self._sentry.look(self.execution_id)
        self.order.go()
        self._rest()

    # Those that were not first.

    def lose(self, keys: Iterable[str]) -> tuple[list[str], list[str]]:
        """Whose ends were not seen by now, and which of them are children to be cancelled."""
        unseen = {*self._waiting, *self._ended, *self.turns.waiting.values()}
        lost = [key for key in keys if key in unseen]
        there = (self._waiting[key] for key in lost if key in self._waiting)
        return lost, [
            one.recorded.key
            for one in there
            if one.recorded.kind is StepKind.CHILD and one.cancel_late
        ]

    def end_lost(self, keys: Iterable[str]) -> None:
        """Whatever comes for these changes nothing any more."""
        for wait in [self._waiting[key] for key in keys if key in self._waiting]:
            self.order.drop(wait.turn)
            wait.ended.cancel()

    def look(self) -> None:
        """An event that one has given up may be for another that is waited for."""
        if self._events:
            self._sentry.look(self.execution_id)

    # What both go by.

    @property
    def _futures(self) -> set[asyncio.Future[Any]]:
        return {*(wait.ended for wait in self._waiting.values()), *self.turns.waiting}

    def _later(self, pause: float, call: Callable[..., None], *args: Any) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(pause, self._guarded, call, *args)

    def _guarded(self, call: Callable[..., None], *args: Any) -> None:
        """Nobody waits for what is called: if it fails, the handler is not to wait for ever."""
        try:
            call(*args)
        except Exception as error:
            extra = {"execution_id": str(self.execution_id)}
            logger.exception("the engine failed as %s waited", self.execution_id, extra=extra)
            for future in self._futures:
                if not future.done():
                    future.set_exception(error)

    # When it gives its slot up, and leaves.

    @abstractmethod
    def _rest(self) -> None:
        """Nothing may be left but waits."""

    @abstractmethod
    def _stay(self) -> None:
        """Something has come, or is to be done: it does not leave for now."""

    @abstractmethod
    def _leave_overdue(self) -> bool:
        """Suspend a handler of which a wait is over; whether it was."""

    @abstractmethod
    def _watch(self, child_id: UUID | None) -> None:
        """Be told when something has come, for instance a child."""

    @abstractmethod
    def _forget(self) -> None:
        """Nothing is waited for any more."""
