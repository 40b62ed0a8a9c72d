"""Errors, retries, time-outs: what a handler may do, and what becomes of its execution."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from typing import Any

import pytest

from pgconductor import Conductor, RetryPolicy, TaskContext
from pgconductor.exceptions import (
    ConfigurationError,
    DoNotRetry,
    ExecutionFailed,
    RetryAfter,
)
from tests.integration.runtime_world import AT_ONCE, SOON, World
from tests.support.waiting import eventually


async def test_attempts_are_used_up(world: World, conductor: Conductor) -> None:
    """A2, B4: as often as allowed, then failed for good, with the last error."""
    attempts: list[int] = []

    @conductor.task(max_attempts=3, retry=AT_ONCE)
    async def fail(ctx: TaskContext) -> None:
        attempts.append(ctx.attempt)
        raise ValueError(f"attempt {ctx.attempt}")

    handle = await fail.invoke()
    await conductor.orchestrator().drain()
    with pytest.raises(ExecutionFailed) as caught:
        await handle.result(SOON)
    assert attempts == [1, 2, 3]
    assert caught.value.execution_id == handle.id
    assert caught.value.error_type == "ValueError"
    assert caught.value.error_message == "attempt 3"
    row = world.execution(handle.id)
    assert (row["attempts"], row["last_error_type"]) == (3, "ValueError")
    assert "in fail" in row["last_error_traceback"]


async def test_a_later_attempt_succeeds(world: World, conductor: Conductor) -> None:
    """B4: the error of before stays on record, the result is there."""

    @conductor.task(max_attempts=5, retry=AT_ONCE)
    async def flaky(ctx: TaskContext) -> int:
        if ctx.attempt < 3:
            raise OSError("not yet")
        return ctx.attempt

    handle = await flaky.invoke()
    await conductor.orchestrator().drain()
    assert await handle.result(SOON) == 3
    assert world.execution(handle.id)["last_error"] == "not yet"


@pytest.mark.parametrize(
    ("error", "policy"),
    [
        (DoNotRetry("never"), RetryPolicy()),
        (KeyError("fatal"), RetryPolicy(fatal=(LookupError,))),
        (ValueError("not listed"), RetryPolicy(retryable=(OSError,))),
    ],
    ids=["DoNotRetry", "fatal", "not retryable"],
)
async def test_errors_that_are_final(
    world: World, conductor: Conductor, error: Exception, policy: RetryPolicy
) -> None:
    """Semantics 2 (error): whatever attempts are left."""

    @conductor.task(max_attempts=9, retry=policy)
    async def fail(ctx: TaskContext) -> None:
        raise error

    handle = await fail.invoke()
    await conductor.orchestrator().drain()
    row = world.execution(handle.id)
    assert (row["state"], row["attempts"]) == ("failed", 1)
    assert row["last_error_type"] == type(error).__name__


async def test_retry_after(world: World, conductor: Conductor) -> None:
    """I6: counted by the database's clock, and drain leaves what is due later."""

    @conductor.task(max_attempts=2)
    async def later(ctx: TaskContext) -> None:
        raise RetryAfter(timedelta(hours=1))

    handle = await later.invoke()
    await conductor.orchestrator().drain()
    (row,) = world.rows(
        "SELECT state, attempts, run_at - clock_timestamp() AS due_in"
        " FROM pgconductor.executions WHERE id = %s",
        handle.id,
    )
    assert (row["state"], row["attempts"]) == ("available", 1)
    assert timedelta(minutes=59) < row["due_in"] <= timedelta(hours=1)


