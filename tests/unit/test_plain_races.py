"""Races by plain asyncio: a replay sees the winner that the first pass saw."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from pgconductor import Conductor, RetryPolicy, TaskContext
from pgconductor.exceptions import ExecutionFailed
from pgconductor.testing import Rehearsal

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

Race = Callable[..., Awaitable[str]]


@pytest.fixture
def conductor() -> Conductor:
    return Conductor()


@pytest.fixture
async def rehearsal(conductor: Conductor) -> AsyncGenerator[Rehearsal]:
    async with Rehearsal(conductor) as rehearsal:
        yield rehearsal


async def named(name: str, what: Awaitable[Any]) -> str:
    await what
    return name


async def by_wait(*given: Awaitable[str]) -> str:
    tasks = [asyncio.ensure_future(one) for one in given]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for one in pending:
        one.cancel()
    return " and ".join(sorted(one.result() for one in done))


async def by_wait_and_leave(*given: Awaitable[str]) -> str:
    tasks = [asyncio.ensure_future(one) for one in given]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    return " and ".join(sorted(one.result() for one in done))


async def by_as_completed(*given: Awaitable[str]) -> str:
    tasks = [asyncio.ensure_future(one) for one in given]
    name = await next(iter(asyncio.as_completed(tasks)))
    for one in tasks:
        one.cancel()
    return name


async def by_callback(*given: Awaitable[str]) -> str:
    names: list[str] = []
    tasks = [asyncio.ensure_future(one) for one in given]
    for one in tasks:
        one.add_done_callback(lambda one: names.append(one.result()))
    await asyncio.gather(*tasks)
    return names[0]


async def by_group(*given: Awaitable[str]) -> str:
    name = ""

    class Enough(Exception):
        pass

    async def until(one: Awaitable[str]) -> None:
        nonlocal name
        got = await one
        name = name or got
        raise Enough

    try:
        async with asyncio.TaskGroup() as group:
            for one in given:
                group.create_task(until(one))
    except* Enough:
        pass
    return name


async def by_queue(*given: Awaitable[str]) -> str:
    names: list[str] = []

    async def note(one: Awaitable[str]) -> None:
        names.append(await one)

    await asyncio.gather(*(note(one) for one in given))
    return names[0]


async def nested(*given: Awaitable[str]) -> str:
    """The losers are joined deep below."""
    first, *others = given
    return await by_wait(by_wait(by_wait(first)), by_as_completed(*others))


RACES = [by_wait, by_as_completed, by_callback, by_group, by_queue, nested]


@pytest.mark.parametrize("race", [*RACES, by_wait_and_leave])
@pytest.mark.parametrize("order", ["abc", "bca", "cab"])
async def test_the_first_stays_the_first(
    conductor: Conductor, rehearsal: Rehearsal, race: Race, order: str
) -> None:
    """When it is replayed, all of them have ended."""
    seen: list[str] = []

    @conductor.task(max_attempts=1)
    async def handler(ctx: TaskContext) -> str:
        hours = {name: order.index(name) + 1 for name in "abc"}
        got = await race(
            *(named(name, ctx.sleep(name, hours[name] * HOUR)) for name in "abc"),
        )
        seen.append(got)
        await ctx.step(f"{got} won", str)
        await ctx.sleep("long", DAY)
        return got

    handle = await handler.invoke()
    assert await handle.result() == order[0]
    assert len(seen) > 1
    assert set(seen) == {order[0]}


@pytest.mark.parametrize("race", RACES)
async def test_events_that_have_come_at_once(
    conductor: Conductor, rehearsal: Rehearsal, race: Race
) -> None:
    """Before they were waited for, while it was suspended, and in one settling."""
    seen: list[str] = []

    @conductor.task(max_attempts=1)
    async def handler(ctx: TaskContext) -> str:
        got = ""
        for name in ("early", "late"):
            keys = (f"{name}#1", f"{name}#2", f"{name}#3")
            got += await race(*(named(key, ctx.wait_for(key, name)) for key in keys))
            await ctx.step(f"{got} won", str)
            await ctx.sleep(f"after {name}", DAY)
        seen.append(got)
        return got

    handle = await handler.invoke()
    for _ in range(3):
        await rehearsal.emit("early")
    await rehearsal.drain()
    for _ in range(3):
        await rehearsal.emit("late")
    result = await handle.result()
    # What is nested deeper begins later.
    assert result == ("early#2late#2" if race is nested else "early#1late#1")
    assert set(seen) == {result}


@pytest.mark.parametrize("race", RACES)
@pytest.mark.parametrize("kinds", ["step child", "child step", "step sleep", "sleep step"])
async def test_steps_and_children(
    conductor: Conductor, rehearsal: Rehearsal, race: Race, kinds: str
) -> None:
    """A step in a branch may take longer than what it races with."""
    seen: list[str] = []
    gate = asyncio.Event()

    async def work() -> None:
        if kinds.startswith("step"):
            return
        await gate.wait()

    @conductor.task
    async def child(ctx: TaskContext) -> None:
        gate.set()

    @conductor.task(max_attempts=1)
    async def handler(ctx: TaskContext) -> str:
        def begun(kind: str) -> Awaitable[Any]:
            match kind:
                case "step":
                    return ctx.step("step", work)
                case "child":
                    return ctx.invoke("child", child)
                case _:
                    return ctx.sleep("sleep", MINUTE)

        if not kinds.startswith("step"):
            asyncio.get_running_loop().call_later(0.1, gate.set)
        got = await race(*(named(kind, begun(kind)) for kind in kinds.split()))
        seen.append(got)
        await ctx.step(f"{got} won", str)
        await ctx.sleep("long", DAY)
        return got

    handle = await handler.invoke()
    result = await handle.result()
    assert set(seen) == {result}
    assert len(seen) > 1


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("race", RACES)
async def test_a_crash_between_the_first_and_what_is_done_with_it(
    conductor: Conductor, rehearsal: Rehearsal, race: Race, when: Any
) -> None:
    @conductor.task(max_attempts=1, retry=RetryPolicy.constant(DAY))
    async def handler(ctx: TaskContext) -> str:
        got = await race(*(named(name, ctx.wait_for(name, name)) for name in "ab"))
        await ctx.step(f"{got} won", str)
        await ctx.sleep("long", DAY)
        return got

    rehearsal.crash_at("b won", when=when)
    handle = await handler.invoke()
    await rehearsal.drain()
    await rehearsal.emit("b")
    await rehearsal.drain(at_most=timedelta(0))
    await rehearsal.emit("a")
    assert await handle.result() == "b"


async def test_what_was_left_is_looked_at_later(conductor: Conductor, rehearsal: Rehearsal) -> None:
    """By done(), with steps between that are on record."""
    seen: list[tuple[bool, ...]] = []

    @conductor.task(max_attempts=1)
    async def handler(ctx: TaskContext) -> str:
        late = asyncio.create_task(ctx.sleep("two hours", 2 * HOUR))
        done: list[bool] = []
        for number in range(3):
            await ctx.step(f"step {number}", str)
            done.append(late.done())
            await ctx.sleep(f"hour {number}", HOUR + MINUTE)
            done.append(late.done())
        seen.append(tuple(done))
        await ctx.sleep("long", DAY)
        return "end"

    await (await handler.invoke()).result()
    assert len(seen) > 1
    assert set(seen) == {(False, False, False, True, True, True)}


async def by_timeout(one: Awaitable[str]) -> str:
    try:
        async with asyncio.timeout(0.2):
            return await one
    except TimeoutError:
        return "late"


async def by_wait_for(one: Awaitable[str]) -> str:
    try:
        return await asyncio.wait_for(one, 0.2)
    except TimeoutError:
        return "late"


async def by_timed_wait(one: Awaitable[str]) -> str:
    done, _ = await asyncio.wait([asyncio.ensure_future(one)], timeout=0.2)
    return "in time" if done else "late"


async def joined(one: Awaitable[str]) -> str:
    async def gathered() -> str:
        (name,) = await asyncio.gather(one)
        return name

    return await by_timeout(gathered())


@pytest.mark.parametrize("limit", [by_timeout, by_wait_for, by_timed_wait, joined])
async def test_a_clock_of_the_process_decides_nothing(
    conductor: Conductor, rehearsal: Rehearsal, limit: Race
) -> None:
    """It is refused before anything is done, in memory or when it would be suspended."""

    @conductor.task(max_attempts=5)
    async def handler(ctx: TaskContext) -> str:
        if limit is by_timed_wait:
            got = await limit(named("in time", ctx.wait_for("event", "never")))
        else:
            async with asyncio.TaskGroup() as group:
                task = group.create_task(_with(limit, ctx))
                await ctx.step("work", asyncio.sleep, 0.4)
            got = task.result()
        await ctx.step("act", str)
        return got

    handle = await handler.invoke()
    with pytest.raises(ExecutionFailed, match="raced with a clock"):
        await handle.result()
    assert "act" not in await rehearsal.steps(handle)
    (snapshot,) = await rehearsal.executions(handler)
    assert snapshot.attempts == 1


async def _with(limit: Race, ctx: TaskContext) -> str:
    return await limit(named("in time", ctx.wait_for("event", "never")))


async def test_a_time_limit_inside_of_a_step_is_its_own(
    conductor: Conductor, rehearsal: Rehearsal
) -> None:
    async def work() -> str:
        return await by_timeout(named("in time", asyncio.Event().wait()))

    @conductor.task
    async def handler(ctx: TaskContext) -> str:
        return await ctx.step("work", work)

    assert await (await handler.invoke()).result() == "late"


async def test_a_race_by_chance_is_told(conductor: Conductor, rehearsal: Rehearsal) -> None:
    way = iter("ab")

    @conductor.task(max_attempts=1)
    async def handler(ctx: TaskContext) -> None:
        await asyncio.gather(ctx.step("x", str), ctx.step("y", str))
        await ctx.step(next(way), str)
        await ctx.sleep("long", DAY)

    with pytest.raises(ExecutionFailed, match=r"its branches race.* ctx\.first"):
        await (await handler.invoke()).result()
