"""The engine itself fails around a handler: that is an attempt, it is told, and others go on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import SecretStr

from pgconductor import Conductor, RetryPolicy, Settings, TaskContext
from pgconductor.domain.claims import Claim, Fetched
from pgconductor.domain.migrations import StartupPolicy
from pgconductor.domain.outcomes import Failure
from pgconductor.domain.steps import History
from pgconductor.runtime import attempt, machine, waits, worker
from pgconductor.runtime.attempt import Attempt, Runnable
from pgconductor.runtime.completer import Completer
from pgconductor.runtime.gate import StartGate
from pgconductor.runtime.mishaps import mishap
from pgconductor.runtime.orchestrator import ExitReason, Orchestrator
from pgconductor.runtime.waits import Waits
from pgconductor.services.executions import ExecutionService
from pgconductor.services.steps import StepService
from pgconductor.testing import FakeDatabase
from pgconductor.types import ExecutionState
from tests.support.memory_backend import RealClock, memory_backend

Break = Callable[[pytest.MonkeyPatch, UUID], None]


class Bug(Exception):
    """A mistake of the engine's."""


class Unruly(RetryPolicy):
    def delay(self, attempt: int, rng: object = None) -> timedelta:
        raise Bug("delay")


class World:
    """A victim, around which the engine fails, and others of the same worker."""

    def __init__(self, max_attempts: int = 2) -> None:
        self.database = FakeDatabase(RealClock())
        self.conductor = Conductor(
            Settings(
                database_url=SecretStr("postgresql://nowhere/nothing"),
                poll_interval=timedelta(seconds=0.05),
                sweep_interval=timedelta(seconds=0.05),
                startup_policy=StartupPolicy.REFUSE,
            )
        )

        @self.conductor.task(max_attempts=max_attempts)
        async def victim(ctx: TaskContext, how: str) -> str:
            return await self._suffer(ctx, how)

        @self.conductor.task
        async def other(ctx: TaskContext) -> int:
            return await ctx.step("one", int)

        self.victim, self.other = victim, other

    async def _suffer(self, ctx: TaskContext, how: str) -> str:
        match how:
            case "raises":
                raise ValueError("the handler's own")
            case "steps":
                await ctx.step("one", int)
            case "waits":
                await ctx.wait_for("event", "nothing")
            case "gets":
                await ctx.emit("something")
                await ctx.wait_for("event", "something")
            case "sleeps":
                await asyncio.sleep(0.001)
            case _:
                pass
        return "done"

    async def drain(self, how: str, broken: Break) -> tuple[Any, list[Any]]:
        """Execute all that is due; the victim, and the others."""
        backend = memory_backend(self.database, lambda: None)
        invocations = [self.victim.invocation(how), *(self.other.invocation() for _ in range(5))]
        first, *rest = await backend.completing.invoke_many(invocations)
        tasks = self.conductor.tasks
        orchestrator = Orchestrator(
            lambda: backend,
            self.conductor.settings,
            {name: Runnable(task.options, task.handler) for name, task in tasks.items()},
            queues=["default"],
            concurrency=2,
        )
        with pytest.MonkeyPatch.context() as patch:
            broken(patch, first.id)
            assert await orchestrator.drain() is ExitReason.CLEAN
        rows = self.database.executions
        return rows[first.id], [rows[one.id] for one in rest]


@pytest.fixture
def world() -> World:
    return World()


def raising(owner: Any, name: str, mine: Callable[[Any, UUID], bool]) -> Break:
    """Has a method of the engine's fail where it is about the victim."""

    def broken(patch: pytest.MonkeyPatch, victim: UUID) -> None:
        real = getattr(owner, name)

        def bug(*args: Any, **kwargs: Any) -> Any:
            if any(mine(one, victim) for one in args):
                raise Bug(name)
            return real(*args, **kwargs)

        patch.setattr(owner, name, bug)

    return broken


def _about(one: Any, victim: UUID) -> bool:
    found = getattr(one, "fetched", one)
    return victim in (getattr(found, "id", None), getattr(found, "execution_id", None))


def of_error(patch: pytest.MonkeyPatch, _victim: UUID) -> None:
    def bug(_error: BaseException) -> Failure:
        raise Bug("from_exception")

    patch.setattr(Failure, "from_exception", bug)


def of_record(patch: pytest.MonkeyPatch, victim: UUID) -> None:
    real = StepService.histories

    async def bug(self: StepService, ids: Collection[UUID]) -> Mapping[UUID, History]:
        if victim in ids:
            raise Bug("histories")
        return await real(self, ids)

    patch.setattr(StepService, "histories", bug)


