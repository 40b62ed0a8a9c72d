"""Handlers that wait: for times, children and events, in memory and suspended."""

from __future__ import annotations

import asyncio
import gc
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from pgconductor import Conductor, RetryPolicy, TaskContext
from pgconductor.exceptions import (
    ChildFailed,
    ExecutionCancelled,
    ExecutionFailed,
    StepFailed,
    WaitTimeout,
)
from tests.integration.runtime_world import SOON, World
from tests.support.waiting import eventually

AT_ONCE = RetryPolicy.constant(timedelta(milliseconds=1))
MOMENT = timedelta(milliseconds=20)
DAY = timedelta(days=1)


class Parcel(BaseModel):
    number: int


@pytest.fixture
def hasty(world: World) -> Conductor:
    """Suspends whatever waits, at once."""
    return world.conductor(suspend_after=0.001)


async def test_a_chain_of_children_in_memory(world: World) -> None:
    conductor = world.conductor(suspend_after=60)
    attempts: list[int] = []

    @conductor.task
    async def ship(ctx: TaskContext, parcel: Parcel) -> Parcel:
        return Parcel(number=parcel.number + 1)

    @conductor.task(max_attempts=1)
    async def send(ctx: TaskContext) -> int:
        attempts.append(ctx.attempt)
        parcel = Parcel(number=0)
        for i in range(10):
            parcel = await ctx.invoke(f"ship {i}", ship, parcel)
        return parcel.number

    async with world.serving(conductor, concurrency=1):
        handle = await send.invoke()
        assert await handle.result(SOON) == 10
    assert attempts == [1], "the parent stays in memory"


async def test_children_of_a_suspended_parent(world: World, hasty: Conductor) -> None:
    attempts: list[int] = []

    @hasty.task
    async def ship(ctx: TaskContext, parcel: Parcel) -> Parcel:
        await ctx.sleep("a while", MOMENT)
        return Parcel(number=parcel.number + 1)

    @hasty.task(max_attempts=1)
    async def send(ctx: TaskContext) -> list[int]:
        attempts.append(ctx.attempt)
        parcels = await asyncio.gather(
            *(ctx.invoke(f"ship {i}", ship, Parcel(number=i)) for i in range(5))
        )
        return [one.number for one in parcels]

    async with world.serving(hasty):
        handle = await send.invoke()
        assert await handle.result(SOON) == [1, 2, 3, 4, 5]
    assert len(attempts) > 1
    assert set(attempts) == {1}


@pytest.mark.parametrize("joined", ["group", "wait", "wait_for"])
async def test_branches_of_a_suspended_handler(world: World, hasty: Conductor, joined: str) -> None:
    attempts: list[int] = []

    @hasty.task(max_attempts=1)
    async def task(ctx: TaskContext) -> str:
        attempts.append(ctx.attempt)
        if joined == "group":
            async with asyncio.TaskGroup() as group:
                group.create_task(ctx.sleep("a day", DAY))
                group.create_task(ctx.sleep("a while", MOMENT))
        elif joined == "wait":
            await asyncio.wait([asyncio.create_task(ctx.sleep("a day", DAY))])
        else:
            await asyncio.wait_for(ctx.sleep("a day", DAY), DAY.total_seconds())
        return "awake"

    async with world.serving(hasty):
        handle = await task.invoke()
        await eventually(lambda: world.execution(handle.id)["state"] == "waiting")
        world.rows("UPDATE pgconductor.steps SET wake_at = now() WHERE key = 'a day'")
        assert await handle.result(SOON) == "awake"
    assert len(attempts) > 1


async def test_a_long_sleep_holds_nothing(world: World, conductor: Conductor) -> None:
    @conductor.task(max_attempts=1)
    async def slow(ctx: TaskContext) -> str:
        await ctx.step("before", str, "before")
        await ctx.sleep("a day", DAY)
        return "awake"

    async with world.serving(conductor, concurrency=1):
        handle = await slow.invoke()
        await eventually(lambda: world.execution(handle.id)["state"] == "waiting")
        row = world.execution(handle.id)
        assert (row["locked_by"], row["attempts"]) == (None, 0)
        world.rows("UPDATE pgconductor.steps SET wake_at = now() WHERE key = 'a day'")
        assert await handle.result(SOON) == "awake"


async def test_a_child_that_fails(conductor: Conductor, world: World) -> None:
    @conductor.task(max_attempts=1)
    async def bad(ctx: TaskContext) -> None:
        raise ValueError("no stock")

    @conductor.task(max_attempts=1)
    async def parent(ctx: TaskContext) -> str:
        try:
            await ctx.invoke("bad", bad)
        except ChildFailed as error:
            return f"{error.error_type}: {error.error_message}"
        return "?"

    async with world.serving(conductor):
        assert await (await parent.invoke()).result(SOON) == "ValueError: no stock"


async def test_a_child_that_is_late(conductor: Conductor, world: World) -> None:
    @conductor.task(max_attempts=1)
    async def slow(ctx: TaskContext) -> None:
        await ctx.sleep("a day", DAY)

    @conductor.task(max_attempts=1)
    async def parent(ctx: TaskContext) -> str:
        try:
            await ctx.invoke("slow", slow, timeout=MOMENT)
        except WaitTimeout:
            return "late"
        return "?"

    async with world.serving(conductor):
        handle = await parent.invoke()
        assert await handle.result(SOON) == "late"
    (child,) = world.rows(
        "SELECT state FROM pgconductor.executions WHERE parent_id = %s", handle.id
    )
    assert child["state"] == "cancelled"


