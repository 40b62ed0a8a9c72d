"""Results of steps that cannot be stored: refused before anything is on record."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from pgconductor import Conductor, RetryPolicy, TaskContext
from pgconductor.exceptions import ExecutionFailed
from tests.integration.runtime_world import SOON, World

AT_ONCE = RetryPolicy.constant(timedelta(milliseconds=1))
ADD = text("INSERT INTO public.bookings (n) VALUES (:n)")


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    world = World(database_url)
    world.rows("CREATE TABLE public.bookings (n integer NOT NULL)")
    yield world
    await world.close()


@pytest.fixture
def conductor(world: World) -> Conductor:
    return world.conductor()


def written(world: World) -> tuple[int, int]:
    """How many bookings there are, and steps."""
    bookings = world.rows("SELECT 1 FROM public.bookings")
    return len(bookings), len(world.rows("SELECT 1 FROM pgconductor.steps"))


async def failed(world: World, conductor: Conductor, task: Any) -> str:
    """The error of an execution that is not tried again."""
    handle = await task.invoke()
    await conductor.orchestrator().drain()
    with pytest.raises(ExecutionFailed):
        await handle.result(SOON)
    row = world.execution(handle.id)
    assert (row["last_error_type"], row["attempts"]) == ("ResultEncodeError", 1)
    error: str = row["last_error"]
    return error


@pytest.mark.parametrize("how", ["transact", "block"])
async def test_nothing_was_written_if_the_result_cannot_be_stored(
    world: World, conductor: Conductor, how: str
) -> None:
    async def book(session: AsyncSession) -> object:
        await session.execute(ADD, {"n": 1})
        return object()

    @conductor.task(max_attempts=3, retry=AT_ONCE)
    async def task(ctx: TaskContext) -> None:
        if how == "transact":
            await ctx.transact("book", book)
        else:
            async with (block := ctx.transaction("book")) as session:
                block.result = await book(session)

    error = await failed(world, conductor, task)
    assert "nothing was written by step 'book', for its result cannot be stored: " in error
    assert "have happened" not in error
    assert written(world) == (0, 0)


async def test_a_block_that_was_to_assign_its_result(world: World, conductor: Conductor) -> None:
    @conductor.task(max_attempts=3, retry=AT_ONCE)
    async def task(ctx: TaskContext) -> None:
        async with ctx.transaction("book", int) as session:
            await session.execute(ADD, {"n": 1})

    error = await failed(world, conductor, task)
    assert "nothing was written by step 'book', for its result was not assigned" in error
    assert written(world) == (0, 0)


async def test_a_block_need_not_assign_none(world: World, conductor: Conductor) -> None:
    @conductor.task(max_attempts=1)
    async def task(ctx: TaskContext) -> bool:
        async with (block := ctx.transaction("book", int | None)) as session:
            await session.execute(ADD, {"n": 1})
        return block.result is None

    handle = await task.invoke()
    await conductor.orchestrator().drain()
    assert await handle.result(SOON) is True
    assert written(world) == (1, 1)
