"""``ctx.first``, in executions that an operator retries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any

import pytest

from pgconductor import Conductor, TaskContext
from pgconductor.exceptions import ExecutionFailed
from pgconductor.testing import Rehearsal

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


@pytest.fixture
def conductor() -> Conductor:
    return Conductor()


@pytest.fixture
async def rehearsal(conductor: Conductor) -> AsyncGenerator[Rehearsal]:
    async with Rehearsal(conductor) as rehearsal:
        yield rehearsal


async def test_a_retry_from_a_race_begins_all_of_it_anew(
    conductor: Conductor, rehearsal: Rehearsal
) -> None:
    """Also what was first, though that began before any of the others."""
    won: list[int] = []

    @conductor.task(max_attempts=1)
    async def handler(ctx: TaskContext) -> None:
        async def later() -> Any:
            await ctx.sleep("pause", MINUTE)
            return await ctx.wait_for("answer", "answered")

        won.append((await ctx.first("which", ctx.sleep("deadline", HOUR), later())).index)
        raise ValueError

    handle = await handler.invoke()
    await rehearsal.drain(at_most=2 * HOUR)
    assert await conductor.executions.retry(handle.id, from_step="which")
    await rehearsal.emit("answered")
    await rehearsal.drain(at_most=10 * MINUTE)
    assert won == [0, 1]


@pytest.mark.parametrize("own", [False, True])
async def test_a_retry_after_the_first_has_failed(
    conductor: Conductor, rehearsal: Rehearsal, *, own: bool
) -> None:
    """That it was decided for it has dealt with nothing: the child is invoked anew."""
    broken = [True]

    @conductor.task(max_attempts=1)
    async def child(ctx: TaskContext) -> int:
        await ctx.sleep("thinking", MINUTE)
        if broken:
            raise ValueError("no")
        return 7

    @conductor.task(max_attempts=1)
    async def handler(ctx: TaskContext) -> list[int]:
        called = ctx.invoke("child", child)
        one = asyncio.create_task(called) if own else called
        won = await ctx.first("which", ctx.sleep("deadline", HOUR), one)
        await ctx.sleep("end", DAY)
        return [won.index, won.value or 0]

    handle = await handler.invoke()
    with pytest.raises(ExecutionFailed):
        await handle.result()
    broken.clear()
    assert await conductor.executions.retry(handle.id)
    assert await handle.result() == [1, 7]
