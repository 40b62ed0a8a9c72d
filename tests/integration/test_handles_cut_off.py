"""Handles whose connections are cut, and notifications that mean nothing."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import event

from pgconductor import TaskContext
from pgconductor.exceptions import ResultTimeout
from pgconductor.handles import FinishedWatch
from tests.integration.runtime_world import SOON, World
from tests.support.waiting import eventually


@pytest.mark.parametrize("listen", [True, False])
async def test_a_wait_outlives_its_connections(world: World, listen: bool) -> None:
    """Whatever is out of reach for a while is looked at again."""
    conductor = world.conductor(listen=listen)
    failures = 0

    @conductor.task
    async def task(ctx: TaskContext) -> str:
        return "done"

    handle = await task.invoke()

    def cut(*_: object) -> None:
        nonlocal failures
        failures += 1
        if failures < 6:
            raise ConnectionResetError("cut")

    event.listen(conductor.engine.sync_engine, "before_cursor_execute", cut)
    waiting = asyncio.create_task(handle.result(SOON))
    await eventually(lambda: failures >= 6)
    async with world.serving(conductor):
        assert await waiting == "done"


async def test_out_of_reach_until_the_end_is_no_result_in_time(world: World) -> None:
    conductor = world.conductor()

    @conductor.task
    async def task(ctx: TaskContext) -> None:
        return

    handle = await task.invoke()

    def cut(*_: object) -> None:
        raise ConnectionResetError("cut")

    event.listen(conductor.engine.sync_engine, "before_cursor_execute", cut)
    with pytest.raises(ResultTimeout):
        await handle.result(timedelta(seconds=0.2))


async def test_anybody_may_notify_anything(world: World) -> None:
    """A payload that is no id is nobody's, and does not raise inside the driver."""
    conductor = world.conductor()

    @conductor.task
    async def task(ctx: TaskContext) -> str:
        return "done"

    handle = await task.invoke()
    waiting = asyncio.create_task(handle.result(SOON))
    watch = conductor.watch()
    assert isinstance(watch, FinishedWatch)
    watch._notified("pgconductor_finished", "nonsense")
    async with world.serving(conductor):
        assert await waiting == "done"
