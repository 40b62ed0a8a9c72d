"""The handlers that do what a program says, and what they leave in the database and in memory."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from pgconductor import Conductor, RetryPolicy, Task, TaskContext
from pgconductor.exceptions import (
    ChildCancelled,
    ChildFailed,
    DoNotRetry,
    StepFailed,
    WaitTimeout,
)
from tests.faults.programs import BELL, MAX_ATTEMPTS, Op, Program, Report
from tests.faults.programs_model import MAX_CRASHES

__all__ = ["Notes", "declare"]

#: Nothing but a jump of the clock makes the next attempt of a sturdy task due.
_RETRIES: Final = {
    "sturdy": RetryPolicy.constant(timedelta(minutes=1)),
    "frail": RetryPolicy.constant(timedelta(microseconds=1)),
    "once": RetryPolicy.constant(timedelta(microseconds=1)),
}
_TRIES: Final = (
    RetryPolicy.constant(timedelta(microseconds=1)),
    RetryPolicy.constant(timedelta(minutes=1)),
)


class Flop(Exception):
    """A drill."""


@dataclass
class Notes:
    """What handlers share with the machine, across all processes that they die with.

    Attributes:
        gate: While it is closed, functions of steps stand before it.
        standing: The executions whose functions do.
        told: What handlers were told, by execution and key.
        faults: What they should not have been told.
        calls: Counts what has happened in memory.
    """

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    standing: dict[UUID, int] = field(default_factory=dict[UUID, int])
    told: dict[tuple[UUID, str], Any] = field(default_factory=dict[tuple[UUID, str], Any])
    faults: list[str] = field(default_factory=list[str])
    calls: int = 0
    _tokens: itertools.count[int] = field(default_factory=itertools.count)
    _tried: dict[tuple[UUID, str], int] = field(default_factory=dict[tuple[UUID, str], int])

    async def token(self, execution_id: UUID, key: str, fresh: Callable[[], bool]) -> int:
        """Something new, whenever it is called: only a record can say the same again.

        Args:
            execution_id: Whose step it is.
            key: Which one.
            fresh: Whether it may be called at all now, if it was on record before.
        """
        self.calls += 1
        if not fresh() and (execution_id, key) in self.told:
            self.faults.append(f"{key} of {execution_id} is on record, and is called again")
        if not self.gate.is_set():
            self.standing[execution_id] = self.standing.get(execution_id, 0) + 1
            try:
                await self.gate.wait()
            finally:
                self.standing[execution_id] -= 1
        return next(self._tokens)

    async def shaky(
        self, execution_id: UUID, key: str, fresh: Callable[[], bool], failures: int
    ) -> int:
        """Fails as often as it is to, counted over all processes."""
        one = execution_id, key
        self._tried[one] = self._tried.get(one, 0) + 1
        if self._tried[one] <= failures:
            raise Flop("not yet")
        return await self.token(execution_id, key, fresh)

    def tell(self, execution_id: UUID, key: str, value: Any) -> Any:
        """A handler was told something: it must have been told the same before."""
        self.calls += 1
        known = self.told.setdefault((execution_id, key), value)
        if known != value:
            self.faults.append(f"{execution_id} was told {known!r} at {key}, then {value!r}")
        return value

    def forget(self, execution_id: UUID) -> dict[str, Any]:
        """What it was told, by key, and forgotten here: an operator may drop it."""
        known = [key for one, key in self.told if one == execution_id]
        return {key: self.told.pop((execution_id, key)) for key in known}


async def _hopeless() -> None:
    raise Flop("never")


@dataclass
class _Performer:
    """One attempt of a handler."""

    ctx: TaskContext
    notes: Notes
    tasks: dict[str, Task[Program, Report]]
    evicted: Callable[[], bool]

    def _called(self, key: str) -> tuple[UUID, str, Callable[[], bool]]:
        """What a function of a step is called with: who was evicted does not know the record.

        That may happen while the call waits for its time, or for a slot.
        """
        return self.ctx.execution_id, key, self.evicted

    async def perform(self, program: Program) -> Report:
        self.notes.calls += 1
        values = [await self._done(str(i), op) for i, op in enumerate(program.ops)]
        report = Report(values=values)
        if program.closing:
            async with self.ctx.transaction("end") as session:
                await self._write(session, "end")
                await self.ctx.complete_in(session, report)
        return report

    async def _done(self, key: str, op: Op) -> Any:
        if op.kind == "gather":
            branches = [self._done(f"{key}.{i}", one) for i, one in enumerate(op.branches)]
            found = await asyncio.gather(*branches, return_exceptions=True)
            raised = [one for one in found if isinstance(one, BaseException)]
            # What ends the attempt from outside goes before what a branch was told.
            for one in sorted(raised, key=lambda it: isinstance(it, Exception)):
                raise one
            return found
        does: Callable[[str, Op], Coroutine[Any, Any, Any]] = getattr(self, f"_{op.kind}")
        try:
            value = await does(key, op)
        except ChildFailed as error:
            value = self._caught(op, error, "ChildFailed", error.error_type)
        except ChildCancelled as error:
            value = self._caught(op, error, "ChildCancelled")
        except WaitTimeout as error:
            value = self._caught(op, error, "WaitTimeout")
        except StepFailed as error:
            value = self._caught(op, error, "hopeless")
        if self.evicted():
            # It was told what it had read before; an operator may have dropped that since.
            return value
        return self.notes.tell(self.ctx.execution_id, key, value)

    @staticmethod
    def _caught(op: Op, error: Exception, *told: str) -> list[str]:
        if op.strict:
            raise error
        return list(told)

    async def _step(self, key: str, _: Op) -> Any:
        return await self.ctx.step(key, self.notes.token, *self._called(key))

    async def _shaky(self, key: str, op: Op) -> Any:
        failures = op.number or 0
        stepper = self.ctx.options(max_attempts=MAX_ATTEMPTS, retry=_TRIES[failures % 2])
        return await stepper.step(key, self.notes.shaky, *self._called(key), failures)

    async def _hopeless(self, key: str, op: Op) -> Any:
        stepper = self.ctx.options(max_attempts=2, retry=_TRIES[op.strict])
        await stepper.step(key, _hopeless)

    async def _write(self, session: AsyncSession, key: str) -> int:
        token = await self.notes.token(*self._called(key))
        wanted = {"id": self.ctx.execution_id, "key": key, "token": token}
        await session.execute(text("INSERT INTO effects VALUES (:id, :key, :token)"), wanted)
        return token

    async def _transact(self, key: str, _: Op) -> Any:
        return await self.ctx.transact(key, self._write, key)

    async def _block(self, key: str, _: Op) -> Any:
        block = self.ctx.transaction(key, int)
        async with block as session:
            # The block ends at the first use of the session, in an attempt that repeats it.
            await session.execute(text("SELECT 1"))
            block.result = await self._write(session, key)
        return block.result

    async def _sleep(self, key: str, op: Op) -> Any:
        await self.ctx.sleep(key, timedelta(seconds=op.seconds or 0.0))

    async def _child(self, key: str, op: Op) -> Any:
        task, program = self.tasks[op.task], op.program
        assert program is not None
        report = await self.ctx.invoke(key, task, program, timeout=op.timeout)
        return ["done", report.values]

    async def _spawn(self, key: str, op: Op) -> Any:
        return str(await self.ctx.spawn(key, self.tasks[op.task], op.program))

    async def _wait(self, key: str, op: Op) -> Any:
        match = None if op.number is None else {"number": op.number}
        return await self.ctx.wait_for(key, BELL, match=match, timeout=op.timeout)

    async def _emit(self, key: str, op: Op) -> Any:
        payload = {"number": op.number, "by": str(self.ctx.execution_id), "key": key}
        await self.ctx.emit(BELL, payload, key=key)

    async def _patched(self, key: str, _: Op) -> Any:
        return await self.ctx.patched(key)

    async def _fail(self, _: str, op: Op) -> Any:
        if op.number == 0:
            raise DoNotRetry("a drill")
        if self.ctx.attempt <= (op.number or 0):
            raise Flop("a drill")


def declare(
    conductor: Conductor, notes: Notes, evicted: Callable[[], bool]
) -> dict[str, Task[Program, Report]]:
    """The tasks, by how many crashes they bear.

    Args:
        conductor: Theirs.
        notes: What is shared.
        evicted: Whether the orchestrator that performs them holds nothing any more.
    """
    tasks: dict[str, Task[Program, Report]] = {}

    async def perform(ctx: TaskContext, program: Program) -> Report:
        return await _Performer(ctx, notes, tasks, evicted).perform(program)

    for name, crashes in MAX_CRASHES.items():
        tasks[name] = conductor.task(
            name, max_attempts=MAX_ATTEMPTS, max_crashes=crashes, retry=_RETRIES[name]
        )(perform)
    return tasks