async def test_events_before_and_while(world: World, conductor: Conductor) -> None:
    approved = conductor.event("approved", Parcel)

    @conductor.task(max_attempts=1)
    async def wait(ctx: TaskContext, number: int) -> list[int]:
        first = await ctx.wait_for("first", approved, match={"number": number})
        second = await ctx.wait_for("second", "approved")
        return [first.number, second["number"]]

    handle = await wait.invoke(7)
    await approved.emit(Parcel(number=3))
    await conductor.emit("approved", {"number": 7})
    async with world.serving(conductor):
        assert await handle.result(SOON) == [7, 3]
        other = await wait.invoke(9)
        await eventually(lambda: world.execution(other.id)["state"] == "waiting")
        await approved.emit(Parcel(number=9))
        await eventually(
            lambda: world.rows("SELECT 1 FROM pgconductor.steps WHERE key = 'second' AND pending")
        )
        async with conductor.sessionmaker.begin() as session:
            await approved.emit(Parcel(number=10), session=session)
        assert await other.result(SOON) == [9, 10]


async def test_tries_of_a_step(world: World, hasty: Conductor) -> None:
    calls: list[int] = []

    @hasty.task(max_attempts=1)
    async def task(ctx: TaskContext) -> str:
        async def shaky() -> str:
            calls.append(1)
            if len(calls) < 3:
                raise OSError("not yet")
            return "done"

        async def hopeless() -> None:
            raise OSError("never")

        stepper = ctx.options(max_attempts=3, retry=RetryPolicy.constant(MOMENT))
        done = await stepper.step("shaky", shaky)
        try:
            await stepper.step("hopeless", hopeless)
        except StepFailed as error:
            return f"{done}, {error.error_message}"
        return "?"

    async with world.serving(hasty):
        assert await (await task.invoke()).result(SOON) == "done, never"
    kinds = world.rows("SELECT key, kind FROM pgconductor.steps ORDER BY ended_at, created_at")
    assert [(one["key"], one["kind"]) for one in kinds] == [
        ("shaky~1", "try"),
        ("shaky~2", "try"),
        ("shaky", "step"),
        ("hopeless~1", "try"),
        ("hopeless~2", "try"),
        ("hopeless", "step"),
    ]


async def test_cancelling_goes_down(world: World, hasty: Conductor) -> None:
    @hasty.task
    async def child(ctx: TaskContext) -> None:
        await ctx.sleep("a day", DAY)

    @hasty.task
    async def parent(ctx: TaskContext) -> None:
        await ctx.invoke("child", child)

    def states() -> list[Any]:
        return [row["state"] for row in world.rows("SELECT state FROM pgconductor.executions")]

    async with world.serving(hasty):
        handle = await parent.invoke()
        await eventually(lambda: states() == ["waiting", "waiting"])
        await handle.cancel("enough")
        with pytest.raises(ExecutionCancelled, match="enough"):
            await handle.result(SOON)
        await eventually(lambda: states() == ["cancelled", "cancelled"])


async def test_a_handler_that_swallows_its_suspension(world: World, hasty: Conductor) -> None:
    @hasty.task
    async def greedy(ctx: TaskContext) -> str:
        try:
            await ctx.sleep("a day", DAY)
        except BaseException:  # noqa: BLE001 - what is told
            return "awake"
        return "?"

    async with world.serving(hasty):
        with pytest.raises(ExecutionFailed, match=r"SuspensionSwallowed.*'a day'"):
            await (await greedy.invoke()).result(SOON)


async def test_a_plain_handler_waits(world: World, hasty: Conductor) -> None:
    @hasty.task(max_attempts=1)
    def plain(ctx: TaskContext) -> str:
        first = ctx.step_here("first", str, "a")
        ctx.here(ctx.sleep("a while", MOMENT))
        return first + ctx.here(ctx.step("second", str, "b"))

    async with world.serving(hasty):
        assert await (await plain.invoke()).result(SOON) == "ab"


async def test_branches_that_are_waited_for_by_wait_end_quietly(
    world: World, hasty: Conductor, caplog: pytest.LogCaptureFixture
) -> None:
    """The first of an event and a sleep: nobody looks at the other branch."""

    @hasty.task(max_attempts=1)
    async def race(ctx: TaskContext) -> bool:
        event = asyncio.ensure_future(ctx.wait_for("event", "never"))
        sleep = asyncio.ensure_future(ctx.sleep("sleep", timedelta(seconds=0.5)))
        _, late = await asyncio.wait([event, sleep], return_when=asyncio.FIRST_COMPLETED)
        for one in late:
            one.cancel()
        await ctx.sleep("after", MOMENT)
        return sleep in late

    async with world.serving(hasty):
        assert await (await race.invoke()).result(SOON) is False
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_what_is_no_task(conductor: Conductor, world: World) -> None:
    """Told at the boundary: what to give instead."""

    async def ship(ctx: TaskContext) -> int:
        return 1

    @conductor.task(max_attempts=1)
    async def send(ctx: TaskContext, how: str) -> None:
        no_task: Any = ship
        await (ctx.invoke if how == "invoke" else ctx.spawn)("ship", no_task)

    async with world.serving(conductor):
        for how in ("invoke", "spawn"):
            with pytest.raises(ExecutionFailed, match="is none: give what"):
                await (await send.invoke(how)).result(SOON)
