"""What comes back later: by a drain, and by an operator."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from pgconductor import TaskContext
from pgconductor.exceptions import ExecutionFailed, StepFailed
from tests.integration.runtime_world import SOON, World


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    world = World(database_url)
    yield world
    await world.close()


async def test_a_drain_wakes_what_is_due(world: World) -> None:
    conductor = world.conductor()

    @conductor.task
    async def nap(ctx: TaskContext) -> str:
        await ctx.sleep("a day", timedelta(days=1))
        return "awake"

    handle = await nap.invoke()
    await conductor.orchestrator().drain()
    assert world.execution(handle.id)["state"] == "waiting"
    world.rows("UPDATE pgconductor.steps SET wake_at = now()")
    await conductor.orchestrator().drain()
    assert world.execution(handle.id)["state"] == "completed"


async def test_a_retry_goes_on_with_the_undoing(world: World) -> None:
    conductor = world.conductor()
    done: list[str] = []
    refused, stuck = [True], [True]

    async def book() -> None:
        if refused[0]:
            raise ValueError("sold out")
        done.append("book")

    async def undo(what: str) -> None:
        if what == "hotel" and stuck[0]:
            raise OSError("down")
        done.append(f"undo {what}")

    @conductor.task(max_attempts=1)
    async def trip(ctx: TaskContext) -> str:
        try:
            await ctx.step("hotel", done.append, "hotel")
            await ctx.options(max_attempts=1).step("flight", book)
            await ctx.step("car", done.append, "car")
        except StepFailed:
            await ctx.step("undo flight", undo, "flight")
            await ctx.step("undo hotel", undo, "hotel")
            return "undone"
        return "booked"

    handle = await trip.invoke()
    await conductor.orchestrator().drain()
    with pytest.raises(ExecutionFailed, match="down"):
        await handle.result(SOON)
    refused[0] = stuck[0] = False
    await conductor.executions.retry(handle.id)
    await conductor.orchestrator().drain()
    assert await handle.result(SOON) == "undone"
