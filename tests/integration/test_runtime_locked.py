"""Somebody's transaction holds the rows of some executions: the others do not wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import pytest

from pgconductor import ExecutionState, TaskContext
from tests.integration.runtime_world import SOON, World
from tests.support.servers import connect
from tests.support.waiting import eventually


@contextmanager
def cancelling(world: World, *ids: UUID) -> Iterator[None]:
    """Ask to cancel executions, in a transaction that is left open and rolled back in the end."""
    with connect(world.url) as connection:
        connection.execute(b"BEGIN")
        for one in ids:
            connection.execute(b"SELECT pgconductor.cancel_execution(%s)", (one,))
        yield
        connection.execute(b"ROLLBACK")


@pytest.mark.parametrize("locked", [1, 4])
@pytest.mark.parametrize("steps", [False, True])
async def test_locked_executions_hold_up_no_others(world: World, steps: bool, locked: int) -> None:
    conductor = world.conductor()
    begun: set[int] = set()
    may_end = asyncio.Event()

    async def number(it: int) -> int:
        return it

    @conductor.task
    async def wait(ctx: TaskContext, it: int) -> int:
        begun.add(it)
        await may_end.wait()
        return await ctx.step("number", number, it) if steps else it

    async with world.serving(conductor):
        handles = [await wait.invoke(it) for it in range(locked + 3)]
        await eventually(lambda: len(begun) == len(handles))
        held, others = handles[:locked], handles[locked:]
        with cancelling(world, *(one.id for one in held)):
            may_end.set()
            async with asyncio.timeout(SOON.total_seconds()):
                assert [await one.result() for one in others] == [*range(locked, locked + 3)]
            for one in held:
                assert world.execution(one.id)["state"] == ExecutionState.RUNNING
        async with asyncio.timeout(2 * SOON.total_seconds()):
            assert [await one.result() for one in held] == [*range(locked)]
