"""Whichever of several comes first: decided once, and on record."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from typing import Any, Final, cast

from pgconductor.domain.payloads import encode
from pgconductor.domain.steps import Decision, Recorded, StepKind, StepRecord
from pgconductor.exceptions import ChildError, InvalidInput, StepFailed, WaitTimeout
from pgconductor.runtime.codec import Codec
from pgconductor.runtime.decoding import decoded
from pgconductor.runtime.order import Place
from pgconductor.runtime.record import Record
from pgconductor.runtime.scopes import Scope
from pgconductor.runtime.suspension import Ending, consists_of
from pgconductor.runtime.waits import Waits
from pgconductor.types import First

__all__ = ["Races"]

#: Errors that are on record.
_RECORDED: Final = (StepFailed, ChildError, WaitTimeout)
_LOST: Final = "another was first"
_PLAIN: Final = Codec()
_MOST_BYTES: Final = 8_388_608


class _Contender:
    """One of those that race.

    Args:
        given: What was given: a task or a future is the handler's own, and left to it.
    """

    def __init__(self, given: Awaitable[Any]) -> None:
        self.scope: Scope | None = None
        self.task: asyncio.Future[Any] | None = None
        self._given = given

    def start(self) -> asyncio.Future[Any]:
        """Have it race."""
        if asyncio.isfuture(self._given):
            self.task = self._given
        else:
            self.scope = Scope()
            loop = asyncio.get_running_loop()
            self.task = loop.create_task(_awaited(self._given), context=self.scope.context())
            # It may be cancelled before it has begun.
            self.task.add_done_callback(lambda _: self.close())
        return self.task

    def close(self) -> None:
        """If it has not begun, it does not any more."""
        _close(self._given)


class Races:
    """The races of one attempt.

    Args:
        record: The execution's record.
        waits: What the attempt waits for.
    """

    def __init__(self, record: Record, waits: Waits) -> None:
        self._record = record
        self._waits = waits

    async def first(self, key: str, given: Sequence[Awaitable[Any]]) -> First[int, Any]:
        """Which of several is first; the others end with it."""
        contenders = [_Contender(one) for one in given]
        try:
            _check(given)
            began = time.monotonic()
            with self._waits.at_work():
                # What it waited for comes before it; so its turn does not come here.
                place, found = await self._record.begin(key, StepKind.FIRST, in_turn=False)
            if found is not None:
                return await self._again(contenders, found)
            tasks = [one.start() for one in contenders]
        except BaseException:
            for one in contenders:
                one.close()
            raise
        await self._until_one_is_done(contenders, tasks)
        return await self._decide(key, (place, began), contenders)

    async def _again(self, contenders: list[_Contender], found: Recorded) -> First[int, Any]:
        """What is on record: the others are not called any more."""
        known = decoded(self._record, _PLAIN, found)
        index: int = known["first"]
        if index >= len(contenders):
            raise self._record.mismatch(
                f"first {found.key!r} with contender {index}", f"{len(contenders)} contenders"
            )
        for one in contenders:
            if one is not contenders[index]:
                one.close()
        self._record.pass_by(known["lost"])
        winner = contenders[index].start()
        await self._until_one_is_done(contenders, [winner])
        with self._waits.at_work():
            await self._waits.order.asked(found)
        if not self._record.followed(found):
            await self._cancel(known["children"])
        return First(index, winner.result())

    async def _until_one_is_done(
        self, contenders: list[_Contender], tasks: list[asyncio.Future[Any]]
    ) -> None:
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        except Ending:
            # All that waits is ended by the same.
            raise
        except BaseException:
            await _end(contenders)
            raise

    async def _decide(
        self, key: str, at: tuple[int | None, float], contenders: list[_Contender]
    ) -> First[int, Any]:
        # From here on nothing else is told: what the others wait for is not theirs any more.
        turn = self._waits.order.reserve()
        try:
            index = next(i for i, one in enumerate(contenders) if one.task and one.task.done())
            others = [one for one in contenders if one is not contenders[index]]
            winner = contenders[index].task
            error = _error_of(winner)
            if error is not None and not consists_of(error, _RECORDED):
                # A later attempt may see another one win.
                self._waits.order.drop(turn)
                self._record.astray()
                if not isinstance(error, Ending):
                    await _end(others)
                raise error
            with self._waits.at_work():
                children = await self._record_first(key, at, index, contenders, turn)
            await _end(others)
            await self._cancel(children)
        finally:
            self._waits.order.drop(turn)
        self._waits.look()
        return First(index, winner.result() if winner is not None else None)

    async def _record_first(
        self,
        key: str,
        at: tuple[int | None, float],
        index: int,
        contenders: list[_Contender],
        turn: Place,
    ) -> list[str]:
        """Record it, and end what the others wait for; the children that are to be cancelled."""
        others = [one for one in contenders if one is not contenders[index]]
        for one in others:
            if one.scope is not None:
                await one.scope.lose()
        keys = _begun(others)
        lost, children = self._waits.lose(keys)
        lost += [one for one in keys if one in self._record.untold]
        known = {"first": index, "lost": keys, "children": children}
        fetched = self._record.fetched
        step = StepRecord(
            *(fetched.id, fetched.claim, key),
            encode(known, max_bytes=_MOST_BYTES, field="first"),
            kind=StepKind.FIRST,
            place=at[0],
            began=at[1],
        )
        with self._record.unbroken():
            await self._record.memory.decide(
                Decision(
                    replace(step, woke=turn.woke, turn=turn.number),
                    lost=tuple(lost),
                    begun=tuple(_begun(contenders)),
                )
            )
        self._record.pass_by(keys)
        await self._waits.order.happened(turn)
        self._waits.end_lost(lost)
        return children

    async def _cancel(self, children: list[str]) -> None:
        """Cancel children that nobody waits for any more."""
        with self._waits.at_work():
            for key in children:
                record = self._record
                child = record.children.get(key) or (await record.history()).records.get(key)
                if child is not None and child.child_id is not None:
                    await record.memory.cancel_child(child.child_id, record.fetched.id, _LOST)


def _begun(contenders: Sequence[_Contender]) -> list[str]:
    """The keys of all that was begun for these."""
    return sorted({key for one in contenders if one.scope is not None for key in one.scope.keys})


def _check(given: Sequence[Awaitable[Any]]) -> None:
    """See that these can race.

    Raises:
        InvalidInput: They cannot.
    """
    if not given:
        raise InvalidInput("contenders", "there is none: give what is to race")
    for one in given:
        if not inspect.isawaitable(one):
            raise InvalidInput(
                "contenders", f"{one!r} cannot be awaited: give for instance ctx.sleep(...)"
            )
    if len({id(one) for one in given}) < len(given):
        raise InvalidInput("contenders", "one of them is there twice")


def _close(given: object) -> None:
    """Close a coroutine that was not begun, with those that it was given, as an inner race has."""
    if not inspect.iscoroutine(given):
        return
    if inspect.getcoroutinestate(given) == inspect.CORO_CREATED and given.cr_frame is not None:
        for value in given.cr_frame.f_locals.values():
            several = isinstance(value, (tuple, list))
            for one in cast("Sequence[object]", value) if several else (value,):
                _close(one)
        given.close()


async def _awaited(given: Awaitable[Any]) -> Any:
    return await given


def _error_of(task: asyncio.Future[Any] | None) -> BaseException | None:
    if task is None:
        return None
    return asyncio.CancelledError() if task.cancelled() else task.exception()


async def _end(contenders: Sequence[_Contender]) -> None:
    """End those that are not the handler's own, and wait until they have."""
    tasks = [one.task for one in contenders if one.scope is not None and one.task is not None]
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # Nobody looks at it: it was not first.
