"""``ctx.first``, while something of its contenders is on its way: into the record, or to a slot."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from pydantic import SecretStr

from pgconductor import Conductor, Settings, TaskContext
from pgconductor.domain.migrations import StartupPolicy
from pgconductor.domain.steps import Settled, Started, StepStart
from pgconductor.runtime.attempt import Runnable
from pgconductor.runtime.orchestrator import Orchestrator
from pgconductor.runtime.races import _Contender
from pgconductor.runtime.scopes import Scope
from pgconductor.runtime.waits import Waits
from pgconductor.services.backend import Backend
from pgconductor.testing import FakeDatabase, FakeUnitOfWork
from pgconductor.types import ExecutionState
from tests.support.memory_backend import RealClock, memory_backend
from tests.support.waiting import eventually
from tests.unit.test_waits import EVENT, Handler

HOUR = timedelta(hours=1)


class World:
    """A conductor, and an orchestrator at work on a database in memory."""

    def __init__(self) -> None:
        self.settings = Settings(
            database_url=SecretStr("postgresql://nowhere/nothing"),
            poll_interval=timedelta(milliseconds=50),
            startup_policy=StartupPolicy.REFUSE,
            suspend_after=HOUR,
            give_back_after=timedelta(milliseconds=20),
        )
        self.database = FakeDatabase(RealClock())
        self.conductor = Conductor(self.settings)
        self.backend: Backend = memory_backend(self.database, lambda: None)

    @asynccontextmanager
    async def serving(self, concurrency: int = 10) -> AsyncGenerator[None]:
        tasks = self.conductor.tasks.items()
        orchestrator = Orchestrator(
            lambda: self.backend,
            self.settings,
            {name: Runnable(task.options, task.handler) for name, task in tasks},
            queues=["default"],
            concurrency=concurrency,
        )
        await orchestrator.start()
        try:
            yield
        finally:
            await orchestrator.stop()

    async def emit(self, *names: str) -> None:
        """In one commit, so that they are heard of at once."""
        async with FakeUnitOfWork(self.database).begin() as repositories:
            for name in names:
                await repositories.steps.emit(name, f'"{name}"')

    async def invoke(self, task: Any) -> Callable[[], Any]:
        """Invoke, and return what tells the row."""
        (invoked,) = await self.backend.completing.invoke_many([task.invocation()])
        return lambda: self.database.executions[invoked.id]

    def pending(self) -> set[str]:
        return {one.key for one in self.database.steps.values() if one.pending}


async def test_an_event_that_came_before_its_wait_was_known_to_have_begun() -> None:
    """Nobody has seen that wait end: what it had taken is for the next."""
    world = World()
    start_many = world.backend.steps.start_many

    async def slowly(starts: Sequence[StepStart]) -> list[Started]:
        answer = await start_many(starts)
        if "b" in {one.key for one in starts}:
            await world.emit("a", "news")
            await eventually(lambda: not world.pending())
            await heard.wait()
        return answer

    settle = world.backend.steps.settle

    async def noting(seen: Any) -> list[Settled]:
        answer = await settle(seen)
        if {"a", "b"} == {one.key for settled in answer for one in settled.ended}:
            heard.set()
        return answer

    heard = asyncio.Event()
    world.backend.steps.start_many = slowly  # type: ignore[method-assign]
    world.backend.steps.settle = noting  # type: ignore[method-assign]

    @world.conductor.task(max_attempts=1)
    async def handler(ctx: TaskContext) -> list[Any]:
        async def later() -> Any:
            await ctx.step("before", str)
            return await ctx.wait_for("b", "news")

        won = await ctx.first("which", ctx.wait_for("a", "a"), later())
        return [won.index, await ctx.wait_for("c", "news")]

    async with world.serving():
        row = await world.invoke(handler)
        await eventually(lambda: row().state.finished)
    assert (row().state, row().result) == (ExecutionState.COMPLETED, '[0, "news"]')


async def test_who_is_short_of_a_slot_leaves_before_all_ends_are_told() -> None:
    """The next attempt is told of them in the order of the record, and decides alike."""
    world = World()
    taken, let_go = asyncio.Event(), asyncio.Event()
    attempts: list[int] = []

    @world.conductor.task(max_attempts=1)
    async def handler(ctx: TaskContext) -> list[Any]:
        attempts.append(ctx.attempt)
        a, b = ctx.wait_for("a", "a"), ctx.wait_for("b", "news")
        won, rest = await asyncio.gather(ctx.first("which", a, b), ctx.wait_for("rest", "rest"))
        return [won.index, won.value, rest, await ctx.wait_for("c", "news")]

    @world.conductor.task
    async def other(ctx: TaskContext) -> None:
        taken.set()
        await let_go.wait()

    async with world.serving(concurrency=1):
        row = await world.invoke(handler)
        await eventually(lambda: world.pending() == {"a", "b", "rest"})
        await world.invoke(other)
        await taken.wait()
        await world.emit("a", "news", "rest")
        await eventually(lambda: row().state is ExecutionState.AVAILABLE)
        assert not world.pending()
        let_go.set()
        await eventually(lambda: row().state.finished)
    assert (row().state, row().result) == (
        ExecutionState.COMPLETED,
        '[0, "a", "rest", "news"]',
    )
    assert attempts == [1, 1]


async def test_nothing_begins_for_one_that_waited_for_a_slot_when_another_was_first() -> None:
    handler = Handler(EVENT)
    turns = handler.waits.turns
    turns._desk = Desk()
    turns.parked = True
    scope = Scope()
    going_on = asyncio.create_task(handler.waits.active(), context=scope.context())
    await eventually(lambda: turns.waiting)
    await scope.lose()
    # Somebody else has taken the slot meanwhile, and given it back.
    turns.go_on()
    with pytest.raises(asyncio.CancelledError):
        await going_on
    handler.waits.close()


async def test_a_contender_that_is_cancelled_before_it_has_begun_is_closed() -> None:
    """Python would warn that it was never awaited."""

    async def contend() -> None: ...

    given = contend()
    task = _Contender(given).start()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert inspect.getcoroutinestate(given) == inspect.CORO_CLOSED


async def test_a_beginning_is_waited_for_and_none_follows() -> None:
    scope = Scope()

    def begin(key: str) -> Any:
        return Scope.beginning(key)

    began = scope.context().run(begin, "key")
    context = scope.context()
    context.run(began.__enter__)
    losing = asyncio.create_task(scope.lose())
    await asyncio.sleep(0)
    assert not losing.done()
    context.run(began.__exit__, None, None, None)
    await losing
    assert scope.keys == {"key"}
    with pytest.raises(asyncio.CancelledError):
        scope.context().run(begin("late").__enter__)


async def test_others_are_told_when_nobody_waits_for_a_slot_any_more() -> None:
    """One that is cancelled there holds up nobody, whether there is a slot or not."""
    handler = Handler(EVENT)
    waits: Waits = handler.waits
    waits.turns._desk = desk = Desk()
    also = asyncio.create_task(waits.until_ended(replace(EVENT, key="also")))
    await eventually(lambda: desk.parked)
    both = (
        replace(EVENT, pending=False, woke=1),
        replace(EVENT, key="also", pending=False, woke=2),
    )
    waits.settled(Settled(uuid4(), 2, both))
    await eventually(lambda: list(waits.turns.waiting.values()) == ["event"])
    handler.task.cancel()
    await eventually(lambda: list(waits.turns.waiting.values()) == ["also"])
    waits.turns.go_on()
    assert (await also).key == "also"
    waits.close()


class Desk:
    """Has no slot to give."""

    patience = 3600.0
    parked = False

    def park(self) -> bool:
        self.parked = True
        return True

    def ask(self) -> None: ...

    def insist(self) -> None: ...

    def stay(self) -> None: ...
