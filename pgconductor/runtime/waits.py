"""What an attempt waits for while it is in memory, and when it is suspended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from functools import partial
from typing import Any, Final
from uuid import UUID

from pgconductor.domain.steps import Recorded, Settled, StepKind
from pgconductor.exceptions import RaceNotRecorded
from pgconductor.runtime.branches import Joints, goes_on_by_itself, joints, look_at_ends
from pgconductor.runtime.order import Order
from pgconductor.runtime.reasons import LATE
from pgconductor.runtime.sentry import Sentry
from pgconductor.runtime.suspension import Interrupted, Suspension
from pgconductor.runtime.threads import Call
from pgconductor.runtime.turns import Desk, Turns
from pgconductor.runtime.waited import End, Wait

__all__ = ["Waits"]

logger = logging.getLogger("pgconductor.waits")

#: Seconds after which a wait is looked at again whose time should have come by our clock.
_AGAIN: Final = 0.05
#: Seconds that other branches have to go on, before a handler that waits for long is suspended.
_MOMENT: Final = 0.01
#: Seconds after which steps at work are looked at, whether they only wait.
_SOON: Final = 0.05
#: Seconds for each step on record, and at most, that a handler that was replayed stays in memory
#: for what else may come: another replay would go through all of them again.
_LINGER: Final = 0.1
_LONGEST_LINGER: Final = 60.0
#: A timer of the event loop that is set further ahead is of no use.
_LONGEST: Final = 86_400.0


class Waits:
    """The waits of one attempt.

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
        self.turns = Turns(desk, self._guarded, leave=self._leave_overdue, on_go_on=self._gone_on)
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
        """Come back to a slot, if it was given up."""
        if self.turns.parked:
            await self.turns.wait()

    def _gone_on(self) -> None:
        self.order.settle()
        self._rest()

    def _leave_overdue(self) -> bool:
        """Suspend a handler of which a wait is over; whether it was.

        One wait more is over in the next attempt, so there is an end to it. Nobody who is at work,
        or comes from work, is cut off.
        """
        ended = list(self.turns.waiting.values())
        if self._closed or self._busy != len(ended) or None in ended:
            return False
        waiting = self._futures
        joined = joints(self._known(), waiting.__contains__)
        if joined is None:
            return False
        self.overdue = True
        self._end_all(ended[0] or "", joined, waiting)
        return True

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
        if (early := self._ended.pop(recorded.key, None)) is not None:
            with self.at_work():
                await self.order.asked(early)
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
        self._sentry.watch(self, recorded.child_id)
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
            self._sentry.forget(self)
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
        """Which of these are waited for, and which of them are children to be cancelled."""
        lost = [key for key in keys if key in self._waiting]
        there = (self._waiting[key] for key in lost)
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

    # When to give up the slot, and when to leave.

    @property
    def _only_waits(self) -> bool:
        return 0 < self._open == len(self._waiting)

    @property
    def _idle(self) -> bool:
        return not self._busy and self._only_waits

    def _rest(self) -> None:
        """Nothing may be left but waits: see, when everybody who can go on has gone on."""
        if not self._only_waits:
            return
        if self._busy:
            self._look_inside_in(_SOON)
        elif not self._resting:
            self._resting = True
            asyncio.get_running_loop().call_soon(self._guarded, self._park)

    def _park(self) -> None:
        self._resting = False
        if not self._idle or self._closed:
            return
        may_stay = self.turns.give()
        if self._patient is None and not self.lingers:
            self._wait_patiently(self._patience if may_stay else 0.0)

    def _look_inside_in(self, pause: float) -> None:
        if self._inner is None and not self.turns.parked:
            self._inner = self._later(pause, self._look_inside, pause)

    def _look_inside(self, pause: float) -> None:
        """Give up the slot, if every step at work only waits."""
        self._inner = None
        if self._closed or self.turns.parked or not self._busy or not self._only_waits:
            return
        waiting = self._futures | {future for future, call in self.calls.items() if call.waits}
        if joints(self._known(), waiting.__contains__) is None:
            self._look_inside_in(min(pause * 2, 1.0))
        else:
            self.turns.give()
            self._desk.stay()

    def _stay(self) -> None:
        self.lingers = False
        if self._patient is not None:
            self._patient.cancel()
            self._patient = None

    def _wait_patiently(self, patience: float) -> None:
        all_long = all(
            one.recorded.kind in (StepKind.SLEEP, StepKind.TRY)
            and one.recorded.remaining is not None
            and one.recorded.remaining.total_seconds() > self._patience
            for one in self._waiting.values()
        )
        pause = min(_MOMENT, patience) if all_long else patience
        linger = min(self.replayed * _LINGER, _LONGEST_LINGER)
        if (
            linger > pause
            and len(self._waiting) > 1
            and not all_long
            and self._may_linger
            and patience == self._patience
        ):
            pause = linger
            self.lingers = self._sentry.keeps(self, pause)
            if self.lingers:
                return
        self._patient = self._later(pause, self._leave, pause)

    def _leave(self, pause: float) -> None:
        self._patient = None
        if not self._idle or self.suspend():
            return
        if not self._is_unsought:
            self._desk.stay()
        # Soon again, where it was to leave at once.
        pause = min(max(pause * 2, _MOMENT), max(self._patience, _MOMENT))
        self._patient = self._later(pause, self._leave, pause)

    def leave(self) -> None:
        """End the handler as soon as everything in it waits: the process is to stop."""
        self._patience = 0.0
        self._may_linger = False
        self._stay()
        if not self.suspend():
            self._rest()

    def suspend(self) -> bool:
        """End the handler, if everything in it waits; whether it does.

        Before the first look for an event it stays: if that was emitted before the wait began,
        everybody else has done with it, and if this process dies now, nobody would ever look.
        """
        if not self._idle or self._closed:
            return False
        if self._is_unsought:
            self._sentry.look(self.execution_id)
            return False
        waiting = self._futures
        joined = joints(self._known(), waiting.__contains__)
        if joined is None:
            return False
        self._stay()
        if joined.timed:
            # Its time would begin anew in each attempt.
            self.refused = RaceNotRecorded(*self._waiting)
            for future in joined.timed:
                future.set_exception(self.refused)
            return True
        self._end_all(next(iter(self._waiting)), joined, waiting)
        return True

    def _end_all(self, why: str, joined: Joints, waiting: Iterable[asyncio.Future[Any]]) -> None:
        self._stay()
        self.turns.calm()
        self.suspended_by = why
        look_at_ends(joined, self._known())
        for future in (*joined.futures, *waiting):
            if not future.done():
                future.set_exception(Suspension())
                future.exception()

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

    @property
    def _is_unsought(self) -> bool:
        """Whether there was no look for an event by now."""
        return bool(self._unsought or self._unanswered)

    @property
    def keys(self) -> list[str]:
        """What is waited for."""
        return list(self._waiting)

    @property
    def stalled(self) -> bool:
        """Whether the handler goes on only if something comes, as far as can be told.

        It is not suspended, for what its branches wait for is not known, or is known and in a step.
        """
        if self._closed or self.turns.waiting or self.suspended_by is not None:
            return False
        if self.lingers:
            return True
        if not self._only_waits or self._is_unsought:
            return False
        waiting = self._futures
        if self._busy:
            return joints(self._known(), waiting.__contains__) is not None
        return not goes_on_by_itself(self._known(), waiting.__contains__)

    def close(self) -> None:
        """The attempt has ended."""
        self._closed = True
        self._stay()
        self.order.close(Interrupted(LATE))
        self.turns.close()
        if self._inner is not None:
            self._inner.cancel()
        for wait in list(self._waiting.values()):
            self._drop(wait)
            if not wait.ended.done():
                # Of a branch that nobody awaited: it would wait for ever.
                wait.ended.set_exception(Interrupted(LATE))
                wait.ended.exception()
        self._sentry.forget(self)