@pytest.mark.parametrize(
    "delay", [timedelta.max, timedelta(days=-999_999_999), "soon", None, 5], ids=range(5)
)
async def test_a_delay_that_makes_no_sense(world: World, conductor: Conductor, delay: Any) -> None:
    """I3, B15: it spoils neither its own report nor those of its neighbours in the batch."""

    @conductor.task(max_attempts=2)
    async def odd(ctx: TaskContext) -> None:
        raise RetryAfter(delay, "the reason")

    @conductor.task
    async def neighbour(ctx: TaskContext, number: int) -> int:
        return number

    handle = await odd.invoke()
    neighbours = await neighbour.invoke_many(range(20))
    await conductor.orchestrator().drain()
    assert [await one.result(SOON) for one in neighbours] == list(range(20))
    row = world.execution(handle.id)
    # A negative delay is none at all: it was tried again at once.
    negative = isinstance(delay, timedelta) and delay < timedelta(0)
    assert (row["state"], row["attempts"]) == (("failed", 2) if negative else ("available", 1))
    assert (row["last_error_type"], row["last_error"]) == ("RetryAfter", "the reason")


async def test_an_async_handler_that_takes_too_long(world: World, conductor: Conductor) -> None:
    """I9: it is cancelled where it waits, and that is an error like any other."""
    cleaned = asyncio.Event()

    @conductor.task(timeout=timedelta(seconds=0.05), max_attempts=2, retry=AT_ONCE)
    async def long(ctx: TaskContext) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            cleaned.set()

    handle = await long.invoke()
    await conductor.orchestrator().drain()
    row = world.execution(handle.id)
    assert (row["state"], row["attempts"]) == ("failed", 2)
    assert row["last_error_type"] == "TimeoutError"
    assert "0:00:00.05" in row["last_error"]
    assert cleaned.is_set()


async def test_a_handlers_own_time_out_is_its_own(world: World, conductor: Conductor) -> None:
    """A TimeoutError that the handler raises is not mistaken for the task's."""

    @conductor.task(timeout=timedelta(seconds=60), max_attempts=1)
    async def short(ctx: TaskContext) -> None:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(3600)

    handle = await short.invoke()
    await conductor.orchestrator().drain()
    row = world.execution(handle.id)
    assert (row["state"], row["last_error_type"]) == ("failed", "TimeoutError")
    assert "longer than" not in row["last_error"]


async def test_a_plain_handler_that_takes_too_long(world: World, conductor: Conductor) -> None:
    """I1, I9: it is retried beside the thread that goes on, whose late end changes nothing.

    The thread keeps its slot until it ends, and sees ``ctx.cancelled`` meanwhile.
    """
    told: list[bool] = []
    let_go = threading.Event()

    @conductor.task(timeout=timedelta(seconds=1), max_attempts=3, retry=AT_ONCE)
    def long(ctx: TaskContext) -> str:
        if ctx.attempt == 1:
            let_go.wait(20)
            told.append(ctx.cancelled)
            return "late"
        return "in time"

    async with world.serving(conductor, concurrency=2) as orchestrator:
        handle = await long.invoke()
        assert await handle.result(SOON) == "in time"
        assert orchestrator._machine is not None
        workers = orchestrator._machine.workers
        held = [one for worker in workers for one in worker._attempts]
        assert [execution_id for execution_id, _ in held] == [handle.id]
        let_go.set()
        await eventually(lambda: all(worker.quiet for worker in workers))
    assert told == [True]
    row = world.execution(handle.id)
    assert (row["attempts"], row["result"]) == (2, "in time")


async def test_one_slot_and_a_thread_that_does_not_end(world: World, conductor: Conductor) -> None:
    """C (permits leaked): the slot comes back when the thread ends, not before and not never."""
    let_go = threading.Event()
    started: list[str] = []

    @conductor.task(timeout=timedelta(seconds=1), max_attempts=1)
    def stuck(ctx: TaskContext) -> None:
        started.append("stuck")
        let_go.wait(20)

    @conductor.task
    def after(ctx: TaskContext) -> None:
        started.append("after")

    async with world.serving(conductor, concurrency=1):
        first = await stuck.invoke()
        await eventually(lambda: started == ["stuck"])
        with pytest.raises(ExecutionFailed, match="longer than"):
            await first.result(SOON)
        second = await after.invoke()
        assert started == ["stuck"]
        let_go.set()
        await second.result(SOON)
    assert started == ["stuck", "after"]


