"""Races and fan-outs on a real database: suspended, replayed, in memory."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from pgconductor import TaskContext
from pgconductor.types import ExecutionState
from tests.integration.runtime_world import SOON, World
from tests.support.waiting import eventually

DAY = timedelta(days=1)
HASTE = timedelta(milliseconds=1)


@pytest.mark.parametrize("suspend_after", [0.001, 60])
async def test_the_first_stays_the_first(world: World, suspend_after: float) -> None:
    conductor = world.conductor(suspend_after=suspend_after)
    attempts: list[int] = []

    @conductor.task
    async def slow(ctx: TaskContext) -> str:
        await ctx.sleep("long", DAY)
        return "never"

    @conductor.task(max_attempts=1)
    async def decide(ctx: TaskContext) -> list[Any]:
        attempts.append(ctx.attempt)
        won = await ctx.first(
            "which",
            ctx.invoke("slow", slow),
            ctx.wait_for("answer", "answered", match={"to": 1}),
            ctx.sleep("deadline", DAY),
        )
        rest = await ctx.first(
            "other", ctx.wait_for("more", "answered", match={"to": 2}), ctx.sleep("late", DAY)
        )
        return [won.index, won.value, rest.index]

    async with world.serving(conductor):
        handle = await decide.invoke()
        await eventually(lambda: len(world.rows("SELECT 1 FROM pgconductor.steps")) >= 3)
        await conductor.emit("answered", {"to": 1})
        await eventually(
            lambda: world.rows("SELECT 1 FROM pgconductor.steps WHERE key = 'more'"), timeout=20
        )
        await conductor.emit("answered", {"to": 2})
        assert await handle.result(SOON) == [1, {"to": 1}, 0]
        await eventually(
            lambda: (
                world.rows(
                    "SELECT c.state FROM pgconductor.executions c WHERE c.parent_id = %s", handle.id
                )[0]["state"]
                == ExecutionState.CANCELLED
            )
        )
    assert (len(attempts) > 1) is (suspend_after < 1)
    steps = world.rows("SELECT pending FROM pgconductor.steps WHERE execution_id = %s", handle.id)
    assert not any(one["pending"] for one in steps)


async def test_a_race_by_asyncio(world: World) -> None:
    conductor = world.conductor(suspend_after=HASTE)
    seen: list[str] = []

    @conductor.task(max_attempts=1)
    async def race(ctx: TaskContext) -> str:
        a = asyncio.create_task(ctx.wait_for("a", "a"), name="a")
        b = asyncio.create_task(ctx.wait_for("b", "b"), name="b")
        done, _ = await asyncio.wait({a, b}, return_when=asyncio.FIRST_COMPLETED)
        won = " and ".join(one.get_name() for one in done)
        seen.append(won)
        await ctx.step(f"{won} won", str)
        await ctx.wait_for("go", "go")
        return won

    async with world.serving(conductor):
        handle = await race.invoke()
        for event, then in (("b", "go"), ("a", "a"), ("go", "go")):
            await conductor.emit(event)
            ended = "SELECT 1 FROM pgconductor.steps WHERE key = %s AND pending = %s"
            await eventually(partial(world.rows, ended, then, then != event), timeout=20)
        assert await handle.result(SOON) == "b"
    assert len(seen) > 1
    assert set(seen) == {"b"}


@pytest.mark.parametrize("many", [20, 120])
async def test_ends_that_come_one_by_one(world: World, many: int) -> None:
    """A replay goes through all of them: there is not one for each."""
    conductor = world.conductor(suspend_after=HASTE)
    attempts: list[int] = []
    seen: set[int] = set()

    @conductor.task(max_attempts=1)
    async def gather_all(ctx: TaskContext) -> int:
        attempts.append(ctx.attempt)

        async def one(number: int) -> int:
            await ctx.wait_for(f"wait {number}", f"event{number}")
            seen.add(number)
            return number

        return sum(await asyncio.gather(*(one(number) for number in range(many))))

    async with world.serving(conductor):
        handle = await gather_all.invoke()
        await eventually(
            lambda: world.execution(handle.id)["state"] == ExecutionState.WAITING, timeout=20
        )
        for number in range(many):
            await conductor.emit(f"event{number}")
            await eventually(partial(seen.__contains__, number), timeout=20)
        assert await handle.result(SOON) == sum(range(many))
    assert len(attempts) <= 4
