"""``ctx.first``: decided once, and the same in each attempt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any

import pytest

from pgconductor import Conductor, RetryPolicy, TaskContext
from pgconductor.exceptions import ChildFailed, ExecutionFailed, InvalidInput, WaitTimeout
from pgconductor.testing import Rehearsal, crash_everywhere
from pgconductor.types import ExecutionState

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


async def note(what: str) -> str:
    return what


async def test_an_answer_before_its_deadline(conductor: Conductor, rehearsal: Rehearsal) -> None:
    seen: list[str] = []

    @conductor.task
    async def approve(ctx: TaskContext) -> str:
        won = await ctx.first(
            "decision",
            ctx.wait_for("answer", "answered"),
            ctx.sleep("deadline", HOUR),
        )
        seen.append(f"{won.index} {won.value}")
        await ctx.sleep("cooling off", DAY)
        return await ctx.step("note", note, "late" if won.index else str(won.value))

    handle = await approve.invoke()
    await rehearsal.pass_time(5 * MINUTE)
    await rehearsal.emit("answered", "yes")
    assert await handle.result() == "yes"
    # Before the replay after a day, the deadline had passed, too.
    assert seen == ["0 yes", "0 yes"]
    assert await rehearsal.steps(handle) == {
        "decision": 0,
        "answer": "yes",
        "cooling off": None,
        "note": "yes",
    }


async def test_a_deadline_before_the_answer(conductor: Conductor, rehearsal: Rehearsal) -> None:
    """The answer that comes too late is for whoever waits for it next."""

    @conductor.task
    async def approve(ctx: TaskContext) -> str:
        won = await ctx.first(
            "decision", ctx.wait_for("answer", "answered"), ctx.sleep("deadline", HOUR)
        )
        assert won.index == 1
        await ctx.sleep("cooling off", DAY)
        return str(await ctx.wait_for("second", "answered"))

    handle = await approve.invoke()
    await rehearsal.pass_time(2 * HOUR)
    assert await handle.state() is ExecutionState.WAITING
    await rehearsal.emit("answered", "late")
    await rehearsal.drain(at_most=timedelta(0))
    # Nobody is woken by what comes for one that was not first.
    assert (await rehearsal.drain(at_most=timedelta(0))).attempts == 0
    assert await handle.result() == "late"


async def test_an_event_that_a_loser_had_is_for_the_next(
    conductor: Conductor, rehearsal: Rehearsal
) -> None:
    """Both had come when somebody looked."""

    @conductor.task
    async def merge(ctx: TaskContext) -> list[Any]:
        got: list[Any] = []
        for _ in range(4):
            won = await ctx.first(
                ctx.numbered("next"),
                ctx.wait_for(ctx.numbered("a"), "news", match={"of": "a"}),
                ctx.wait_for(ctx.numbered("b"), "news", match={"of": "b"}),
            )
            got.append(won.value)
        return got

    handle = await merge.invoke()
    await rehearsal.drain()
    for one in ("b", "a", "b", "a"):
        await rehearsal.emit("news", {"of": one})
    assert await handle.result() == [{"of": "a"}, {"of": "a"}, {"of": "b"}, {"of": "b"}]


async def test_the_same_event_twice(conductor: Conductor, rehearsal: Rehearsal) -> None:
    @conductor.task
    async def twice(ctx: TaskContext) -> list[Any]:
        won = await ctx.first("first", ctx.wait_for("a", "news"), ctx.wait_for("b", "news"))
        return [won.index, won.value, await ctx.wait_for("c", "news")]

    handle = await twice.invoke()
    await rehearsal.drain()
    await rehearsal.emit("news", 1)
    await rehearsal.emit("news", 2)
    assert await handle.result() == [0, 1, 2]


@pytest.mark.parametrize("cancel_late", [True, False])
async def test_the_fastest_child(
    conductor: Conductor, rehearsal: Rehearsal, *, cancel_late: bool
) -> None:
    @conductor.task
    async def quote(ctx: TaskContext, hours: int) -> int:
        await ctx.sleep("thinking", hours * HOUR)
        return hours

    @conductor.task
    async def buy(ctx: TaskContext) -> int:
        won = await ctx.first(
            "fastest",
            *(
                ctx.invoke(f"quote {hours}", quote, hours, cancel_late=cancel_late)
                for hours in (3, 1, 2)
            ),
        )
        assert won.index == 1
        await ctx.sleep("a while", MINUTE)
        return won.value

    handle = await buy.invoke()
    assert await handle.result() == 1
    await rehearsal.drain()
    states = {one.payload: one.state for one in await rehearsal.executions(quote)}
    others = ExecutionState.CANCELLED if cancel_late else ExecutionState.COMPLETED
    assert states == {1: ExecutionState.COMPLETED, 2: others, 3: others}


async def test_the_error_of_the_first_is_raised(conductor: Conductor, rehearsal: Rehearsal) -> None:
    seen: list[str] = []

    @conductor.task(max_attempts=1)
    async def fail(ctx: TaskContext) -> None:
        await ctx.sleep("a bit", MINUTE)
        raise ValueError("no")

    @conductor.task
    async def parent(ctx: TaskContext) -> str:
        try:
            await ctx.first("first", ctx.sleep("long", DAY), ctx.invoke("child", fail))
        except ChildFailed as error:
            seen.append(error.error_type)
        await ctx.sleep("longer", 2 * DAY)
        try:
            await ctx.first(
                "second", ctx.sleep("l", DAY), ctx.wait_for("w", "never", timeout=MINUTE)
            )
        except WaitTimeout:
            return "in time"
        return "late"

    handle = await parent.invoke()
    assert await handle.result() == "in time"
    assert set(seen) == {"ValueError"}
    assert len(seen) > 1


async def test_contenders_of_several_waits_and_steps(
    conductor: Conductor, rehearsal: Rehearsal
) -> None:
    """In branches, nested, with steps: what losers have begun is not begun again."""
    called: list[str] = []

    async def call(what: str) -> str:
        called.append(what)
        return what

    @conductor.task
    async def handler(ctx: TaskContext) -> list[str]:
        async def chain(name: str, pause: timedelta) -> str:
            await ctx.step(f"{name} begins", call, f"{name} begins")
            await ctx.sleep(f"{name} pauses", pause)
            return await ctx.step(f"{name} ends", call, f"{name} ends")

        async def branch(name: str) -> str:
            won = await ctx.first(
                f"{name} race",
                chain(f"{name} slow", 3 * HOUR),
                nested(name),
            )
            await ctx.sleep(f"{name} rests", HOUR)
            return str(won.value)

        async def nested(name: str) -> str:
            won = await ctx.first(
                f"{name} nested",
                chain(f"{name} fast", HOUR),
                chain(f"{name} medium", 2 * HOUR),
            )
            return won.value

        both = await asyncio.gather(branch("a"), branch("b"))
        assert await ctx.patched("new")
        await ctx.step("last", call, "last")
        return list(both)

    handle = await handler.invoke()
    assert await handle.result() == ["a fast ends", "b fast ends"]
    begins = [f"{name} {speed} begins" for name in "ab" for speed in ("slow", "fast", "medium")]
    assert sorted(called) == sorted([*begins, "a fast ends", "b fast ends", "last"])


async def test_a_step_against_the_clock(conductor: Conductor, rehearsal: Rehearsal) -> None:
    calls: list[str] = []

    async def fail() -> None:
        calls.append("fail")
        raise ValueError("not yet")

    @conductor.task
    async def handler(ctx: TaskContext) -> list[int]:
        quick = await ctx.first("a", ctx.step("quick", note, "x"), ctx.sleep("long", DAY))
        patient = ctx.options(max_attempts=9, retry=RetryPolicy.constant(HOUR))
        slow = await ctx.first(
            "b", patient.step("slow", fail), ctx.sleep("short", timedelta(minutes=150))
        )
        await ctx.sleep("end", DAY)
        return [quick.index, slow.index]

    handle = await handler.invoke()
    assert await handle.result() == [0, 1]
    assert len(calls) == 3


async def test_a_try_of_one_that_was_not_first_wakes_nobody(
    conductor: Conductor, rehearsal: Rehearsal
) -> None:
    attempts: list[int] = []

    async def fail() -> None:
        raise ValueError("not yet")

    @conductor.task
    async def handler(ctx: TaskContext) -> None:
        attempts.append(ctx.attempt)
        patient = ctx.options(max_attempts=9, retry=RetryPolicy.constant(HOUR))
        await ctx.first("b", patient.step("slow", fail), ctx.sleep("short", 150 * MINUTE))
        await ctx.wait_for("end", "end")

    await handler.invoke()
    await rehearsal.pass_time(151 * MINUTE)
    before = len(attempts)
    await rehearsal.pass_time(DAY)
    assert len(attempts) == before


async def test_tasks_of_the_handler_are_left_to_it(
    conductor: Conductor, rehearsal: Rehearsal
) -> None:
    @conductor.task
    async def handler(ctx: TaskContext) -> list[Any]:
        answer = asyncio.create_task(ctx.wait_for("answer", "answered"))
        late = asyncio.create_task(ctx.sleep("deadline", HOUR))
        won = await ctx.first("reminder?", answer, late)
        await ctx.step("remind", note, "remind")
        await ctx.sleep("more", DAY)
        return [won.index, await answer]

    handle = await handler.invoke()
    await rehearsal.pass_time(2 * HOUR)
    await rehearsal.emit("answered", "yes")
    assert await handle.result() == [1, "yes"]


async def test_plain_handlers(conductor: Conductor, rehearsal: Rehearsal) -> None:
    @conductor.task
    def handler(ctx: TaskContext) -> int:
        won = ctx.here(ctx.first("which", ctx.sleep("a", DAY), ctx.sleep("b", HOUR)))
        ctx.here(ctx.sleep("c", 3 * DAY))
        return won.index

    assert await (await handler.invoke()).result() == 1


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["decision", "answer", "deadline", "end"])
async def test_crashes(conductor: Conductor, rehearsal: Rehearsal, step: str, when: Any) -> None:
    @conductor.task(retry=RetryPolicy.constant(timedelta(seconds=1)))
    async def approve(ctx: TaskContext) -> list[Any]:
        won = await ctx.first(
            "decision", ctx.sleep("deadline", HOUR), ctx.wait_for("answer", "answered")
        )
        await ctx.sleep("end", DAY)
        return [won.index, won.value]

    rehearsal.crash_at(step, when=when)
    handle = await approve.invoke()
    await rehearsal.drain(at_most=MINUTE)
    await rehearsal.emit("answered", "yes")
    assert await handle.result() == [1, "yes"]


async def test_what_cannot_race(conductor: Conductor, rehearsal: Rehearsal) -> None:
    @conductor.task(max_attempts=1)
    async def nobody(ctx: TaskContext) -> None:
        await ctx.first("which")

    @conductor.task(max_attempts=1)
    async def nothing(ctx: TaskContext) -> None:
        await ctx.first("which", ctx.sleep("a", HOUR), 7)  # type: ignore[call-overload]

    @conductor.task(max_attempts=1)
    async def twice(ctx: TaskContext) -> None:
        one = ctx.sleep("a", HOUR)
        await ctx.first("which", one, one)

    for task in (nobody, nothing, twice):
        handle = await task.invoke()
        with pytest.raises(ExecutionFailed, match=InvalidInput.__name__):
            await handle.result()
        assert await rehearsal.steps(handle) == {}


async def test_crashes_everywhere(conductor: Conductor) -> None:
    """A race of a child, a chain with steps, and an inner race; in a loop, and with leftovers."""
    effects: list[str] = []

    @conductor.task(max_crashes=9)
    async def child(ctx: TaskContext, hours: int) -> int:
        await ctx.sleep("thinking", hours * HOUR)
        return hours

    @conductor.task(max_crashes=9)
    async def handler(ctx: TaskContext) -> list[Any]:
        async def chain(name: str) -> str:
            await ctx.sleep(ctx.numbered(f"{name} pause"), HOUR)
            return await ctx.step(ctx.numbered(f"{name} note"), note, name)

        got: list[Any] = []
        for number in range(2):
            slow = ctx.invoke(ctx.numbered("child"), child, 5 - 4 * number)
            inner = ctx.first(
                ctx.numbered("inner"), chain(f"a{number}"), ctx.wait_for(f"bell {number}", "bell")
            )
            won = await ctx.first(ctx.numbered("outer"), slow, inner, chain(f"b{number}"))
            got.append(won.index)
            await ctx.step(f"round {number}: {won.index}", effects.append, f"round {number}")
        await ctx.sleep("cooling off", DAY)
        return got

    async for crash in crash_everywhere(conductor):
        async with crash as rehearsal:
            handle = await handler.invoke()
            await rehearsal.drain(at_most=MINUTE)
            await rehearsal.emit("bell")
            got = await handle.result()
            assert got[0] == 1
            await rehearsal.drain()
            children = await rehearsal.executions(child)
            assert len(children) == 2
            assert children[0].state is ExecutionState.CANCELLED