def of_fetch(patch: pytest.MonkeyPatch, victim: UUID) -> None:
    """It has been fetched, with others, and cannot be read."""
    real = ExecutionService.fetch

    async def bug(self: ExecutionService, *args: Any, **kwargs: Any) -> Sequence[Fetched]:
        found = await real(self, *args, **kwargs)
        if any(one.id == victim for one in found):
            raise Bug("fetch")
        return found

    patch.setattr(ExecutionService, "fetch", bug)


def of_joints(patch: pytest.MonkeyPatch, _victim: UUID) -> None:
    def bug(*_: object) -> Any:
        raise Bug("joints")

    patch.setattr(waits, "joints", bug)


COUNTED = {
    "begun": ("returns", raising(worker, "Attempt", _about)),
    "executed": ("returns", raising(Attempt, "_outcome", _about)),
    "encoded": ("returns", raising(Attempt, "_encode_result", _about)),
    "judged": ("raises", raising(Attempt, "_failure", _about)),
    "told": ("raises", of_error),
    "handed over": ("sleeps", raising(worker.Worker, "_waits", _about)),
    "tools": ("steps", raising(attempt, "Record", _about)),
    "record": ("steps", of_record),
    "parked": ("waits", raising(Waits, "_park", _about)),
    "suspended": ("waits", of_joints),
    "heard": ("gets", raising(Waits, "_hear", _about)),
    "fetched": ("returns", of_fetch),
}


@pytest.mark.parametrize("where", COUNTED)
async def test_it_counts_as_an_attempt(
    world: World, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    """I3, I7: neither tried again at once and for ever, nor held."""
    how, broken = COUNTED[where]
    with caplog.at_level(logging.INFO, "pgconductor"):
        row, others = await world.drain(how, broken)
    assert (row.state, row.attempts, row.locked_by) == (ExecutionState.AVAILABLE, 1, None)
    assert row.last_error_type in {"Bug", "ValueError"}
    assert row.run_at > datetime.now(UTC)
    assert str(row.id) in {getattr(one, "execution_id", None) for one in caplog.records}
    assert {one.state for one in others} == {ExecutionState.COMPLETED}


KEPT = {
    "put away": ("steps", raising(Attempt, "_end", _about)),
    "leftovers": ("steps", raising(attempt, "watch_leftovers", _about)),
    "gate": ("sleeps", raising(StartGate, "ended", _about)),
    "verdict": ("returns", raising(machine.Machine, "_on_verdict", _about)),
}


@pytest.mark.parametrize("where", KEPT)
async def test_after_a_success_it_changes_nothing(
    world: World, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    """I4: what has been done is done."""
    how, broken = KEPT[where]
    row, others = await world.drain(how, broken)
    assert (row.state, row.attempts) == (ExecutionState.COMPLETED, 1)
    assert {one.state for one in others} == {ExecutionState.COMPLETED}
    assert [one for one in caplog.records if one.levelno >= logging.ERROR]


@pytest.mark.parametrize("where", COUNTED)
async def test_the_last_attempt_ends_it(where: str) -> None:
    """I7: as any other error."""
    how, broken = COUNTED[where]
    row, others = await World(max_attempts=1).drain(how, broken)
    assert (row.state, row.attempts) == (ExecutionState.FAILED, 1)
    assert {one.state for one in others} == {ExecutionState.COMPLETED}


async def test_a_report_that_fails_is_made_again(world: World) -> None:
    """I3: as a failure, for nobody knows what has become of the first."""

    def broken(patch: pytest.MonkeyPatch, victim: UUID) -> None:
        real = Completer.add
        left = [1]

        def bug(self: Completer, outcome: Any) -> None:
            if outcome.execution_id == victim and left:
                raise Bug(left.pop())
            real(self, outcome)

        patch.setattr(Completer, "add", bug)

    row, others = await world.drain("returns", broken)
    assert (row.state, row.attempts, row.locked_by) == (ExecutionState.AVAILABLE, 1, None)
    assert {one.state for one in others} == {ExecutionState.COMPLETED}


def test_a_policy_that_fails_as_well() -> None:
    """I7: there is a delay all the same."""
    now = datetime.now(UTC)
    claim = Claim(uuid4(), 1)
    fetched = Fetched(uuid4(), claim, "task", "default", None, 1, 3, 0, 3, 0, now, now)
    outcome = mishap(fetched, Bug(), Unruly())
    assert outcome.retry_after is not None
    assert outcome.retry_after > timedelta(seconds=1)
