"""Workers: what they fetch, what they leave, how they are woken, what they share."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import create_async_engine

from pgconductor import Conductor, ExecutionState, Settings, TaskContext
from pgconductor.runtime.machine import Machine
from pgconductor.runtime.orchestrator import Orchestrator
from pgconductor.services import ExecutionService
from tests.integration.runtime_world import QUICK, SOON, World
from tests.support.waiting import eventually


def machine_of(orchestrator: Orchestrator) -> Machine:
    assert orchestrator._machine is not None
    return orchestrator._machine


async def test_an_unknown_task_is_left_for_others(world: World, conductor: Conductor) -> None:
    """Semantics 6: it burns no attempts, hides nothing behind it, and waits for who knows it."""

    @conductor.task
    async def known(ctx: TaskContext, number: int) -> int:
        return number

    unknown = await conductor.task_ref("of_a_newer_release").invoke(None, priority=9)
    handles = await known.invoke_many(range(30))
    assert await conductor.orchestrator().drain() == "clean"
    assert [await handle.result(SOON) for handle in handles] == list(range(30))
    row = world.execution(unknown.id)
    assert (row["state"], row["attempts"], row["crashes"]) == ("available", 0, 0)

    newer = world.conductor()

    @newer.task("of_a_newer_release")
    async def handler(ctx: TaskContext) -> str:
        return "at last"

    await newer.orchestrator().drain()
    assert await unknown.result(SOON) == "at last"


async def test_two_orchestrators_share_a_queue(world: World) -> None:
    """I1, I3: each execution is done once, by one or the other."""
    done: list[tuple[int, int]] = []
    conductors = [world.conductor(), world.conductor()]
    for index, conductor in enumerate(conductors):

        @conductor.task
        async def task(ctx: TaskContext, number: int, index: int = index) -> None:
            await asyncio.sleep(0.002)
            done.append((index, number))

    async with (
        world.serving(conductors[0], concurrency=4),
        world.serving(conductors[1], concurrency=4),
    ):
        handles = await conductors[0].tasks["task"].invoke_many(range(400))
        await asyncio.gather(*(handle.result(SOON) for handle in handles))
    assert sorted(number for _, number in done) == list(range(400))
    assert {index for index, _ in done} == {0, 1}


async def test_notifications_wake_though_nobody_polls(world: World) -> None:
    """C: with an hour between polls, each invocation is picked up at once."""
    conductor = world.conductor(poll_interval=3600)

    @conductor.task
    async def task(ctx: TaskContext, number: int) -> int:
        return number

    async with world.serving(conductor) as orchestrator:
        listener = machine_of(orchestrator)._listener
        assert listener is not None
        await asyncio.wait_for(listener.healthy.wait(), 20)
        for number in range(5):
            handle = await task.invoke(number)
            assert await handle.result(SOON) == number


async def test_a_commit_of_the_caller_wakes(world: World) -> None:
    """Semantics 2 (invoke): notified when the caller commits, not before."""
    conductor = world.conductor(poll_interval=3600)

    @conductor.task
    async def task(ctx: TaskContext) -> str:
        return "done"

    async with world.serving(conductor) as orchestrator:
        listener = machine_of(orchestrator)._listener
        assert listener is not None
        await asyncio.wait_for(listener.healthy.wait(), 20)
        async with conductor.sessionmaker() as session:
            handle = await task.invoke(session=session)
            await session.commit()
        assert await handle.result(SOON) == "done"


async def test_polling_alone(world: World) -> None:
    """C: LISTEN is an accelerator, not a condition."""
    conductor = world.conductor(listen=False)

    @conductor.task
    async def task(ctx: TaskContext) -> str:
        return "done"

    async with world.serving(conductor) as orchestrator:
        assert machine_of(orchestrator)._listener is None
        handle = await task.invoke()
        assert await handle.result(SOON) == "done"
        assert conductor.watch() is None


async def test_what_is_due_later_is_found_by_polling(world: World, conductor: Conductor) -> None:
    """I6: not before its time by the database's clock, and then without being told."""

    @conductor.task
    async def task(ctx: TaskContext) -> str:
        return "done"

    async with world.serving(conductor):
        handle = await task.invoke(delay=timedelta(seconds=0.3))
        assert await handle.result(SOON) == "done"
    (row,) = world.rows("SELECT finished_at - run_at AS late FROM pgconductor.executions")
    assert row["late"] > timedelta(0)


