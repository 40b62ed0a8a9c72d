"""What a handler catches must not lead it astray. Found while the documentation was written."""

from __future__ import annotations

import asyncio
import gc
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from pgconductor import Conductor, RetryPolicy, Task, TaskContext
from pgconductor.exceptions import ExecutionCancelled, ExecutionFailed
from tests.integration.runtime_world import SOON, World
from tests.support.waiting import eventually

AT_ONCE = RetryPolicy.constant(timedelta(milliseconds=1))
MOMENT = timedelta(milliseconds=20)
#: More than a loop gets that catches everything.
MANY = 20_000
#: Python tells of a coroutine that catches even what ends it when nobody needs it any more.
stubborn = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


async def test_who_has_lost_ownership_calls_no_step_any_more(world: World) -> None:
    """A saga that undoes on any Exception would undo what the new owner does."""
    conductor = world.conductor()
    called: list[str] = []

    async def book() -> None:
        world.rows("UPDATE pgconductor.executions SET claim_number = claim_number + 1000")

    async def refund() -> None:
        called.append("refund")

    @conductor.task(max_attempts=1)
    async def trip(ctx: TaskContext) -> None:
        try:
            await ctx.step("book", book)
        except Exception:
            called.append("caught")
            await ctx.step("refund", refund)
            raise
        finally:
            called.append("over")

    await trip.invoke()
    orchestrator = conductor.orchestrator()
    await orchestrator.start()
    await eventually(lambda: "over" in called)
    world.rows("UPDATE pgconductor.executions SET claim_number = claim_number - 1000")
    await orchestrator.stop()
    assert called == ["caught", "over"]


async def test_who_does_not_match_the_record_adds_nothing_to_it(world: World) -> None:
    """Otherwise the changed handler undoes, and putting back the code helps no more."""
    conductor = world.conductor()

    @conductor.task(retry=AT_ONCE, max_attempts=2)
    async def trip(ctx: TaskContext) -> str:
        if ctx.attempt == 1:
            await ctx.step("book", str, "booked")
            raise RuntimeError("the next attempt is of changed code")
        try:
            return await ctx.step("book twice", str, "booked")
        except Exception:  # noqa: BLE001 - what is told
            return await ctx.step("undo", str, "undone")

    handle = await trip.invoke()
    await conductor.orchestrator().drain()
    with pytest.raises(ExecutionFailed, match="ReplayMismatch"):
        await handle.result(SOON)


async def test_gather_may_return_exceptions(world: World) -> None:
    conductor = world.conductor(suspend_after=0.001)

    @conductor.task(max_attempts=1)
    async def child(ctx: TaskContext, number: int) -> int:
        await ctx.sleep("a while", MOMENT)
        if number == 1:
            raise ValueError("no stock")
        return number

    @conductor.task(max_attempts=1)
    async def parent(ctx: TaskContext) -> list[str]:
        results: list[Any] = await asyncio.gather(
            *(ctx.invoke(f"child {i}", child, i) for i in range(3)), return_exceptions=True
        )
        return [type(one).__name__ for one in results]

    async with world.serving(conductor):
        assert await (await parent.invoke()).result(SOON) == ["int", "ChildFailed", "int"]


async def test_waiting_is_not_counted_against_the_time_limit(world: World) -> None:
    """A sleep of ten seconds is not: it is suspended at once. A shorter one should not be."""
    conductor = world.conductor(suspend_after=60)

    @conductor.task(max_attempts=1, timeout=timedelta(seconds=2))
    async def nap(ctx: TaskContext) -> str:
        await ctx.sleep("a while", timedelta(seconds=2.5))
        return "awake"

    async with world.serving(conductor):
        assert await (await nap.invoke()).result(SOON) == "awake"


def another(conductor: Conductor) -> Task[None, str]:
    @conductor.task
    async def other(ctx: TaskContext) -> str:
        return "done"

    return other


@stubborn
@pytest.mark.parametrize("caught", [Exception, BaseException])
async def test_who_asks_again_and_again_holds_up_nobody(
    world: World, caught: type[BaseException]
) -> None:
    """What is refused is refused at once, so the event loop would have no turn any more."""
    conductor = world.conductor()
    other = another(conductor)
    rounds: list[int] = []
    over: list[bool] = []

    @conductor.task(retry=AT_ONCE, max_attempts=2)
    async def insistent(ctx: TaskContext) -> None:
        if ctx.attempt == 1:
            await ctx.step("book", str, "booked")
            raise RuntimeError("the next attempt is of changed code")
        for number in range(MANY):
            if over:
                break
            rounds.append(number)
            with suppress(caught):
                await ctx.step(f"book again {number}", str, "booked")

    async with world.serving(conductor, concurrency=1):
        with pytest.raises(ExecutionFailed, match="ReplayMismatch"):
            await (await insistent.invoke()).result(SOON)
        assert len(rounds) < MANY
        assert await (await other.invoke()).result(SOON) == "done"
    over.append(True)
    gc.collect()


@stubborn
@pytest.mark.parametrize("branch", [False, True], ids=["handler", "branch"])
async def test_a_loop_that_swallows_its_suspension(world: World, *, branch: bool) -> None:
    conductor = world.conductor(suspend_after=0.001)
    other = another(conductor)
    rounds: list[int] = []
    over: list[bool] = []

    async def loop(ctx: TaskContext) -> None:
        for number in range(MANY):
            if over:  # Python may end a branch that is left behind at any time.
                break
            rounds.append(number)
            with suppress(BaseException):
                await ctx.sleep(f"day {number}", timedelta(days=1))

    @conductor.task
    async def greedy(ctx: TaskContext) -> None:
        await (asyncio.gather(loop(ctx)) if branch else loop(ctx))

    async with world.serving(conductor, concurrency=1):
        handle = await greedy.invoke()
        if branch:  # Who waits for it has ended as is due.
            await eventually(lambda: world.execution(handle.id)["state"] == "waiting")
        else:
            with pytest.raises(ExecutionFailed, match=r"SuspensionSwallowed.*'day 0'"):
                await handle.result(SOON)
        assert len(rounds) < MANY
        assert await (await other.invoke()).result(SOON) == "done"
    over.append(True)
    gc.collect()


@stubborn
async def test_a_loop_that_swallows_a_cancellation(world: World) -> None:
    conductor = world.conductor()
    other = another(conductor)
    rounds: list[int] = []
    over: list[bool] = []

    @conductor.task
    async def greedy(ctx: TaskContext) -> None:
        for number in range(MANY):
            if over:
                break
            rounds.append(number)
            with suppress(BaseException):
                await ctx.checkpoint()
                await asyncio.sleep(0.01)

    async with world.serving(conductor, concurrency=1):
        handle = await greedy.invoke()
        await eventually(lambda: bool(rounds))
        await handle.cancel()
        with pytest.raises(ExecutionCancelled):
            await handle.result(SOON)
        assert len(rounds) < MANY
        assert await (await other.invoke()).result(SOON) == "done"
    over.append(True)
    gc.collect()
