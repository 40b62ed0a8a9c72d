"""Handles: state, result, waiting, being woken."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import uuid4

import pytest
from pydantic import BaseModel

from pgconductor import Conductor, ExecutionState, TaskContext
from pgconductor.exceptions import (
    ExecutionNotFound,
    InvalidInput,
    PayloadDecodeError,
    ResultTimeout,
)
from pgconductor.handles import FinishedWatch
from pgconductor.services import ExecutionService
from tests.integration.runtime_world import SOON, World
from tests.support.waiting import eventually


class Receipt(BaseModel):
    charge: str


async def test_state_and_typed_result(world: World, conductor: Conductor) -> None:
    let_go = asyncio.Event()

    @conductor.task
    async def task(ctx: TaskContext) -> Receipt:
        await let_go.wait()
        return Receipt(charge="ch_1")

    handle = await task.invoke()
    assert await handle.state() is ExecutionState.AVAILABLE
    async with world.serving(conductor):
        await eventually(lambda: world.execution(handle.id)["state"] == "running")
        assert await handle.state() is ExecutionState.RUNNING
        let_go.set()
        assert await handle.result(SOON) == Receipt(charge="ch_1")
    assert await handle.state() is ExecutionState.COMPLETED
    # By its id alone, the type is not known, the value is.
    assert await conductor.handle(handle.id).result(SOON) == {"charge": "ch_1"}


async def test_a_result_that_does_not_come(conductor: Conductor) -> None:
    """I9: ResultTimeout is a TimeoutError, and the execution goes on."""

    @conductor.task
    async def task(ctx: TaskContext) -> None:
        return

    handle = await task.invoke()
    with pytest.raises(ResultTimeout) as caught:
        await handle.result(timedelta(seconds=0.05))
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.execution_id == handle.id
    await conductor.orchestrator().drain()
    await handle.result(SOON)


async def test_a_timeout_must_make_sense(conductor: Conductor) -> None:
    @conductor.task
    async def task(ctx: TaskContext) -> None:
        return

    handle = await task.invoke()
    for wrong in (timedelta(seconds=-1), 5):
        with pytest.raises(InvalidInput, match="timeout"):
            await handle.result(wrong)  # type: ignore[arg-type] # wrong on purpose


async def test_an_execution_that_is_not_there(conductor: Conductor) -> None:
    handle = conductor.handle(uuid4())
    with pytest.raises(ExecutionNotFound):
        await handle.state()
    with pytest.raises(ExecutionNotFound):
        await handle.result(SOON)
    assert not await handle.cancel()


@pytest.mark.parametrize("listen", [True, False])
async def test_many_wait_at_once(world: World, listen: bool) -> None:
    """B11: each gets its own result, by notification or by polling."""
    conductor = world.conductor(listen=listen)

    @conductor.task
    async def task(ctx: TaskContext, number: int) -> int:
        return number

    async with world.serving(conductor):
        handles = await task.invoke_many(range(60))
        waiting = [handle.result(SOON) for handle in handles for _ in range(2)]
        results = await asyncio.gather(*waiting)
    assert results == [number for number in range(60) for _ in range(2)]


async def test_a_waiter_is_woken_by_the_notification(world: World) -> None:
    """C (lost wake-up): registered before it looks, so nothing falls in between."""
    conductor = world.conductor()
    let_go = asyncio.Event()

    @conductor.task
    async def task(ctx: TaskContext) -> str:
        await let_go.wait()
        return "done"

    looks = 0
    async with world.serving(conductor):
        handle = await task.invoke()
        watch = conductor.watch()
        assert isinstance(watch, FinishedWatch)
        await asyncio.wait_for(watch.healthy.wait(), 20)
        waiting = asyncio.create_task(handle.result(SOON))
        await eventually(lambda: world.execution(handle.id)["awaited"])
        look = handle._look

        async def counted() -> object:
            nonlocal looks
            looks += 1
            return await look()

        await eventually(lambda: bool(watch._waiting))
        handle._look = counted  # type: ignore[assignment, method-assign] # counts
        let_go.set()
        assert await waiting == "done"
    # Polling would have looked again and again.
    assert looks <= 2


async def test_waiting_does_not_hide_an_execution_from_its_worker(world: World) -> None:
    """C (lost wake-up): marking a row as awaited locks it, and a fetch passes over locked rows.

    The worker has then been notified in vain; with an hour between polls, it must be told again.
    """
    conductor = world.conductor(poll_interval=3600)

    @conductor.task
    async def task(ctx: TaskContext, number: int) -> int:
        return number

    async def one(number: int) -> int:
        handle = await task.invoke(number)
        result = await handle.result(SOON)
        assert isinstance(result, int)
        return result

    async with world.serving(conductor):
        for start in range(0, 200, 4):
            await asyncio.gather(*(one(start + offset) for offset in range(4)))


async def test_an_execution_that_is_locked_when_it_is_announced(world: World) -> None:
    """The same, made certain: the mark commits after the worker has looked."""
    conductor = world.conductor(poll_interval=3600)

    @conductor.task
    async def task(ctx: TaskContext) -> str:
        return "done"

    async with world.serving(conductor, queues=["default"]) as orchestrator:
        machine = orchestrator._machine
        assert machine is not None
        assert machine._listener is not None
        await asyncio.wait_for(machine._listener.healthy.wait(), 20)
        (worker,) = machine.workers

        looked = asyncio.Event()
        fetch = worker._fetch

        async def noted(room: int) -> bool:
            async with locked:
                more = await fetch(room)
            looked.set()
            return more

        # Whatever looks from now on looks while the row is locked.
        locked = asyncio.Lock()
        worker._fetch = noted  # type: ignore[method-assign] # tells when it has looked
        async with locked:
            handle = await task.invoke()
            connection = await conductor.engine.connect()
            await ExecutionService(connection).mark_awaited(handle.id)
            looked.clear()
        # Notified, it looks, and passes over the locked row.
        await asyncio.wait_for(looked.wait(), 20)
        await eventually(lambda: not worker._wake.is_set() and not worker.fetching)
        assert worker.quiet
        await connection.commit()
        await connection.close()
        assert await handle.result(timedelta(seconds=3)) == "done"


async def test_a_waiter_that_gives_up_leaves_nothing(world: World) -> None:
    """I10: a cancelled wait is forgotten by the watch."""
    conductor = world.conductor()

    @conductor.task
    async def task(ctx: TaskContext) -> None:
        return

    handle = await task.invoke()
    waiting = [asyncio.create_task(handle.result()) for _ in range(5)]
    watch = conductor.watch()
    assert isinstance(watch, FinishedWatch)
    await eventually(lambda: len(watch._waiting.get(str(handle.id), ())) == 5)
    for one in waiting:
        one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert watch._waiting == {}


async def test_a_result_of_another_type(world: World, conductor: Conductor) -> None:
    """Semantics 4: a result that an older release stored and this one cannot read."""

    @conductor.task
    async def task(ctx: TaskContext) -> Receipt:
        return Receipt(charge="x")

    handle = await task.invoke()
    await conductor.orchestrator().drain()
    world.rows("UPDATE pgconductor.executions SET result = '{\"other\": 1}'")
    with pytest.raises(PayloadDecodeError, match="charge"):
        await handle.result(SOON)
