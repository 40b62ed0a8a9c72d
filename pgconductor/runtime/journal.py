"""Steps on their way to the database and back: those of executions in flight share a commit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

from pgconductor.domain.backoff import Backoff
from pgconductor.domain.outcomes import Completed
from pgconductor.domain.sqlstates import Cause
from pgconductor.domain.steps import History, Recorded, Started, StepRecord, StepStart
from pgconductor.exceptions import OwnershipLost
from pgconductor.runtime.wording import describe
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


class _Lane(Generic[T, A]):
    """Requests of one kind; what gathers while a batch is under way is the next.

    Args:
        send: Sends a batch, and returns an answer or an error for each.
        backend: Knows what an error means.
    """

    def __init__(
        self, send: Callable[[list[T]], Awaitable[Sequence[A | Exception]]], backend: Backend
    ) -> None:
        self._send = send
        self._backend = backend
        self._waiting: list[_Request[T, A]] = []
        self._apart: set[asyncio.Task[None]] = set()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, about: T) -> asyncio.Future[A]:
        """Ask; the answer comes to the future."""
        request: _Request[T, A] = _Request(about)
        self._waiting.append(request)
        return request.answer

    async def send(self) -> None:
        """Send what waits, as one batch.

        Raises:
            Exception: The database takes none of it, for now; nothing is lost.
        """
        # Whoever has gone meanwhile is left out.
        there = [one for one in self._waiting if not one.answer.done()]
        batch, self._waiting = there[:_MOST], there[_MOST:]
        try:
            if batch:
                await self._answer(batch)
        except asyncio.CancelledError:
            _forget(batch)
            raise
        except Exception as error:
            if self._backend.cause(error) is None:
                # A mistake of ours: nobody may wait for ever because of it.
                logger.exception("steps could not be recorded or read")
                _refuse(batch, error)
                return
            # What may have been written is recognised when it comes again.
            self._waiting[:0] = [one for one in batch if not one.answer.done()]
            raise

    async def _answer(self, batch: list[_Request[T, A]]) -> None:
        try:
            answers = await self._send([one.about for one in batch])
        except Exception as error:
            cause = self._backend.cause(error)
            if cause is not None and not cause.of_some:
                raise
            if len(batch) > 1:
                await self._answer_each(batch)
            elif self._keeps(batch[0], error, cause):
                self._set_apart([(batch[0], error)])
            return
        for one, answer in zip(batch, answers, strict=True):
            _give(one, answer)

    async def _answer_each(self, batch: list[_Request[T, A]]) -> None:
        """One that the database does not take must not hold up the others."""
        kept: list[tuple[_Request[T, A], Exception]] = []
        for one in batch:
            error = await self._answer_alone(one)
            if error is not None:
                kept.append((one, error))
            if len(kept) > _FEW:
                raise kept[0][1]
        self._set_apart(kept)

    async def _answer_alone(self, one: _Request[T, A]) -> Exception | None:
        """Ask for one; returns what keeps it back, if that is not its own fault.

        Raises:
            Exception: The database is out of reach.
        """
        try:
            (answer,) = await self._send([one.about])
        except Exception as error:
            cause = self._backend.cause(error)
            if cause is not None and not cause.of_some:
                raise
            return error if self._keeps(one, error, cause) else None
        _give(one, answer)
        return None

    @staticmethod
    def _keeps(one: _Request[T, A], error: Exception, cause: Cause | None) -> bool:
        """Whether one that was refused alone is tried again; else its owner is told the error."""
        if cause not in {None, Cause.VALUE}:
            return True
        if cause is None:
            logger.error("a step could not be recorded or read", exc_info=error)
        _refuse([one], error)
        return False

    def _set_apart(self, kept: list[tuple[_Request[T, A], Exception]]) -> None:
        if kept and len(self._apart) + len(kept) > _MOST_APART:
            raise kept[0][1]
        for one, error in kept:
            task = asyncio.create_task(self._ask_apart(one, error), name="pgconductor-step-apart")
            self._apart.add(task)
            task.add_done_callback(self._apart.discard)

    async def _ask_apart(self, one: _Request[T, A], error: Exception) -> None:
        """Try again with one that something keeps back which is not its own fault."""
        backoff = Backoff(0.25, 60.0)
        try:
            while not one.answer.done():
                logger.error("a step is not taken, and kept: %s", describe(error))
                await asyncio.sleep(backoff.next())
                try:
                    left = await self._answer_alone(one)
                except Exception as away:  # noqa: BLE001 - it is kept, whatever comes
                    left = away
                if left is None:
                    return
                error = left
        finally:
            one.answer.cancel()  # Where this was cancelled: nobody may wait for ever.

    def forget(self) -> None:
        """Cancel whoever waits."""
        for task in self._apart:
            task.cancel()
        _forget(self._waiting)


class Journal:
    """Reads, begins and records steps; what gathers while one batch is under way is the next.

    A lone step is written at once. A step has happened when its row is committed, not before: only
    then whoever waits for it goes on. While the database is out of reach, they wait.

    Args:
        backend: The database.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._records: _Lane[StepRecord, Recorded] = _Lane(self._record, backend)
        self._starts: _Lane[StepStart, Started] = _Lane(self._start, backend)
        self._loads: _Lane[UUID, History] = _Lane(self._load, backend)
        self._lanes: Final = (self._records, self._starts, self._loads)
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

    async def cancel_child(self, child_id: UUID, parent_id: UUID) -> None:
        """Cancel a child that has not ended in time; while the database is out of reach, wait.

        Args:
            child_id: Which one; it may have been cancelled before.
            parent_id: Who has waited for it; what an operator has retried since, or what is of
                another execution and was only copied with the record, is left as it is.
        """
        backoff = Backoff()
        while True:
            try:
                await self._backend.completing.cancel(
                    child_id, reason="it did not end in time", parent_id=parent_id
                )
            except Exception as error:
                if self._backend.cause(error) in {None, Cause.VALUE}:
                    raise
                logger.warning("cancelling a child is delayed: %s", describe(error))
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
                    logger.warning("steps are delayed: %s", describe(error))
                else:
                    logger.exception("steps are delayed; they will be tried again")
                await asyncio.sleep(backoff.next())

    async def _record(self, batch: list[StepRecord]) -> Sequence[Recorded | Exception]:
        return await self._backend.steps.record_many(batch)

    async def _start(self, batch: list[StepStart]) -> Sequence[Started | Exception]:
        answers = await self._backend.steps.start_many(batch)
        return [
            answer if answer.held else OwnershipLost(one.execution_id)
            for one, answer in zip(batch, answers, strict=True)
        ]

    async def _load(self, batch: list[UUID]) -> Sequence[History | Exception]:
        found: Mapping[UUID, History] = await self._backend.steps.histories(set(batch))
        return [found.get(one, History()) for one in batch]


def _forget(batch: list[_Request[T, A]]) -> None:
    for one in batch:
        one.answer.cancel()


def _give(one: _Request[T, A], answer: A | Exception) -> None:
    if one.answer.done():
        return
    if isinstance(answer, Exception):
        one.answer.set_exception(answer)
    else:
        one.answer.set_result(answer)


def _refuse(batch: list[_Request[T, A]], error: Exception) -> None:
    for one in batch:
        if not one.answer.done():
            one.answer.set_exception(error)
