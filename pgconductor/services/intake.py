"""Invokes in transactions of their own, gathered while one is under way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from pgconductor.domain.invocations import Invocation, Invoked
from pgconductor.domain.limits import MAX_BATCH
from pgconductor.domain.sqlstates import Cause
from pgconductor.exceptions import InvalidInput
from pgconductor.repositories.errors import as_sqlalchemy, cause, is_lost, is_queue_full
from pgconductor.services.crier import Crier
from pgconductor.services.pinned import PinnedUnitOfWork, sibling_engine
from pgconductor.services.unit_of_work import UnitOfWork

__all__ = ["Intake"]

#: What may be about some of a batch only: one of them is at fault, the others must not pay for it.
_OF_SOME: Final = frozenset({Cause.VALUE, Cause.RULE, Cause.SLOW, Cause.LOCKED})
#: More than these in one call go another way, so that nobody waits behind them.
_FEW: Final = 20
_MOST_GATHERED: Final = 1_000
_MOST_BYTES: Final = 4 * 1024 * 1024


@dataclass(slots=True, eq=False)
class _Request:
    invocations: Sequence[Invocation]
    answer: asyncio.Future[list[Invoked]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    @property
    def size(self) -> int:
        return sum(len(one.payload or "") for one in self.invocations)


class _Lane:
    """One kept connection: what arrives while a statement is under way goes into the next one.

    Args:
        work: The connection.
        crier: Who says when a statement is to wake workers.
    """

    def __init__(self, work: UnitOfWork, crier: Crier) -> None:
        self._work = work
        self._crier = crier
        self._waiting: list[_Request] = []
        self._busy = False
        self._ended: asyncio.Future[None] | None = None
        self._writing: asyncio.Task[None] | None = None

    async def write(self, invocations: Sequence[Invocation]) -> list[Invoked]:
        if self._busy:
            request = _Request(invocations)
            self._waiting.append(request)
            return await request.answer
        # Nobody else is there: the caller's own task does it, for another one costs more.
        self._busy = True
        try:
            return await self._add(invocations)
        except Exception as error:
            known = as_sqlalchemy(error)
            if known is error:
                raise
            raise known from error
        finally:
            if self._waiting:
                self._writing = asyncio.create_task(self._write(), name="pgconductor-invoke")
            else:
                self._end()

    async def ended(self) -> None:
        """Wait until nothing is under way."""
        while self._busy:
            self._ended = asyncio.get_running_loop().create_future()
            await self._ended

    def _end(self) -> None:
        self._busy = False
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    async def _write(self) -> None:
        try:
            while batch := self._next():
                try:
                    await self._settle(batch)
                finally:
                    for one in batch:
                        one.answer.cancel()  # Where this was cancelled: nobody may wait for ever.
        finally:
            for one in self._waiting:
                one.answer.cancel()
            self._waiting.clear()
            self._end()

    def _next(self) -> list[_Request]:
        """Requests of one kind, for one statement; whoever has gone meanwhile is left out."""
        waiting = [one for one in self._waiting if not one.answer.done()]
        batch: list[_Request] = []
        number = size = 0
        for one in waiting:
            number += len(one.invocations)
            size += one.size
            full = number > _MOST_GATHERED or size > _MOST_BYTES
            if batch and (full or not _alike(batch[0], one)):
                break
            batch.append(one)
        self._waiting = waiting[len(batch) :]
        return batch

    async def _settle(self, batch: Sequence[_Request]) -> None:
        try:
            invoked = await self._add([it for one in batch for it in one.invocations])
        except Exception as error:  # noqa: BLE001 - it is the callers', whatever it is
            if len(batch) > 1 and (cause(error) in _OF_SOME or isinstance(error, InvalidInput)):
                for one in batch:
                    await self._settle([one])
                return
            for one in batch:
                if not one.answer.done():
                    one.answer.set_exception(_own(error))
            return
        answers = iter(invoked)
        for one in batch:
            mine = [next(answers) for _ in one.invocations]
            if not one.answer.done():
                one.answer.set_result(mine)

    async def _add(self, invocations: Sequence[Invocation]) -> list[Invoked]:
        try:
            return await self._send(invocations)
        except TimeoutError:
            raise
        except Exception as error:
            if not is_lost(error):
                raise
            if is_queue_full(error):
                # Nothing was written. Workers find it at their next poll.
                return await self._send(invocations, silently=True)
        # The kept connection may have died long ago, so once more on another one. What was sent may
        # have been written all the same, or be so just now; the ids tell.
        for tries_left in (1, 0):
            async with self._work.begin() as repositories:
                there = await repositories.executions.which_exist([one.id for one in invocations])
            left = [one for one in invocations if one.id not in there]
            try:
                if left:
                    await self._send(left)
                break
            except InvalidInput:
                if not tries_left:
                    raise
        return [Invoked(one.id, True) for one in invocations]

    async def _send(
        self, invocations: Sequence[Invocation], *, silently: bool = False
    ) -> list[Invoked]:
        queue = invocations[0].queue
        # A mixture is written by a statement that announces, unless the queue is nearly full.
        announce = not silently and self._crier.may_cry(queue)
        try:
            async with self._work.begin() as repositories:
                invoked = await repositories.executions.add_many(invocations, announce=announce)
        except BaseException:
            if announce:
                self._crier.cry_later(queue)  # What this was to announce as well.
            raise
        if not announce:
            self._crier.cry_later(queue)
        return invoked


def _own(error: Exception) -> Exception:
    """What a caller is to be told; of the driver's errors, each caller gets one of its own."""
    known = as_sqlalchemy(error)
    if known is not error:
        known.__cause__ = error
    return known