async def test_what_is_held_unstarted_is_given_back(world: World) -> None:
    """C: long handlers hoard nothing that an idle orchestrator could execute."""
    let_go = asyncio.Event()
    started: dict[int, set[int]] = {0: set(), 1: set()}
    conductors = [world.conductor(give_back_after=0.2) for _ in range(2)]
    for index, conductor in enumerate(conductors):

        @conductor.task
        async def task(ctx: TaskContext, number: int, index: int = index) -> None:
            started[index].add(number)
            await let_go.wait()

    options: dict[str, Any] = {"queues": ["default"], "concurrency": 2}
    async with world.serving(conductors[0], **options) as hoarder:
        (worker,) = machine_of(hoarder).workers
        async with machine_of(hoarder).process.turn:
            handles = await conductors[0].tasks["task"].invoke_many(range(4))
            await worker._fetch(4)
        await eventually(lambda: len(started[0]) == 2)
        async with world.serving(conductors[1], **options):
            await eventually(lambda: [len(s) for s in started.values()] == [2, 2])
            assert world.rows("SELECT max(attempts) AS m FROM pgconductor.executions")[0]["m"] == 1
            let_go.set()
            await asyncio.gather(*(handle.result(SOON) for handle in handles))
    assert started[0].isdisjoint(started[1])


async def test_short_and_long_ones_mixed(world: World, conductor: Conductor) -> None:
    """C: the short ones do not wait behind the long ones for as long as a slot is free."""
    let_go = asyncio.Event()

    @conductor.task
    async def task(ctx: TaskContext, long: bool) -> None:
        if long:
            await let_go.wait()

    async with world.serving(conductor, concurrency=4):
        handles = await task.invoke_many([number % 100 == 0 for number in range(300)])
        long = handles[::100]
        await asyncio.gather(*(h.result(SOON) for h in handles if h not in long))
        assert {await handle.state() for handle in long} == {ExecutionState.RUNNING}
        let_go.set()
        await asyncio.gather(*(h.result(SOON) for h in long))


async def test_priority_and_order(world: World, conductor: Conductor) -> None:
    """B13: a higher number first, then what was due first."""
    order: list[int] = []

    @conductor.task
    async def task(ctx: TaskContext, number: int) -> None:
        order.append(number)

    await task.invoke(3)
    await task.invoke(4)
    await task.invoke(2, priority=1)
    await task.invoke(1, priority=10)
    await task.invoke(6, priority=-1)
    await task.invoke_many([task.invocation(5, priority=0)])
    await conductor.orchestrator(concurrency=1).drain()
    assert order == [1, 2, 3, 4, 5, 6]


async def test_the_users_pool_may_be_used_up(world: World) -> None:
    """Reliability 8: handlers that hold every connection stop neither heartbeat nor completion."""
    engine = create_async_engine(world.url, pool_size=1, max_overflow=0, pool_timeout=0.1)
    conductor = Conductor(engine=engine)
    conductor.settings = Settings(**QUICK)
    holding = asyncio.Event()
    let_go = asyncio.Event()

    @conductor.task
    async def greedy(ctx: TaskContext) -> str:
        async with engine.connect():
            holding.set()
            await let_go.wait()
        return "let go"

    @conductor.task
    async def modest(ctx: TaskContext) -> str:
        return "fine"

    outside = world.conductor()
    async with world.serving(conductor):
        first = await outside.task_ref("greedy").invoke()
        await asyncio.wait_for(holding.wait(), 20)
        beat = "SELECT heartbeat_number AS n FROM pgconductor.orchestrators"
        before = world.rows(beat)[0]["n"]
        others = await outside.task_ref("modest").invoke_many([None] * 10)
        assert [await one.result(SOON) for one in others] == ["fine"] * 10
        await eventually(lambda: world.rows(beat)[0]["n"] > before + 1)
        let_go.set()
        assert await outside.handle(first.id).result(SOON) == "let go"
    await conductor.close()
    await engine.dispose()


