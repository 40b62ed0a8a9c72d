"""Steps on their way to the database and back: those of executions in flight share a commit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

from pgconductor.domain.backoff import Backoff
from pgconductor.domain.steps import StepRecord
from pgconductor.exceptions import OwnershipLost
from pgconductor.runtime.wording import describe
from pgconductor.services.backend import Backend
from pgconductor.services.transactions import CommitUnknown

__all__ = ["Journal"]

T = TypeVar("T")
A = TypeVar("A")

_MOST: Final = 500

logger = logging.getLogger("pgconductor.journal")


@dataclass(slots=True, eq=False)
class _Request(Generic[T, A]):
    """What somebody waits for.

    Attributes:
        about: What it is about.
        answer: Where the answer goes.
    """

    about: T
    answer: asyncio.Future[A] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Journal:
    """Reads and records steps; what gathers while one batch is under way is the next.

    A lone step is written at once. A step has happened when its row is committed, not before: only
    then whoever waits for it goes on. While the database is out of reach, they wait.

    Args:
        backend: The database.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._records: list[_Request[StepRecord, str | None]] = []
        self._loads: list[_Request[UUID, Mapping[str, str | None]]] = []
        self._working: asyncio.Task[None] | None = None

    async def record(self, step: StepRecord) -> str | None:
        """Record a step.

        Args:
            step: Which one, and its result.

        Returns:
            The result that is on record as JSON text: this one, or an earlier one of the same key.

        Raises:
            OwnershipLost: The execution is held by somebody else by now; nothing was written.
        """
        request: _Request[StepRecord, str | None] = _Request(step)
        self._records.append(request)
        self._start()
        return await request.answer

    async def load(self, execution_id: UUID) -> Mapping[str, str | None]:
        """The recorded results of an execution as JSON text, by key.

        Args:
            execution_id: Which execution.
        """
        request: _Request[UUID, Mapping[str, str | None]] = _Request(execution_id)
        self._loads.append(request)
        self._start()
        return await request.answer

    async def transact(self, work: Callable[[Any], Awaitable[StepRecord]]) -> str | None:
        """Execute work in a session of the application's, and record it in the same commit.

        Args:
            work: Gets the session, and says what to record.

        Returns:
            The result that is on record as JSON text.

        Raises:
            OwnershipLost: The execution is held by somebody else by now; nothing was written.
        """
        step: StepRecord | None = None

        async def noted(session: Any) -> StepRecord:
            nonlocal step
            step = await work(session)
            return step

        try:
            return await self._backend.transactions.execute(noted)
        except CommitUnknown as unknown:
            # It has happened or not, with the step: so the step tells.
            if step is not None:
                recorded = await self.load(step.execution_id)
                if step.key in recorded:
                    return recorded[step.key]
            raise unknown.error from None

    async def aclose(self) -> None:
        """End; whoever waits still is cancelled."""
        if self._working is not None:
            self._working.cancel()
            await asyncio.wait([self._working])
        _forget(self._records)
        _forget(self._loads)

    def _start(self) -> None:
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work(), name="pgconductor-journal")

    async def _work(self) -> None:
        backoff = Backoff()
        while self._records or self._loads:
            records, self._records = _next(self._records)
            loads, self._loads = _next(self._loads)
            try:
                if records:
                    await self._record(records)
                if loads:
                    await self._load(loads)
                backoff.reset()
            except asyncio.CancelledError:
                _forget(records)
                _forget(loads)
                raise
            except Exception as error:
                if not self._backend.is_lost(error):
                    # A mistake of ours: nobody may wait for ever because of it.
                    logger.exception("steps could not be recorded or read")
                    _refuse(records, error)
                    _refuse(loads, error)
                    continue
                # Nothing is lost: what may have been written is recognised when it comes again.
                self._records[:0], self._loads[:0] = records, loads
                logger.warning("steps are delayed, no database: %s", describe(error))
                await asyncio.sleep(backoff.next())

    async def _record(self, batch: list[_Request[StepRecord, str | None]]) -> None:
        try:
            answers = await self._backend.steps.record_many([one.about for one in batch])
        except Exception as error:
            if self._backend.is_lost(error):
                raise
            if len(batch) == 1:
                _refuse(batch, error)
                return
            # One that the database cannot store must not hold up the others.
            for one in batch:
                await self._record([one])
            return
        for one, answer in zip(batch, answers, strict=True):
            if one.answer.done():
                continue
            if isinstance(answer, OwnershipLost):
                one.answer.set_exception(answer)
            else:
                one.answer.set_result(answer)

    async def _load(self, batch: list[_Request[UUID, Mapping[str, str | None]]]) -> None:
        try:
            found = await self._backend.steps.results_of({one.about for one in batch})
        except Exception as error:
            if self._backend.is_lost(error):
                raise
            _refuse(batch, error)
            return
        for one in batch:
            if not one.answer.done():
                one.answer.set_result(found.get(one.about, {}))


def _forget(batch: list[_Request[T, A]]) -> None:
    for one in batch:
        one.answer.cancel()


def _refuse(batch: list[_Request[T, A]], error: Exception) -> None:
    for one in batch:
        if not one.answer.done():
            one.answer.set_exception(error)


def _next(waiting: list[_Request[T, A]]) -> tuple[list[_Request[T, A]], list[_Request[T, A]]]:
    """A batch, and what is left; whoever has gone meanwhile is left out."""
    there = [one for one in waiting if not one.answer.done()]
    return there[:_MOST], there[_MOST:]
