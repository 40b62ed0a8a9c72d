"""What an attempt waits for while it is in memory, and when it is suspended."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final
from uuid import UUID

from pgconductor.domain.steps import StepKind
from pgconductor.exceptions import RaceNotRecorded
from pgconductor.runtime.branches import Joints, goes_on_by_itself, joints, look_at_ends
from pgconductor.runtime.reasons import LATE
from pgconductor.runtime.suspension import Interrupted, Suspension
from pgconductor.runtime.told import Told

__all__ = ["Waits"]

#: Seconds that other branches have to go on, before a handler that waits for long is suspended.
_MOMENT: Final = 0.01
#: Seconds after which steps at work are looked at, whether they only wait.
_SOON: Final = 0.05
#: Seconds for each step on record, and at most, that a handler that was replayed stays in memory
#: for what else may come: another replay would go through all of them again.
_LINGER: Final = 0.1
_LONGEST_LINGER: Final = 60.0


class Waits(Told):
    """The waits of one attempt; see :class:`Told`.

    While nothing but waits is left of it, it takes up no slot. If nothing comes for a while,
    everything that waits is ended by :class:`Suspension`, and so the handler.
    """

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

    def _watch(self, child_id: UUID | None) -> None:
        self._sentry.watch(self, child_id)

    def _forget(self) -> None:
        self._sentry.forget(self)

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
        self._forget()
