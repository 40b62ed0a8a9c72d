"""Steps on their way to the database and back: those of executions in flight share a commit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar
from uuid import UUID

from pgconductor.domain.backoff import Backoff
from pgconductor.domain.outcomes import Completed
from pgconductor.domain.sqlstates import Cause
from pgconductor.domain.steps import Decision, History, Recorded, Started, StepRecord, StepStart
from pgconductor.exceptions import OwnershipLost
from pgconductor.runtime.lanes import Lane
from pgconductor.runtime.wording import trouble
from pgconductor.services.backend import Backend
from pgconductor.services.transactions import CommitUnknown, OpenTransaction

__all__ = ["Journal"]

T = TypeVar("T")
A = TypeVar("A")

_MOST: Final = 500
#: If more of one batch are refused, and more of all, it is none of theirs.
_FEW: Final = 3
_MOST_APART: Final = 20

logger = logging.getLogger("pgconductor.journal")


class Journal:
    """Reads, begins and records steps; what gathers while one batch is under way is the next.

    A lone step is written at once. A step has happened when its row is committed, not before: only
    then whoever waits for it goes on. While the database is out of reach, they wait.

    Args:
        backend: The database.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._records: Lane[StepRecord, Recorded] = Lane(self._record, backend)
        self._starts: Lane[StepStart, Started] = Lane(self._start, backend)
        self._decisions: Lane[Decision, Recorded] = Lane(self._decide, backend)
        self._loads: Lane[UUID, History] = Lane(self._load, backend)
        self._lanes: Final = (self._records, self._starts, self._decisions, self._loads)
        self._working: asyncio.Task[None] | None = None

    async def record(self, step: StepRecord) -> Recorded:
        """Record how a step has ended.

        Args:
            step: Which one, and its result or error.

        Returns:
            What is on record: this, or an earlier one of the same key.

        Raises:
            OwnershipLost: The execution is held by somebody else by now; nothing was written.
        """
        answer = self._records.add(step)
        self._begin()
        return await answer

    async def start(self, start: StepStart) -> Started:
        """Begin a wait, invoke a child, or emit an event.

        Args:
            start: Which one.

        Raises:
            OwnershipLost: The execution is held by somebody else by now; nothing was written.
        """
        answer = self._starts.add(start)
        self._begin()
        return await answer

    async def load(self, execution_id: UUID) -> History:
        """What is on record of an execution.

        Args:
            execution_id: Which execution.
        """
        answer = self._loads.add(execution_id)
        self._begin()
        return await answer

    async def transact(
        self, key: str, work: Callable[[Any], Awaitable[StepRecord | None]]
    ) -> str | None:
        """Execute work in a session of the application's, and record it in the same commit.

        Args:
            key: The step.
            work: Gets the session, and says what to record; nothing, if it has completed the
                execution.

        Returns:
            The result that is on record as JSON text.

        Raises:
            OwnershipLost: The execution is held by somebody else by now; nothing was written.
        """
        step: StepRecord | None = None

        async def noted(session: Any) -> StepRecord | None:
            nonlocal step
            step = await work(session)
            return step

        try:
            return await self._backend.transactions.execute(key, noted)
        except CommitUnknown as unknown:
            if step is None:
                raise unknown.error from None
            return await self._decided(step, unknown)

    def open(self, key: str) -> OpenTransaction:
        """A transaction of the application's own database, not begun.

        Args:
            key: The step that it ends with.
        """
        return self._backend.transactions.open(key)

    async def commit(self, transaction: OpenTransaction, step: StepRecord | None) -> str | None:
        """Record a step in an open transaction, and commit both; without a step, only commit.

        Returns:
            The result that is on record as JSON text.

        Raises:
            OwnershipLost: The execution is held by somebody else by now; nothing was written.
        """
        try:
            return await transaction.commit(step)
        except CommitUnknown as unknown:
            if step is None:
                raise unknown.error from None
            return await self._decided(step, unknown)

    async def _decided(self, step: StepRecord, unknown: CommitUnknown) -> str | None:
        """It has happened or not, with the step: so the step tells."""
        history = await self.load(step.execution_id)
        if step.key in history.records:
            return history.records[step.key].result
        raise unknown.error from None

    async def complete_in(self, session: Any, outcome: Completed) -> bool:
        """Complete an execution in a transaction of the application's.

        Returns:
            False if it is to be cancelled instead.

        Raises:
            OwnershipLost: The execution is held by somebody else by now.
        """
        return await self._backend.complete_in(session, outcome)

    async def decide(self, decision: Decision) -> Recorded:
        """Record which of several was first, and end the waits of the others.

        Args:
            decision: Which one, and the others.

        Returns:
            What is on record.

        Raises:
            OwnershipLost: The execution is held by somebody else by now; nothing was written.
        """
        answer = self._decisions.add(decision)
        self._begin()
        return await answer

    async def cancel_child(self, child_id: UUID, parent_id: UUID, reason: str) -> None:
        """Cancel a child that is not waited for any more; while the database is out of reach, wait.

        Args:
            child_id: Which one; it may have been cancelled before.
            parent_id: Who has waited for it; what an operator has retried since, or what is of
                another execution and was only copied with the record, is left as it is.
            reason: Why; kept with the child.
        """
        backoff = Backoff()
        while True:
            try:
                await self._backend.completing.cancel(child_id, reason=reason, parent_id=parent_id)
            except Exception as error:
                if self._backend.cause(error) in {None, Cause.VALUE}:
                    raise
                logger.warning("cancelling a child is delayed, %s", trouble(error))
            else:
                return
            await asyncio.sleep(backoff.next())

    async def aclose(self) -> None:
        """End; whoever waits still is cancelled."""
        if self._working is not None:
            self._working.cancel()
            await asyncio.wait([self._working])
        for lane in self._lanes:
            lane.forget()

    def _begin(self) -> None:
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work(), name="pgconductor-journal")

    async def _work(self) -> None:
        backoff = Backoff()
        while any(self._lanes):
            try:
                for lane in self._lanes:
                    if lane:
                        await lane.send()
                backoff.reset()
            except Exception as error:
                if self._backend.is_transient(error):
                    logger.warning("steps are delayed, %s", trouble(error))
                else:
                    logger.exception("steps are delayed; they will be tried again")
                await asyncio.sleep(backoff.next())

    async def _record(self, batch: list[StepRecord]) -> Sequence[Recorded | Exception]:
        return await self._backend.steps.record_many(batch)

    async def _decide(self, batch: list[Decision]) -> Sequence[Recorded | Exception]:
        answers: list[Recorded | Exception] = []
        for one in batch:
            try:
                answers.append(await self._backend.steps.decide(one))
            except OwnershipLost as lost:
                answers.append(lost)
        return answers

    async def _start(self, batch: list[StepStart]) -> Sequence[Started | Exception]:
        answers = await self._backend.steps.start_many(batch)
        return [
            answer if answer.held else OwnershipLost(one.execution_id)
            for one, answer in zip(batch, answers, strict=True)
        ]

    async def _load(self, batch: list[UUID]) -> Sequence[History | Exception]:
        found: Mapping[UUID, History] = await self._backend.steps.histories(set(batch))
        return [found.get(one, History()) for one in batch]