async def test_statements_per_execution_are_bounded(world: World, conductor: Conductor) -> None:
    """I9, B14: batches, not a statement each way for each execution."""
    count = 1_000

    @conductor.task
    async def task(ctx: TaskContext, number: int) -> int:
        return number

    await task.invoke_many(range(count))
    seen: list[str] = []

    def note(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    # The runtime's connections are not those of this engine, so its services are counted.
    counts = {"fetch": 0, "complete": 0}
    fetch, complete = ExecutionService.fetch, ExecutionService.complete

    async def counted_fetch(self: ExecutionService, *args: Any, **options: Any) -> Any:
        counts["fetch"] += 1
        return await fetch(self, *args, **options)

    async def counted_complete(self: ExecutionService, *args: Any, **options: Any) -> Any:
        counts["complete"] += 1
        return await complete(self, *args, **options)

    event.listen(conductor.engine.sync_engine, "before_cursor_execute", note)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ExecutionService, "fetch", counted_fetch)
        patch.setattr(ExecutionService, "complete", counted_complete)
        await conductor.orchestrator(concurrency=20).drain()
    assert not seen, "the runtime used the user's own engine"
    finished = world.rows(
        "SELECT count(*) AS n FROM pgconductor.executions WHERE finished_by IS NOT NULL"
    )
    assert finished == [{"n": count}]
    assert counts["fetch"] < count / 4, counts
    assert counts["complete"] < count / 4, counts


async def test_an_undecodable_payload_fails_by_itself(world: World, conductor: Conductor) -> None:
    """Semantics 4, lifecycle 8: one payload, one failure; its neighbours complete."""

    @conductor.task
    async def task(ctx: TaskContext, payload: Any) -> Any:
        return payload

    good = await task.invoke_many(range(10))
    bad = await task.invoke(0)
    more = await task.invoke_many(range(10, 20))
    world.rows(
        "UPDATE pgconductor.executions SET payload = repeat('9', 5000)::jsonb WHERE id = %s", bad.id
    )
    await conductor.orchestrator().drain()
    assert [await one.result(SOON) for one in [*good, *more]] == list(range(20))
    row = world.execution(bad.id)
    assert (row["state"], row["last_error_type"], row["attempts"]) == (
        "failed",
        "PayloadDecodeError",
        1,
    )


async def test_a_payload_of_another_type_fails_by_itself(
    world: World, conductor: Conductor
) -> None:
    """Semantics 4: invoked by SQL or by another release; not retried."""
    calls: list[float] = []

    @conductor.task(max_attempts=9)
    async def task(ctx: TaskContext, payload: int) -> None:
        calls.append(payload)

    other = await conductor.task_ref("task").invoke({"not": "an int"})
    missing = await conductor.task_ref("task").invoke()
    await conductor.orchestrator().drain()
    for handle in (other, missing):
        row = world.execution(handle.id)
        assert (row["state"], row["last_error_type"]) == ("failed", "PayloadDecodeError")
        assert row["attempts"] == 1
    assert calls == []


async def test_a_suspect_is_alone_across_queues(world: World, conductor: Conductor) -> None:
    """Semantics 2 (recover): nothing else starts in the process until it has ended."""
    at_work: set[str] = set()
    crowded: list[set[str]] = []

    async def body(name: str) -> None:
        at_work.add(name)
        crowded.append(set(at_work))
        await asyncio.sleep(0.01)
        at_work.discard(name)

    @conductor.task
    async def here(ctx: TaskContext, number: int) -> None:
        await body(f"here-{number}")

    @conductor.task(queue="other")
    async def there(ctx: TaskContext, number: int) -> None:
        await body(f"there-{number}")

    await here.invoke_many(range(10))
    await there.invoke_many(range(10))
    world.rows("UPDATE pgconductor.executions SET crashes = 2")
    await conductor.orchestrator(concurrency=5).drain()
    assert len(crowded) == 20
    assert {len(one) for one in crowded} == {1}