@pytest.mark.parametrize("kind", ["async", "plain"])
@pytest.mark.parametrize(
    "error",
    [SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError(), StopIteration()],
    ids=lambda error: type(error).__name__,
)
async def test_the_process_survives_its_handlers(
    world: World, conductor: Conductor, kind: str, error: BaseException
) -> None:
    """Reliability 5: ``sys.exit`` and the like end an attempt, and the neighbours go on."""

    async def asynchronous(ctx: TaskContext) -> None:
        raise error

    def plain(ctx: TaskContext) -> None:
        raise error

    rude = conductor.task("rude", max_attempts=2, retry=AT_ONCE)(
        asynchronous if kind == "async" else plain
    )

    @conductor.task
    async def neighbour(ctx: TaskContext) -> str:
        await asyncio.sleep(0.01)
        return "well"

    handle = await rude.invoke()
    neighbours = await neighbour.invoke_many([None] * 5)
    await conductor.orchestrator(concurrency=4).drain()
    assert [await one.result(SOON) for one in neighbours] == ["well"] * 5
    row = world.execution(handle.id)
    assert (row["state"], row["attempts"]) == ("failed", 2)


def test_generators_are_no_handlers(conductor: Conductor) -> None:
    """Semantics 6: refused where they are declared."""

    def plain(ctx: TaskContext) -> Any:
        yield 1

    async def asynchronous(ctx: TaskContext) -> Any:
        yield 1

    for function in (plain, asynchronous):
        with pytest.raises(ConfigurationError, match="generator"):
            conductor.task(function)


@pytest.mark.parametrize(
    ("result", "why"),
    [
        (object(), "not JSON"),
        ({1, 2}, "not JSON"),
        (float("nan"), "non-finite"),
        ("a\x00b", "NUL"),
        ("\ud800", "surrogate"),
        (2**70, "64 bits"),
        ({1: 2}, "not a string"),
        ("x" * 2_000_000, "the limit is"),
    ],
    ids=["object", "set", "nan", "nul", "surrogate", "int", "key", "huge"],
)
async def test_a_result_that_cannot_be_stored(
    world: World, conductor: Conductor, result: Any, why: str
) -> None:
    """Semantics 6: the effects have happened, so it is not tried again, and the error says so."""
    calls: list[int] = []

    @conductor.task(max_attempts=5, retry=AT_ONCE)
    async def odd(ctx: TaskContext) -> Any:
        calls.append(ctx.attempt)
        return result

    handle = await odd.invoke()
    await conductor.orchestrator().drain()
    row = world.execution(handle.id)
    assert (row["state"], row["last_error_type"], calls) == ("failed", "ResultEncodeError", [1])
    assert why in row["last_error"]
    assert "effects have happened" in row["last_error"]


async def test_a_result_of_50_megabytes(world: World) -> None:
    """Reliability 5: refused, while heartbeats and neighbours go on."""
    conductor = world.conductor()

    @conductor.task
    def huge(ctx: TaskContext) -> list[str]:
        return ["x" * 1000] * 50_000

    @conductor.task
    async def neighbour(ctx: TaskContext) -> None:
        return

    handle = await huge.invoke()
    others = await neighbour.invoke_many([None] * 3)
    assert await conductor.orchestrator().drain() == "clean"
    assert world.execution(handle.id)["last_error_type"] == "ResultEncodeError"
    for other in others:
        await other.result(SOON)


async def test_a_thread_that_a_handler_leaves_behind(world: World, conductor: Conductor) -> None:
    """Reliability 5: none of our business, and no hindrance."""
    let_go = threading.Event()
    leaked: list[threading.Thread] = []

    @conductor.task
    def leaky(ctx: TaskContext) -> str:
        leaked.append(threading.Thread(target=let_go.wait, args=(20,)))
        leaked[0].start()
        return "done"

    handle = await leaky.invoke()
    assert await conductor.orchestrator().drain() == "clean"
    assert await handle.result(SOON) == "done"
    assert leaked[0].is_alive()
    let_go.set()
    leaked[0].join(20)
