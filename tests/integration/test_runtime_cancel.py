"""Cancelling: wherever the execution is, it ends as cancelled, and its handler is told."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from pgconductor import Conductor, ExecutionState, TaskContext
from pgconductor.exceptions import ExecutionCancelled
from tests.integration.runtime_world import AT_ONCE, SOON, World
from tests.support.waiting import eventually


@pytest.fixture
def conductor(world: World) -> Conductor:
    # The heartbeat alone would take an hour to tell: what is told here, notifications tell.
    return world.conductor(
        heartbeat_interval=3600, self_fence_after=7200, stale_after=9000, poll_interval=3600
    )


async def test_before_it_is_fetched(world: World, conductor: Conductor) -> None:
    """B15, semantics 2 (cancel): at once, and nobody ever executes it."""
    calls: list[int] = []

    @conductor.task
    async def task(ctx: TaskContext) -> None:
        calls.append(1)

    handle = await task.invoke()
    assert await handle.cancel("changed my mind")
    assert await handle.state() is ExecutionState.CANCELLED
    await conductor.orchestrator().drain()
    with pytest.raises(ExecutionCancelled, match="changed my mind") as caught:
        await handle.result(SOON)
    assert (caught.value.execution_id, caught.value.reason) == (handle.id, "changed my mind")
    assert calls == []
    assert not await handle.cancel("again")


async def test_while_an_async_handler_runs(world: World, conductor: Conductor) -> None:
    """I10, semantics 2 (cancel): told by a notification; what it holds is let go."""
    cleaned = asyncio.Event()
    running = asyncio.Event()

    @conductor.task
    async def task(ctx: TaskContext) -> None:
        running.set()
        try:
            await asyncio.sleep(3600)
        finally:
            assert ctx.cancelled
            cleaned.set()

    async with world.serving(conductor):
        handle = await task.invoke()
        await asyncio.wait_for(running.wait(), 20)
        assert await handle.cancel("enough")
        with pytest.raises(ExecutionCancelled, match="enough"):
            await handle.result(SOON)
        assert cleaned.is_set()
        row = world.execution(handle.id)
        assert (row["state"], row["locked_by"], row["attempts"]) == ("cancelled", None, 0)


async def test_without_notifications_it_is_told_by_the_heartbeat(world: World) -> None:
    """I9: within a second or so, however seldom it would beat otherwise."""
    conductor = world.conductor(
        listen=False, heartbeat_interval=60, self_fence_after=100, stale_after=200
    )
    running = asyncio.Event()

    @conductor.task
    async def task(ctx: TaskContext) -> None:
        running.set()
        await asyncio.sleep(3600)

    async with world.serving(conductor):
        handle = await task.invoke()
        await asyncio.wait_for(running.wait(), 20)
        assert await handle.cancel()
        with pytest.raises(ExecutionCancelled):
            await handle.result(SOON)


@pytest.mark.parametrize("boundary", ["check", "cancelled"])
async def test_while_a_plain_handler_runs(
    world: World, conductor: Conductor, boundary: str
) -> None:
    """Semantics 2 (cancel): it sees ``ctx.cancelled``, or ends at ``ctx.check()``."""
    running = threading.Event()

    @conductor.task
    def task(ctx: TaskContext) -> str:
        running.set()
        for _ in range(4000):
            if boundary == "check":
                ctx.check()
            elif ctx.cancelled:
                return "gave in"
            time.sleep(0.005)
        return "never told"

    async with world.serving(conductor):
        handle = await task.invoke()
        await eventually(running.is_set)
        assert await handle.cancel()
        with pytest.raises(ExecutionCancelled):
            await handle.result(SOON)
    assert world.execution(handle.id)["result"] is None


async def test_prefetched_and_not_started(world: World) -> None:
    """B15: it never starts, and the worker can be idle and stop without waiting for it."""
    conductor = world.conductor(give_back_after=3600)
    let_go = asyncio.Event()
    started: list[int] = []

    @conductor.task
    async def task(ctx: TaskContext, number: int) -> None:
        started.append(number)
        if number >= 100:
            await let_go.wait()

    async with world.serving(conductor, queues=["default"], concurrency=1) as orchestrator:
        assert orchestrator._machine is not None
        (worker,) = orchestrator._machine.workers
        async with orchestrator._machine.process.turn:
            handles = await task.invoke_many([100, 101, 102])
            await worker._fetch(3)  # More than there are slots, as after many short handlers.
        await eventually(lambda: len(worker._ready) == 2)
        for handle in handles[1:]:
            assert await handle.cancel()
            with pytest.raises(ExecutionCancelled):
                await handle.result(SOON)
        let_go.set()
        await handles[0].result(SOON)
    assert started == [100]


async def test_the_last_one_held_back_by_the_gate(world: World) -> None:
    """I9: with nothing else under way, stopping does not sit out the grace."""
    conductor = world.conductor(give_back_after=3600, shutdown_grace=3600)

    @conductor.task
    async def task(ctx: TaskContext) -> None:
        raise AssertionError("it must not start")

    orchestrator = conductor.orchestrator(queues=["default"])
    await orchestrator.start()
    machine = orchestrator._machine
    assert machine is not None
    (worker,) = machine.workers
    turn = machine.process.turn
    async with turn:
        # Fetched while the gate was open, which closes before it can start.
        handle = await task.invoke()
        machine.process.gate.close("test")
        await worker._fetch(1)
    assert len(worker._ready) == 1
    assert await handle.cancel()
    with pytest.raises(ExecutionCancelled):
        await handle.result(SOON)
    await asyncio.wait_for(orchestrator.stop(), 30)
    assert orchestrator.exit_reason == "clean"


async def test_a_handler_that_swallows_it(world: World, conductor: Conductor) -> None:
    """Semantics 2 (cancel): ends as cancelled even so, and what it returns is dropped."""
    running = asyncio.Event()
    swallowed: list[int] = []

    @conductor.task
    async def task(ctx: TaskContext) -> str:
        running.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            swallowed.append(1)
        return "regardless"

    async with world.serving(conductor):
        handle = await task.invoke()
        await asyncio.wait_for(running.wait(), 20)
        assert await handle.cancel()
        with pytest.raises(ExecutionCancelled):
            await handle.result(SOON)
    row = world.execution(handle.id)
    assert (row["state"], row["result"], swallowed) == ("cancelled", None, [1])


async def test_a_handler_that_fails_on_being_cancelled(world: World, conductor: Conductor) -> None:
    """B4: cancelled, not retried; its error is kept."""
    running = asyncio.Event()

    @conductor.task(max_attempts=5, retry=AT_ONCE)
    async def task(ctx: TaskContext) -> None:
        running.set()
        try:
            await asyncio.sleep(3600)
        finally:
            raise RuntimeError("clean-up failed")

    async with world.serving(conductor):
        handle = await task.invoke()
        await asyncio.wait_for(running.wait(), 20)
        assert await handle.cancel()
        with pytest.raises(ExecutionCancelled):
            await handle.result(SOON)
    assert world.execution(handle.id)["last_error"] == "clean-up failed"


async def test_while_it_waits_for_its_retry(world: World, conductor: Conductor) -> None:
    """B4: it is not tried again."""

    @conductor.task(max_attempts=5)
    async def task(ctx: TaskContext) -> None:
        raise ValueError

    handle = await task.invoke()
    await conductor.orchestrator().drain()
    assert await handle.state() is ExecutionState.AVAILABLE
    assert await handle.cancel()
    assert await handle.state() is ExecutionState.CANCELLED


async def test_cancel_races_with_completion(world: World) -> None:
    """I7, reliability 11: one outcome or the other, and the caller is told which."""
    conductor = world.conductor()

    @conductor.task
    async def task(ctx: TaskContext, number: int) -> int:
        return number

    async with world.serving(conductor):
        handles = await task.invoke_many(range(100))
        told = await asyncio.gather(*(handle.cancel() for handle in handles))
        for number, handle in enumerate(handles):
            try:
                assert await handle.result(SOON) == number
                outcome = "completed"
            except ExecutionCancelled:
                outcome = "cancelled"
            row = world.execution(handle.id)
            assert row["state"] == outcome
            # What was accepted holds; what came too late was said to.
            assert told[number] == (outcome == "cancelled")
            assert (row["cancel_requested_at"] is not None) == told[number]
