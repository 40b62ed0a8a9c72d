"""What a later attempt does with the record of an earlier one, also where the code has changed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from pgconductor import Conductor, RetryPolicy, TaskContext
from pgconductor.exceptions import ExecutionFailed
from tests.integration.runtime_world import SOON, World

AT_ONCE = RetryPolicy.constant(timedelta(milliseconds=1))
Version = Callable[[TaskContext], Awaitable[Any]]


class Twice:
    """An execution whose code changes between its first attempt, which fails at its end, and its
    second."""

    def __init__(self, conductor: Conductor) -> None:
        self._conductor = conductor
        self.calls: list[str] = []

    def note(self, what: str) -> str:
        self.calls.append(what)
        return what

    async def result(self, before: Version, after: Version) -> Any:
        versions = [before, after]

        @self._conductor.task(max_attempts=2, retry=AT_ONCE)
        async def task(ctx: TaskContext) -> Any:
            result = await versions[ctx.attempt - 1](ctx)
            if ctx.attempt == 1:
                raise RuntimeError("the first attempt fails")
            return result

        handle = await task.invoke()
        await self._conductor.orchestrator().drain()
        return await handle.result(SOON)


@pytest.fixture
def twice(conductor: Conductor) -> Twice:
    return Twice(conductor)


def steps(note: Callable[[str], str], *keys: str) -> Version:
    async def version(ctx: TaskContext) -> str:
        return "".join([await ctx.step(key, note, key) for key in keys])

    return version


@pytest.mark.parametrize(
    ("after", "expected", "found", "called"),
    [
        ("axb", "step 'b' as number 2", "step 'x'", "ab"),
        ("xb", "step 'a' as number 1", "step 'x'", "ab"),
        ("b", "step 'a' as number 1", "step 'b'", "ab"),
        ("ba", "step 'a' as number 1", "step 'b'", "ab"),
    ],
)
async def test_a_changed_sequence_is_told_before_anything_is_called(
    twice: Twice, after: str, expected: str, found: str, called: str
) -> None:
    with pytest.raises(ExecutionFailed, match="ReplayMismatch") as caught:
        await twice.result(steps(twice.note, "a", "b"), steps(twice.note, *after))
    assert f"expected {expected}, found {found}" in caught.value.error_message
    assert "".join(twice.calls) == called


async def test_more_at_the_end_is_no_mismatch(twice: Twice) -> None:
    assert await twice.result(steps(twice.note, "a"), steps(twice.note, "a", "b")) == "ab"
    assert twice.calls == ["a", "b"]


async def test_another_kind_under_the_same_key(twice: Twice) -> None:
    async def sleeps(ctx: TaskContext) -> None:
        await ctx.sleep("a", timedelta(0))

    with pytest.raises(ExecutionFailed, match="expected step 'a', found sleep 'a'"):
        await twice.result(steps(twice.note, "a"), sleeps)


async def test_another_event_under_the_same_key(twice: Twice) -> None:
    async def emits(ctx: TaskContext) -> None:
        await ctx.emit("one", key="a")

    async def emits_another(ctx: TaskContext) -> None:
        await ctx.emit("two", key="a")

    with pytest.raises(ExecutionFailed, match=r"expected emit 'a' \(one\), found emit 'a' \(two\)"):
        await twice.result(emits, emits_another)


async def test_a_result_of_another_type(twice: Twice) -> None:
    async def a_text() -> str:
        return "text"

    async def a_number() -> int:
        return 1

    async def before(ctx: TaskContext) -> str:
        return await ctx.step("a", a_text)

    async def after(ctx: TaskContext) -> int:
        return await ctx.step("a", a_number)

    with pytest.raises(ExecutionFailed, match="expected step 'a' with its result, found that it"):
        await twice.result(before, after)


async def test_branches_may_come_in_any_order(twice: Twice) -> None:
    def branches(*keys: str) -> Version:
        async def version(ctx: TaskContext) -> list[str]:
            first = await ctx.step("first", twice.note, "first")
            rest = await asyncio.gather(*(ctx.step(key, twice.note, key) for key in keys))
            return [first, *rest]

        return version

    assert await twice.result(branches("a", "b"), branches("b", "c", "a")) == [
        *["first", "b", "c", "a"]
    ]


async def test_an_error_that_is_not_on_record_leads_another_way(twice: Twice) -> None:
    """The first attempt falls back; the second need not: that is no mismatch."""
    healthy = False

    def shaky() -> str:
        if not healthy:
            raise OSError("down")
        return "shaky"

    async def version(ctx: TaskContext) -> str:
        try:
            return await ctx.step("shaky", shaky)
        except OSError:
            return await ctx.step("fallback", twice.note, "fallback")

    async def later(ctx: TaskContext) -> str:
        nonlocal healthy
        healthy = True
        return await version(ctx) + await ctx.step("more", twice.note, "more")

    assert await twice.result(version, later) == "shakymore"


async def test_patched(twice: Twice, world: World) -> None:
    """Executions that were beyond a change go by the old code, and all others by the new."""

    async def patched(ctx: TaskContext) -> str:
        first = await ctx.step("a", twice.note, "a")
        if await ctx.patched("two mails"):
            return first + await ctx.step("b2", twice.note, "b2")
        return first + await ctx.step("b", twice.note, "b")

    assert await twice.result(steps(twice.note, "a", "b"), patched) == "ab"
    fresh = Twice(world.conductor())
    assert await fresh.result(steps(fresh.note, "a"), patched) == "ab2"


async def test_the_answer_of_patched_stands(twice: Twice, world: World) -> None:
    async def version(ctx: TaskContext) -> bool:
        new = await ctx.patched("change")
        await ctx.step("later", twice.note, "later")
        return new

    assert await twice.result(version, version) is True
    assert {"key": "change", "kind": "patch", "place": None} in world.rows(
        "SELECT key, kind, place FROM pgconductor.steps"
    )


async def test_a_decorated_step(twice: Twice) -> None:
    async def version(ctx: TaskContext) -> str:
        @ctx.step("greet")
        async def greet(name: str) -> str:
            return twice.note(f"hello {name}")

        @ctx.options(timeout=timedelta(seconds=20)).step("part")
        def part() -> str:
            return twice.note("bye")

        return f"{await greet('you')}, {await part()}"

    assert await twice.result(version, version) == "hello you, bye"
    assert twice.calls == ["hello you", "bye"]


async def test_a_step_that_takes_too_long(conductor: Conductor) -> None:
    @conductor.task(max_attempts=1)
    async def task(ctx: TaskContext) -> None:
        await ctx.options(timeout=timedelta(milliseconds=5)).step("slow", asyncio.sleep, 60)

    handle = await task.invoke()
    await conductor.orchestrator().drain()
    with pytest.raises(ExecutionFailed, match="StepTimeout: step 'slow' took longer than"):
        await handle.result(SOON)


async def test_what_is_spawned_and_emitted_is_so_once(twice: Twice, world: World) -> None:
    other = world.conductor().task_ref("other", queue="elsewhere")

    async def version(ctx: TaskContext) -> str:
        child = await ctx.spawn("side", other, {"n": 1}, delay=timedelta(hours=1))
        await ctx.emit("happened", {"n": 1})
        await ctx.emit("happened", {"n": 2})
        return str(child)

    child = await twice.result(version, version)
    rows = world.rows(
        "SELECT id::text, parent_key, awaited, run_at > now() AS later FROM pgconductor.executions"
        " WHERE queue = 'elsewhere'"
    )
    assert rows == [{"id": child, "parent_key": None, "awaited": False, "later": True}]
    events = world.rows("SELECT payload FROM pgconductor.events ORDER BY emitted_at, id")
    assert [one["payload"] for one in events] == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize("outer", ["step", "plain step", "transact", "block", "options"])
async def test_what_is_begun_inside_of_a_step_is_not_missed_later(twice: Twice, outer: str) -> None:
    """In a later attempt the step is not called, so what it began is not begun."""
    patience = timedelta(seconds=20)

    async def version(ctx: TaskContext) -> str:
        async def inside(_session: Any = None) -> str:
            await ctx.sleep("nap", timedelta(0))
            return await ctx.step("inner", twice.note, "inner")

        def plain() -> str:
            return ctx.here(inside())

        if outer == "step":
            await ctx.step("outer", inside)
        elif outer == "plain step":
            await ctx.step("outer", plain)
        elif outer == "options":
            await ctx.options(max_attempts=2, timeout=patience).step("outer", inside)
        elif outer == "transact":
            await ctx.transact("outer", inside)
        else:
            async with ctx.transaction("outer") as session:
                await session.execute(text("SELECT 1"))
                await inside()
        return await ctx.step("next", twice.note, "next")

    assert await twice.result(version, version) == "next"
    assert twice.calls == ["inner", "next"]


async def test_a_plain_handler_takes_a_step_inside_of_a_step(world: World) -> None:
    conductor = world.conductor()

    @conductor.task(max_attempts=2, retry=AT_ONCE)
    def task(ctx: TaskContext) -> int:
        def outer() -> int:
            return ctx.step_here("inner", len, "inner")

        ctx.step_here("outer", outer)
        found = ctx.step_here("next", len, "next")
        if ctx.attempt == 1:
            raise RuntimeError("the first attempt fails")
        return found

    handle = await task.invoke()
    await conductor.orchestrator().drain()
    assert await handle.result(SOON) == 4


async def test_an_event_of_another_type_is_not_put_down_to_the_handler(world: World) -> None:
    conductor = world.conductor()
    paid = conductor.event("paid", int)

    @conductor.task(max_attempts=1)
    async def task(ctx: TaskContext) -> int:
        return await ctx.wait_for("payment", paid)

    handle = await task.invoke()
    world.rows("SELECT pgconductor.emit_event('paid', '\"much\"')")
    async with world.serving(conductor):
        with pytest.raises(ExecutionFailed, match=r"is not a valid int.*It was emitted so, or the"):
            await handle.result(SOON)


@pytest.mark.parametrize("before", [False, True], ids=["", "after a step"])
async def test_what_is_left_behind_begins_nothing(
    world: World, conductor: Conductor, *, before: bool
) -> None:
    left: list[asyncio.Task[str]] = []
    called: list[str] = []

    @conductor.task(max_attempts=1)
    async def task(ctx: TaskContext) -> None:
        async def later() -> str:
            await asyncio.sleep(0.1)
            return await ctx.step("late", note)

        if before:
            await ctx.step("first", str, "first")
        left.append(asyncio.create_task(later()))

    async def note() -> str:
        called.append("late")
        return "late"

    async with world.serving(conductor):
        await (await task.invoke()).result(SOON)
        with pytest.raises(BaseException, match="the attempt has ended: a handler must await"):
            await left[0]
    assert called == []


async def test_branches_of_a_plain_handler_are_not_inside_of_each_other(world: World) -> None:
    """While the function of one is called, the other begins; in a replay it does not."""
    conductor = world.conductor()
    fails = [True]

    async def slow(value: str) -> str:
        await asyncio.sleep(0.01)
        return value

    @conductor.task(max_attempts=2, retry=AT_ONCE)
    def task(ctx: TaskContext) -> list[str]:
        async def both() -> list[str]:
            return list(await asyncio.gather(ctx.step("a", slow, "a"), ctx.step("b", slow, "b")))

        first = ctx.step_here("first", str, "first")
        values = ctx.here(both())
        last = ctx.here(ctx.step("last", slow, "last"))
        if fails.pop():
            fails.append(False)
            raise ValueError("again")
        return [first, *values, last]

    handle = await task.invoke()
    await conductor.orchestrator().drain()
    assert await handle.result(SOON) == ["first", "a", "b", "last"]
