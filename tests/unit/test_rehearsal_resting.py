"""Handlers that wait in memory, in a rehearsal: it goes on with others meanwhile."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any

import pytest

from pgconductor import Conductor, ExecutionState, Task, TaskContext
from pgconductor.exceptions import ExecutionCancelled
from pgconductor.testing import Rehearsal, assert_survives_crashes
from tests.support.waiting import eventually

DAY = timedelta(days=1)

Part = Callable[[int], Awaitable[int]]
Parent = Callable[[TaskContext, Part], Coroutine[Any, Any, list[int]]]


@pytest.fixture
def conductor() -> Conductor:
    return Conductor()


@pytest.fixture(autouse=True)
async def quiet(caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    """Nothing is left behind that asyncio complains of."""
    gc.collect()  # what other tests have left
    caplog.clear()
    yield
    gc.collect()
    records = [*caplog.get_records("call"), *caplog.records]
    assert not [one.getMessage() for one in records if one.name == "asyncio"]


async def semaphore(_: TaskContext, part: Part) -> list[int]:
    few = asyncio.Semaphore(2)

    async def one(number: int) -> int:
        async with few:
            return await part(number)

    return await asyncio.gather(*map(one, range(5)))


async def completed(_: TaskContext, part: Part) -> list[int]:
    return sorted([await one for one in asyncio.as_completed([part(0), part(1)])])


async def shielded(_: TaskContext, part: Part) -> list[int]:
    return [await asyncio.shield(asyncio.ensure_future(part(0)))]


async def future(_: TaskContext, part: Part) -> list[int]:
    told: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def tell() -> None:
        told.set_result(await part(0))

    async def hear() -> int:
        return await told + await part(1)

    heard, _nothing = await asyncio.gather(hear(), tell())
    return [heard]


async def inside(ctx: TaskContext, part: Part) -> list[int]:
    return [await ctx.step("outer", part, 0)]


async def inside_in_branches(ctx: TaskContext, part: Part) -> list[int]:
    async def both() -> list[int]:
        return list(await asyncio.gather(part(0), part(1)))

    return await ctx.step("outer", both)


async def queue(_: TaskContext, part: Part) -> list[int]:
    found: asyncio.Queue[int] = asyncio.Queue()

    async def put(number: int) -> None:
        await found.put(await part(number))

    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(put(number))
        return sorted([await found.get() for _ in range(3)])


#: With what each returns, and how many of its parts are one after another.
PARENTS: list[tuple[Parent, list[int], int]] = [
    (semaphore, [0, 1, 2, 3, 4], 3),
    (completed, [0, 1], 1),
    (shielded, [0], 1),
    (future, [1], 2),
    (inside, [0], 1),
    (inside_in_branches, [0, 1], 1),
    (queue, [0, 1, 2], 1),
]


def family(conductor: Conductor, body: Parent, of: str) -> Task[None, list[int]]:
    """A task whose parts are children, or sleeps of a day."""

    @conductor.task
    async def child(ctx: TaskContext, number: int) -> int:
        return number

    @conductor.task(max_crashes=100)
    async def parent(ctx: TaskContext) -> list[int]:
        async def part(number: int) -> int:
            if of == "children":
                return await ctx.invoke(f"part {number}", child, number)
            await ctx.sleep(f"part {number}", DAY)
            return number

        return await body(ctx, part)

    return parent


@pytest.mark.parametrize("of", ["children", "sleeps"])
@pytest.mark.parametrize(
    ("body", "result", "days"), PARENTS, ids=[body.__name__ for body, _, _ in PARENTS]
)
async def test_it_goes_on_with_others_and_the_clock(
    conductor: Conductor, body: Parent, result: list[int], days: int, of: str
) -> None:
    parent = family(conductor, body, of)
    async with Rehearsal(conductor) as rehearsal:
        handle = await parent.invoke()
        drained = await rehearsal.drain()
        assert drained.finished
        assert await handle.result() == result
        assert drained.passed == (days * DAY if of == "sleeps" else 0 * DAY)


@pytest.mark.parametrize("body", [semaphore, shielded, inside], ids=lambda one: one.__name__)
async def test_a_crash_takes_all_in_memory_along(conductor: Conductor, body: Parent) -> None:
    parent = family(conductor, body, "children")

    async def scenario(rehearsal: Rehearsal) -> Any:
        return await (await parent.invoke()).result()

    await assert_survives_crashes(conductor, scenario)


async def test_what_nothing_brings(conductor: Conductor) -> None:
    """It stays in memory from one drain to the next, and does nothing in between."""
    attempts: list[int] = []

    @conductor.task
    async def shy(ctx: TaskContext) -> str:
        attempts.append(ctx.attempt)
        return await asyncio.shield(asyncio.ensure_future(ctx.wait_for("answer", "answered")))

    async with Rehearsal(conductor) as rehearsal:
        handle = await shy.invoke()
        drained = await rehearsal.drain()
        assert list(map(str, drained.waiting)) == ["shy waits for event 'answered' as 'answer'"]
        assert await handle.state() is ExecutionState.RUNNING
        with pytest.raises(AssertionError, match=r"nothing will finish .*\n.*'answered'"):
            await handle.result()
        await rehearsal.emit("answered", "yes")
        assert await handle.result() == "yes"
        await shy.invoke()
        await rehearsal.drain()
    assert attempts == [1, 1]


async def test_it_is_cancelled(conductor: Conductor) -> None:
    ended: list[str] = []

    @conductor.task
    async def shy(ctx: TaskContext) -> None:
        try:
            await asyncio.shield(asyncio.ensure_future(ctx.wait_for("answer", "answered")))
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async with Rehearsal(conductor) as rehearsal:
        handle = await shy.invoke()
        await rehearsal.drain()
        await handle.cancel()
        assert (await rehearsal.drain()).finished
        with pytest.raises(ExecutionCancelled):
            await handle.result()
    assert ended == ["cancelled"]


async def test_it_catches_its_cancellation_and_waits_on(conductor: Conductor) -> None:
    """It is told once, as on the engine: not again and again for as long as it waits."""
    told: list[str] = []

    @conductor.task
    async def deaf(ctx: TaskContext) -> str:
        answer = asyncio.ensure_future(ctx.wait_for("answer", "answered"))
        while True:
            try:
                return await asyncio.shield(answer)
            except asyncio.CancelledError:
                told.append("cancelled")

    async with Rehearsal(conductor) as rehearsal:
        handle = await deaf.invoke()
        await rehearsal.drain()
        await handle.cancel()
        assert [one.what for one in (await rehearsal.drain()).waiting] == ["answered"]
        await rehearsal.emit("answered", "yes")
        assert (await rehearsal.drain()).finished
    assert told == ["cancelled"]


async def test_without_end(conductor: Conductor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgconductor.testing.player._MOST", 5)

    @conductor.task
    async def clock(ctx: TaskContext) -> None:
        for tick in range(100):
            await asyncio.shield(asyncio.ensure_future(ctx.sleep(f"{tick}", DAY)))

    async with Rehearsal(conductor) as rehearsal:
        await clock.invoke()
        with pytest.raises(AssertionError, match="no end after 5 attempts: clock"):
            await rehearsal.drain()


@pytest.mark.parametrize("way", ["sleeps", "in a thread"])
async def test_what_goes_on_by_itself_is_waited_for(conductor: Conductor, way: str) -> None:
    """The clock does not move meanwhile: the same every time, however slow the machine is."""

    @conductor.task
    async def racing(ctx: TaskContext) -> str:
        work = asyncio.sleep(0.3) if way == "sleeps" else asyncio.to_thread(time.sleep, 0.3)
        first = asyncio.ensure_future(work)
        late = asyncio.ensure_future(ctx.sleep("late", DAY))
        await asyncio.wait([first, late], return_when=asyncio.FIRST_COMPLETED)
        late.cancel()
        return "late" if late.done() else "in time"

    async with Rehearsal(conductor):
        assert await (await racing.invoke()).result() == "in time"


async def test_the_error_names_what_is_open(conductor: Conductor) -> None:
    @conductor.task
    async def stuck(ctx: TaskContext) -> None:
        await asyncio.gather(asyncio.sleep(60), ctx.sleep("nap", DAY), ctx.sleep("doze", DAY))

    async with Rehearsal(conductor, patience=timedelta(seconds=0.3)) as rehearsal:
        handle = await stuck.invoke()
        with pytest.raises(TimeoutError, match="no wait of its context, beside its waits 'doze', "):
            await rehearsal.drain()
        await handle.cancel()


async def test_what_waits_in_a_thread(conductor: Conductor) -> None:
    """Nobody can tell what the thread does: an error, and the thread is let go."""
    ended: list[str] = []

    @conductor.task
    async def parent(ctx: TaskContext) -> None:
        def plain() -> None:
            try:
                ctx.here(ctx.sleep("nap", DAY))
            except BaseException as error:
                ended.append(type(error).__name__)
                raise

        await ctx.step("outer", plain)

    async with Rehearsal(conductor, patience=timedelta(seconds=0.3)) as rehearsal:
        handle = await parent.invoke()
        with pytest.raises(TimeoutError, match="beside its waits 'nap'"):
            await rehearsal.drain()
        await handle.cancel()
    await eventually(lambda: ended == ["Interrupted"])