def _alike(one: _Request, other: _Request) -> bool:
    kind = one.invocations[0].kind
    return all(it.kind == kind for each in (one, other) for it in each.invocations)


class Intake:
    """Writes invocations without dedupe keys, each call committed when it returns.

    A pool would cost more than the statement: a look whether the connection is alive, and a reset
    of it afterwards. So a connection is kept, apart from the engine's pool, and another for large
    calls. Callers that invoke the same task at the same time share statement and commit, and a
    notification stands for those of a few milliseconds.

    It belongs to the event loop in which it was made.

    Args:
        engine: Whose address is used; its pool is left alone.
        timeout: How long one statement may take.
    """

    def __init__(self, engine: AsyncEngine, *, timeout: timedelta) -> None:
        self.loop: Final = asyncio.get_running_loop()
        self._engine = sibling_engine(engine)
        self._works = [
            PinnedUnitOfWork(self._engine, timeout=timeout, role="invoke") for _ in range(2)
        ]
        self._crier = Crier(self._works[0])
        self._few, self._many = (_Lane(work, self._crier) for work in self._works)

    @staticmethod
    def takes(invocations: Sequence[Invocation]) -> bool:
        """Whether they can be written here: none that may wait for another transaction."""
        return 0 < len(invocations) <= MAX_BATCH and all(
            one.dedupe_key is None for one in invocations
        )

    async def write(self, invocations: Sequence[Invocation]) -> list[Invoked]:
        """Write invocations and commit.

        Args:
            invocations: At most 10,000, none with a dedupe key.

        Returns:
            As many, in the same order.

        Raises:
            InvalidInput: The id of one is used already.
            SchemaMissing: The database has no pgconductor schema.
        """
        lane = self._few if len(invocations) <= _FEW else self._many
        return await lane.write(invocations)

    async def aclose(self) -> None:
        """Give the connections up, when what was asked for has been written."""
        for lane in (self._few, self._many):
            await lane.ended()
        await self._crier.aclose()
        for work in self._works:
            await work.aclose()
        await self._engine.dispose()
