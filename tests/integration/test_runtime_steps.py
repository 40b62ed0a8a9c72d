"""I4, I5: steps of handlers at work: executed once, remembered by name, typed, written together."""

from __future__ import annotations

import asyncio
import gc
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from pydantic import BaseModel

from pgconductor import Conductor, RetryPolicy, TaskContext
from pgconductor.exceptions import ExecutionFailed
from tests.integration.runtime_world import SOON, World
from tests.support.waiting import eventually

AT_ONCE = RetryPolicy.constant(timedelta(milliseconds=1))


class Receipt(BaseModel):
    charge: int
    to: str


def recorded(world: World) -> dict[str, Any]:
    rows = world.rows("SELECT key, result FROM pgconductor.steps ORDER BY created_at, key")
    return {row["key"]: row["result"] for row in rows}


class Once:
    """Fails the first attempt, after what came before."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.attempts = 0

    def note(self, what: str) -> str:
        self.calls.append(what)
        return what

    def end_of_attempt(self) -> None:
        self.attempts += 1
        if self.attempts == 1:
            raise RuntimeError("the first attempt fails")


async def test_a_recorded_step_is_not_called_again(world: World, conductor: Conductor) -> None:
    once = Once()

    async def charge(amount: int, *, to: str) -> Receipt:
        once.note("charge")
        return Receipt(charge=amount, to=to)

    @conductor.task(retry=AT_ONCE)
    async def checkout(ctx: TaskContext) -> int:
        receipt = await ctx.step("charge", charge, 7, to="a")
        assert isinstance(receipt, Receipt), "a replay gives back the same type"
        once.end_of_attempt()
        return receipt.charge

    handle = await checkout.invoke()
    assert await conductor.orchestrator().drain() == "clean"
    assert await handle.result(SOON) == 7
    assert (once.calls, once.attempts) == (["charge"], 2)
    assert recorded(world) == {"charge": {"charge": 7, "to": "a"}}


async def test_what_raises_is_not_remembered(world: World, conductor: Conductor) -> None:
    once = Once()

    def shaky() -> str:
        once.note("called")
        once.end_of_attempt()
        return "done"

    @conductor.task(retry=AT_ONCE)
    async def task(ctx: TaskContext) -> str:
        return await ctx.step("shaky", shaky)

    handle = await task.invoke()
    await conductor.orchestrator().drain()
    assert await handle.result(SOON) == "done"
    assert once.calls == ["called", "called"]
    assert recorded(world) == {"shaky": "done"}


async def test_plain_functions_leave_the_loop_alone(conductor: Conductor) -> None:
    """A plain function is called in a thread; one that waits for the loop proves it."""

    def blocking(loop: asyncio.AbstractEventLoop) -> str:
        return asyncio.run_coroutine_threadsafe(asyncio.sleep(0, "from the loop"), loop).result(20)

    @conductor.task
    async def task(ctx: TaskContext) -> str:
        return await ctx.step("blocking", blocking, asyncio.get_running_loop())

    handle = await task.invoke()
    await conductor.orchestrator().drain()
    assert await handle.result(SOON) == "from the loop"


async def test_a_plain_handler_takes_steps_in_its_thread(
    world: World, conductor: Conductor
) -> None:
    once = Once()

    @conductor.task(retry=AT_ONCE)
    def task(ctx: TaskContext) -> str:
        first = ctx.step_here("first", once.note, "one")
        second = ctx.step_here(ctx.numbered("more"), once.note, "two")
        once.end_of_attempt()
        return first + second

    handle = await task.invoke()
    await conductor.orchestrator().drain()
    assert await handle.result(SOON) == "onetwo"
    assert once.calls == ["one", "two"]
    assert recorded(world) == {"first": "one", "more#1": "two"}


async def test_concurrent_branches_in_any_order(world: World, conductor: Conductor) -> None:
    """I5: keyed by name, never by position."""
    once = Once()

    async def branch(name: str, delay: float) -> str:
        await asyncio.sleep(delay)
        return once.note(name)

    @conductor.task(retry=AT_ONCE)
    async def task(ctx: TaskContext) -> list[str]:
        names = ["a", "b", "c"] if once.attempts == 0 else ["c", "b", "a"]
        got = await asyncio.gather(
            *(ctx.step(name, branch, name, 0.01 * i) for i, name in enumerate(names))
        )
        once.end_of_attempt()
        return got

    handle = await task.invoke()
    await conductor.orchestrator().drain()
    assert await handle.result(SOON) == ["c", "b", "a"]
    assert sorted(once.calls) == ["a", "b", "c"]


async def test_steps_in_flight_share_a_commit(world: World, conductor: Conductor) -> None:
    """Without delaying a lone one: what gathers meanwhile goes together."""

    @conductor.task
    async def task(ctx: TaskContext) -> None:
        await asyncio.gather(*(ctx.step(f"{i}", partial(int, i)) for i in range(50)))

    handle = await task.invoke()
    await conductor.orchestrator().drain()
    await handle.result(SOON)
    commits = world.rows("SELECT count(DISTINCT xmin::text) AS n FROM pgconductor.steps")
    assert len(recorded(world)) == 50
    assert commits[0]["n"] <= 10


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("", "is empty"),
        ("x" * 501, "longer than 500"),
        ("a\x00", "NUL"),
        ("a\n", "control"),
        ("charge~1", "failed call"),
    ],
)
async def test_a_key_that_cannot_name_a_step(conductor: Conductor, key: str, words: str) -> None:
    @conductor.task(max_attempts=1)
    async def task(ctx: TaskContext) -> None:
        await ctx.step(key, int)

    handle = await task.invoke()
    await conductor.orchestrator().drain()
    with pytest.raises(ExecutionFailed, match=words):
        await handle.result(SOON)


async def test_the_same_key_twice_is_refused(conductor: Conductor) -> None:
    """I5: never silently mixed up; numbered when asked."""

    @conductor.task(max_attempts=1)
    async def twice(ctx: TaskContext) -> None:
        await ctx.step("page", int)
        await ctx.step("page", int)

    @conductor.task
    async def numbered(ctx: TaskContext) -> list[int]:
        return [await ctx.step(ctx.numbered("page"), int, i) for i in range(3)]

    refused, counted = await twice.invoke(), await numbered.invoke()
    await conductor.orchestrator().drain()
    with pytest.raises(ExecutionFailed, match=r"DuplicateStep.*'page'.*ctx.numbered"):
        await refused.result(SOON)
    assert await counted.result(SOON) == [0, 1, 2]


async def test_a_result_that_cannot_be_stored(world: World, conductor: Conductor) -> None:
    @conductor.task(max_attempts=1)
    async def task(ctx: TaskContext) -> None:
        await ctx.step("set", lambda: {1, 2})

    handle = await task.invoke()
    await conductor.orchestrator().drain()
    with pytest.raises(ExecutionFailed, match="step 'set' have happened"):
        await handle.result(SOON)
    assert recorded(world) == {}


async def test_a_step_of_who_does_not_own_it_any_more(world: World, conductor: Conductor) -> None:
    """I1: it is not recorded, and the handler learns it."""
    learnt: list[str] = []

    @conductor.task(max_attempts=1)
    async def task(ctx: TaskContext) -> None:
        world.rows("UPDATE pgconductor.executions SET claim_number = claim_number + 1000")
        try:
            await ctx.step("late", int)
        except Exception as error:
            learnt.append(type(error).__name__)
            raise

    await task.invoke()
    orchestrator = conductor.orchestrator()
    await orchestrator.start()
    await eventually(lambda: learnt)
    world.rows("UPDATE pgconductor.executions SET claim_number = claim_number - 1000")
    await orchestrator.stop()
    assert learnt == ["OwnershipLost"]
    assert recorded(world) == {}


async def test_a_retry_by_an_operator_keeps_or_drops_steps(
    world: World, conductor: Conductor
) -> None:
    once = Once()

    @conductor.task(max_attempts=1)
    async def task(ctx: TaskContext) -> str:
        await ctx.step("a", once.note, "a")
        once.end_of_attempt()
        return "ended"

    handle = await task.invoke()
    await conductor.orchestrator().drain()
    assert await conductor.executions.retry(handle.id)
    await conductor.orchestrator().drain()
    assert await handle.result(SOON) == "ended"
    assert once.calls == ["a"]


@pytest.mark.parametrize("how", ["here", "options", "inside"])
async def test_a_plain_handler_waits_for_a_step_in_another_thread(
    conductor: Conductor, how: str
) -> None:
    """I9: it holds the only thread, and must not wait for another one for ever."""

    def plain(number: int) -> int:
        return number + 1

    @conductor.task(max_attempts=1)
    def task(ctx: TaskContext) -> int:
        if how == "here":
            return ctx.here(ctx.step("a", plain, 1))
        if how == "options":
            patient = ctx.options(max_attempts=2, timeout=timedelta(seconds=5))
            return ctx.here(patient.step("a", plain, 1))

        def outer() -> int:
            return ctx.here(ctx.step("inner", plain, 1))

        return ctx.here(ctx.step("outer", outer))

    handles = [await task.invoke() for _ in range(3)]
    orchestrator = conductor.orchestrator(concurrency=1)
    await orchestrator.start()
    assert [await handle.result(SOON) for handle in handles] == [2, 2, 2]
    await orchestrator.stop()


@pytest.mark.parametrize("how", ["step", "block", "transact", "sleep"])
async def test_a_context_is_not_for_another_event_loop(conductor: Conductor, how: str) -> None:
    """The journal's loop would hand its answers to a loop that does not look for them."""

    async def nothing(_session: object) -> None: ...

    async def what(ctx: TaskContext) -> None:
        if how == "step":
            await ctx.step("a", str, "a")
        elif how == "sleep":
            await ctx.sleep("a", timedelta(0))
        elif how == "transact":
            await ctx.transact("a", nothing)
        else:
            async with ctx.transaction("a"):
                pass

    @conductor.task(max_attempts=1)
    def wrong(ctx: TaskContext) -> None:
        asyncio.run(what(ctx))

    @conductor.task(max_attempts=1)
    async def right(ctx: TaskContext) -> str:
        return await ctx.step("a", str, "a")

    orchestrator = conductor.orchestrator()
    await orchestrator.start()
    with pytest.raises(ExecutionFailed, match=r"ConfigurationError.*ctx\.here"):
        await (await wrong.invoke()).result(SOON)
    assert await (await right.invoke()).result(SOON) == "a"
    await orchestrator.stop()


@pytest.mark.parametrize("how", ["function", "lambda", "transact"])
async def test_a_function_of_the_wrong_colour(
    world: World, conductor: Conductor, how: str, recwarn: pytest.WarningsRecorder
) -> None:
    called: list[str] = []

    async def asynchronous(what: str = "a") -> str:
        called.append(what)
        return what

    def plain(_session: object) -> str:
        return "a"

    def here(ctx: TaskContext) -> None:
        wrong: Any = asynchronous if how == "function" else lambda: asynchronous("a")
        ctx.step_here("a", wrong)

    async def transact(ctx: TaskContext) -> None:
        wrong: Any = plain
        await ctx.transact("a", wrong)

    task = conductor.task(max_attempts=1)(transact if how == "transact" else here)
    handle = await task.invoke()
    await conductor.orchestrator().drain()
    hint = "is not async" if how == "transact" else r"ctx\.here\(ctx\.step"
    with pytest.raises(ExecutionFailed, match=f"InvalidInput: fn: .*{hint}"):
        await handle.result(SOON)
    assert (recorded(world), called) == ({}, [])
    gc.collect()
    assert [str(one.message) for one in recwarn if "never awaited" in str(one.message)] == []
