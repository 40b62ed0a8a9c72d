"""What one attempt of a rehearsal records, with the boundaries at which its process may die."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeVar
from uuid import UUID

from pgconductor.domain.outcomes import Completed
from pgconductor.domain.steps import Decision, History, Recorded, Started, StepRecord, StepStart
from pgconductor.exceptions import OwnershipLost
from pgconductor.services.transactions import OpenTransaction
from pgconductor.testing.boundaries import Boundary, Crashes, When
from pgconductor.testing.stages import Stage

__all__ = ["RehearsedMemory"]

T = TypeVar("T")


class RehearsedMemory:
    """Implements :class:`~pgconductor.runtime.memory.Memory` for one attempt.

    After a crash nothing is written any more, and whoever wants to is never answered.

    Args:
        stage: Where it is recorded.
        task: The task's name.
        crashes: Where the process dies.
    """

    def __init__(self, stage: Stage, task: str, crashes: Crashes) -> None:
        self.crashed = asyncio.Event()
        #: Those that wait for an answer for ever.
        self.frozen: set[asyncio.Task[Any]] = set()
        self._awake = asyncio.Event()
        self._awake.set()
        self._stage = stage
        self._task = task
        self._crashes = crashes

    def rest(self, *, resting: bool) -> None:
        """Keep a handler that stays in memory from going on while others are executed."""
        if resting:
            self._awake.clear()
        else:
            self._awake.set()

    async def meet(self, step: str | None, when: When) -> None:
        """Be at a boundary, and never come back from it if the process dies there."""
        await self._awake.wait()
        if self.dies(step, when):
            await self._freeze()

    def dies(self, step: str | None, when: When) -> bool:
        """Whether the process is dead behind a boundary."""
        if not self.crashed.is_set() and self._crashes.strikes(Boundary(self._task, step, when)):
            self.crashed.set()
        return self.crashed.is_set()

    async def _freeze(self) -> NoReturn:
        task = asyncio.current_task()
        if task is not None:
            self.frozen.add(task)
        await asyncio.get_running_loop().create_future()
        raise AssertionError("nobody sets it")

    async def _across(self, step: str | None, write: Callable[[], Awaitable[T]]) -> T:
        await self.meet(step, "before")
        answer = await write()
        await self.meet(step, "after")
        return answer

    async def record(self, step: StepRecord) -> Recorded:
        """See the protocol."""

        async def write() -> Recorded:
            (answer,) = await self._stage.steps.record_many([step])
            if isinstance(answer, Exception):
                raise answer
            return answer

        return await self._across(step.key, write)

    async def start(self, start: StepStart) -> Started:
        """See the protocol."""

        async def write() -> Started:
            (answer,) = await self._stage.steps.start_many([start])
            if not answer.held:
                raise OwnershipLost(start.execution_id)
            return answer

        return await self._across(start.key, write)

    async def load(self, execution_id: UUID) -> History:
        """See the protocol."""
        await self._awake.wait()
        found = await self._stage.steps.histories({execution_id})
        return found.get(execution_id, History())

    async def transact(
        self, key: str, work: Callable[[Any], Awaitable[StepRecord | None]]
    ) -> str | None:
        """See the protocol."""
        recorded: str | None = None

        async def noted(session: Any) -> StepRecord | None:
            nonlocal recorded
            step = await work(session)
            recorded = step.key if step is not None else None
            await self.meet(recorded, "before")
            return step

        await self._awake.wait()
        text = await self._stage.transactions.execute(key, noted)
        await self.meet(recorded, "after")
        return text

    def open(self, key: str) -> OpenTransaction:
        """See the protocol."""
        return self._stage.transactions.open(key)

    async def commit(self, transaction: OpenTransaction, step: StepRecord | None) -> str | None:
        """See the protocol."""
        key = step.key if step is not None else None
        try:
            await self.meet(key, "before")
        except BaseException:
            await transaction.roll_back()
            raise
        text = await transaction.commit(step)
        await self.meet(key, "after")
        return text

    async def complete_in(self, session: Any, outcome: Completed) -> bool:
        """See the protocol."""
        return await self._stage.complete_in(session, outcome)

    async def decide(self, decision: Decision) -> Recorded:
        """See the protocol."""
        return await self._across(decision.step.key, lambda: self._stage.steps.decide(decision))

    async def cancel_child(self, child_id: UUID, parent_id: UUID, reason: str) -> None:
        """See the protocol."""
        if self.crashed.is_set():
            await self._freeze()
        await self._stage.executions.cancel(child_id, reason=reason, parent_id=parent_id)
