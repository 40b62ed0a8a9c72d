"""Errors that are on record: they are final, and the handler's way beyond them is known."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from pgconductor import Conductor, RetryPolicy, TaskContext
from pgconductor.exceptions import ExecutionFailed, InvalidInput, StepFailed
from tests.integration.runtime_world import SOON, World

AT_ONCE = RetryPolicy.constant(timedelta(milliseconds=1))


async def refuse() -> None:
    raise ValueError("no")


@pytest.mark.parametrize("grouped", [False, True], ids=["", "in a group"])
@pytest.mark.parametrize("what", ["step", "child", "wait"])
async def test_an_error_on_record_is_not_met_again(
    world: World, conductor: Conductor, what: str, *, grouped: bool
) -> None:
    """Each attempt would be told the same."""
    attempts: list[int] = []

    @conductor.task(max_attempts=1)
    async def child(ctx: TaskContext) -> None:
        await refuse()

    @conductor.task(max_attempts=5, retry=AT_ONCE)
    async def task(ctx: TaskContext) -> None:
        attempts.append(ctx.attempt)
        if grouped:
            async with asyncio.TaskGroup() as group:
                group.create_task(meet(ctx))
        else:
            await meet(ctx)

    async def meet(ctx: TaskContext) -> None:
        if what == "step":
            await ctx.options(max_attempts=1).step("a", refuse)
        elif what == "child":
            await ctx.invoke("a", child)
        else:
            await ctx.wait_for("a", "never", timeout=timedelta(0))

    async with world.serving(conductor):
        with pytest.raises(ExecutionFailed, match=r"StepFailed|ChildFailed|WaitTimeout"):
            await (await task.invoke()).result(SOON)
    assert set(attempts) == {1}


async def test_what_follows_an_error_on_record_is_numbered(
    world: World, conductor: Conductor
) -> None:
    """And what follows one that is not has no number, for the handler may go another way."""

    @conductor.task(max_attempts=1)
    async def task(ctx: TaskContext) -> None:
        with pytest.raises(StepFailed):
            await ctx.options(max_attempts=2, retry=AT_ONCE).step("on record", refuse)
        await ctx.step("known", int)
        with pytest.raises(ValueError, match="no"):
            await ctx.step("not on record", refuse)
        await ctx.step("unknown", int)

    async with world.serving(conductor):
        await (await task.invoke()).result(SOON)
    rows = world.rows("SELECT key, place FROM pgconductor.steps WHERE kind = 'step'")
    assert {row["key"]: row["place"] for row in rows} == {
        "on record": 1,
        "known": 2,
        "unknown": None,
    }


async def test_branches_do_not_number_the_same_key(world: World, conductor: Conductor) -> None:
    """They come in any order: in a replay, one would be taken for the other without a word."""
    late = asyncio.Event()

    @conductor.task(max_attempts=1)
    async def task(ctx: TaskContext, how: str) -> None:
        async def branch(name: str) -> None:
            if name == "a":
                await late.wait()
            if how == "emit":
                await ctx.emit("done", name)
            elif how == "emit with a key":
                await ctx.emit("done", name, key=f"done {name}")
            else:
                base = name if how == "numbered apart" else "same"
                for _ in range(2):
                    await ctx.step(ctx.numbered(base), str, name)
            late.set()

        await asyncio.gather(branch("a"), branch("b"))

    async with world.serving(conductor):
        for how in ("numbered apart", "emit with a key"):
            late.clear()
            await (await task.invoke(how)).result(SOON)
        for how in ("numbered", "emit"):
            late.clear()
            with pytest.raises(ExecutionFailed, match="more than one place"):
                await (await task.invoke(how)).result(SOON)


async def test_a_step_numbers_nothing_that_the_handler_numbers(conductor: Conductor) -> None:
    """When it is on record, its function is not called, and would not count."""

    @conductor.task(max_attempts=1)
    async def task(ctx: TaskContext) -> None:
        async def outer() -> None:
            await ctx.step(ctx.numbered("part"), int)

        await ctx.options(max_attempts=1).step("outer", outer)
        ctx.numbered("part")

    handle = await task.invoke()
    await conductor.orchestrator().drain()
    with pytest.raises(ExecutionFailed, match="numbers 'part' in more than one place"):
        await handle.result(SOON)


async def test_a_plain_handlers_branches_have_no_number(world: World, conductor: Conductor) -> None:
    """Nor do those of an async one: they may begin in another order the next time."""

    @conductor.task(max_attempts=1)
    def plain(ctx: TaskContext) -> None:
        async def both() -> None:
            await ctx.step("own", int)
            await asyncio.gather(ctx.step("left", int), ctx.step("right", int))

        ctx.step_here(ctx.numbered("first"), int)
        ctx.here(both())
        ctx.here(ctx.emit("over"))
        ctx.here(ctx.emit("over"))

    async with world.serving(conductor):
        await (await plain.invoke()).result(SOON)
    rows = world.rows("SELECT key, place FROM pgconductor.steps")
    assert {row["key"]: row["place"] for row in rows} == {
        "first#1": 1,
        "own": 2,
        "left": None,
        "right": None,
        "over#1": 3,
        "over#2": 4,
    }


async def test_a_result_that_cannot_complete_anything(conductor: Conductor) -> None:
    @conductor.task(max_attempts=1)
    async def task(ctx: TaskContext) -> int:
        async with conductor.sessionmaker.begin() as session:
            await ctx.complete_in(session, "no number")
        return 0

    handle = await task.invoke()
    await conductor.orchestrator().drain()
    with pytest.raises(ExecutionFailed, match="nothing was completed, for the result"):
        await handle.result(SOON)


async def test_a_long_key_leaves_room_for_the_record_of_calls(
    world: World, conductor: Conductor
) -> None:
    calls: list[int] = []

    async def flaky() -> int:
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("the first call fails")
        return len(calls)

    @conductor.task(max_attempts=1)
    async def task(ctx: TaskContext) -> int:
        return await ctx.options(max_attempts=2, retry=AT_ONCE).step("k" * 500, flaky)

    async with world.serving(conductor):
        assert await (await task.invoke()).result(SOON) == 2


async def test_a_retry_policy_without_a_number_is_refused(conductor: Conductor) -> None:
    @conductor.task(max_attempts=1)
    async def task(ctx: TaskContext) -> str:
        with pytest.raises(InvalidInput, match="say how often, by max_attempts"):
            ctx.options(retry=AT_ONCE)
        return "refused"

    handle = await task.invoke()
    await conductor.orchestrator().drain()
    assert await handle.result(SOON) == "refused"


@pytest.mark.parametrize("how", ["branch", "transact", "plain handler", "patient"])
async def test_an_exit_in_a_step_is_not_that_of_the_process(
    conductor: Conductor, world: World, how: str
) -> None:
    """Out of a task other than the handler's, asyncio raises it from the event loop."""

    async def leave(_session: object = None) -> None:
        raise SystemExit(3)

    async def other(ctx: TaskContext) -> None:
        if how == "transact":
            await asyncio.gather(ctx.transact("a", leave))
        elif how == "patient":
            await asyncio.gather(ctx.options(max_attempts=1).step("a", leave))
        else:
            await asyncio.gather(ctx.step("a", leave))

    @conductor.task(max_attempts=1)
    async def task(ctx: TaskContext) -> None:
        await other(ctx)

    @conductor.task(max_attempts=1)
    def plain(ctx: TaskContext) -> None:
        ctx.here(ctx.step("a", leave))

    async with world.serving(conductor):
        handle = await (plain if how == "plain handler" else task).invoke()
        with pytest.raises(ExecutionFailed, match="SystemExit: 3"):
            await handle.result(SOON)
