"""What comes back later: by a drain, and by an operator."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pgconductor import TaskContext
from pgconductor.exceptions import ExecutionFailed, StepFailed, WaitTimeout
from tests.integration.runtime_world import SOON, World
from tests.support.waiting import eventually


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


@pytest.mark.parametrize("forked", [False, True], ids=["replayed", "forked"])
async def test_a_late_child_that_was_retried_is_left_alone(world: World, *, forked: bool) -> None:
    """It was cancelled once; whoever replays that its time was up does not cancel it again."""
    conductor = world.conductor(suspend_after=0.001)

    @conductor.task(max_attempts=1)
    async def slow(ctx: TaskContext) -> None:
        await ctx.sleep("two days", timedelta(days=2))

    @conductor.task(max_attempts=1)
    async def parent(ctx: TaskContext) -> str:
        try:
            await ctx.invoke("slow", slow, timeout=timedelta(milliseconds=20))
        except WaitTimeout:
            await ctx.sleep("a day", timedelta(days=1))
            return "late"
        return "?"

    def child(state: str) -> bool:
        found = world.rows(
            "SELECT state FROM pgconductor.executions WHERE parent_id = %s", handle.id
        )
        return [one["state"] for one in found] == [state]

    async with world.serving(conductor):
        handle = await parent.invoke()
        await eventually(lambda: child("cancelled"))
        await eventually(lambda: world.execution(handle.id)["state"] == "waiting")
        (made,) = world.rows(
            "SELECT id FROM pgconductor.executions WHERE parent_id = %s", handle.id
        )
        await conductor.executions.retry(made["id"])
        await eventually(lambda: child("waiting"))
        if forked:
            copy = await conductor.executions.fork(handle.id, from_step="a day")
            await eventually(lambda: world.execution(copy)["state"] == "waiting")
        else:
            world.rows(
                "UPDATE pgconductor.steps SET wake_at = now() WHERE execution_id = %s", handle.id
            )
            assert await handle.result(SOON) == "late"
        assert child("waiting")


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
