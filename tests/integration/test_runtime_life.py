"""Starting, draining, stopping: what an orchestrator leaves behind is nothing."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from pgconductor import Conductor, TaskContext
from pgconductor.domain.orchestrators import Heartbeat
from pgconductor.exceptions import (
    ConfigurationError,
    SchemaBehind,
    SchemaMissing,
    SchemaTooNew,
)
from pgconductor.services import OrchestratorService
from pgconductor.services.backend import HeartbeatLink
from tests.integration.runtime_world import AT_ONCE, SOON, World
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import eventually

ROWS = "SELECT id FROM pgconductor.orchestrators"


@pytest.fixture
def conductor(world: World) -> Conductor:
    conductor = world.conductor()

    @conductor.task
    async def touch(ctx: TaskContext, number: int = 0) -> int:
        return number

    return conductor


# --- starting ------------------------------------------------------------------------------------


async def test_registered_and_beating_before_anything_is_fetched(
    world: World, conductor: Conductor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A3, I2: the row is committed, the heartbeat is proven, and only then is there a fetch."""
    beats: list[int] = []
    beat = HeartbeatLink.beat

    async def noted(self: HeartbeatLink) -> Heartbeat:
        answer = await beat(self)
        beats.append(answer.number)
        assert world.rows(ROWS)
        return answer

    monkeypatch.setattr(HeartbeatLink, "beat", noted)
    await conductor.get_task("touch").invoke()
    seen: list[int] = []

    @conductor.task
    async def first(ctx: TaskContext) -> None:
        seen.append(len(beats))

    await first.invoke(priority=1)
    await conductor.orchestrator().drain()
    assert seen[0] >= 1


async def test_it_starts_once(world: World, conductor: Conductor) -> None:
    """C (same identity after restart): another start is another orchestrator."""
    orchestrator = conductor.orchestrator()
    with pytest.raises(ConfigurationError, match="not started"):
        _ = orchestrator.registration
    await orchestrator.start()
    with pytest.raises(ConfigurationError, match="starts once"):
        await orchestrator.start()
    await orchestrator.stop()
    with pytest.raises(ConfigurationError, match="starts once"):
        await orchestrator.start()
    assert world.rows(ROWS) == []


async def test_without_a_schema(empty_database_url: str) -> None:
    """A5: a typed error that says what to do."""
    world = World(empty_database_url)
    conductor = world.conductor()

    @conductor.task
    async def task(ctx: TaskContext) -> None:
        return

    for call in (conductor.orchestrator().start, conductor.orchestrator().drain):
        with pytest.raises(SchemaMissing, match="pgconductor migrate"):
            await call()
    with pytest.raises(SchemaMissing):
        await task.invoke()
    await world.close()


@pytest.mark.parametrize(
    ("gate", "error"),
    [
        ("UPDATE pgconductor.schema_gate SET installed = 9998, floor = 9998", SchemaTooNew),
        ("UPDATE pgconductor.schema_gate SET floor = 0, installed = 0", SchemaBehind),
    ],
    ids=["too new", "behind"],
)
async def test_a_schema_that_does_not_fit(
    world: World, conductor: Conductor, gate: str, error: type[Exception]
) -> None:
    """A6, semantics 5: refused with a typed error, and no row is left."""
    world.rows(gate)
    with pytest.raises(error, match="revision"):
        await conductor.orchestrator().run()
    assert world.rows(ROWS) == []


async def test_a_newer_schema_that_is_compatible(world: World, conductor: Conductor) -> None:
    """Semantics 5: newer revisions that break nothing are no hindrance."""
    world.rows("UPDATE pgconductor.schema_gate SET installed = 9998")
    handle = await conductor.get_task("touch").invoke(3)
    assert await conductor.orchestrator().drain() == "clean"
    assert await handle.result(SOON) == 3


async def test_a_breaking_revision_while_it_runs(world: World, conductor: Conductor) -> None:
    """A6: the floor is a level in every answer to a heartbeat."""
    orchestrator = conductor.orchestrator()
    running = asyncio.create_task(orchestrator.run())
    await eventually(lambda: world.rows(ROWS))
    world.rows("UPDATE pgconductor.schema_gate SET installed = 9998, floor = 9998")
    assert await asyncio.wait_for(running, 20) == "shutdown"
    assert world.rows(ROWS) == []


async def test_a_server_that_comes_later(world: World) -> None:
    """I9, A3: registration tries again, within its limit."""
    async with TcpProxy.before(world.url) as proxy:
        await proxy.refuse()
        late = World(proxy.url)
        conductor = late.conductor()

        @conductor.task
        async def task(ctx: TaskContext) -> None:
            return

        orchestrator = conductor.orchestrator()
        starting = asyncio.create_task(orchestrator.start())
        done, _ = await asyncio.wait([starting], timeout=0.3)
        assert not done
        await proxy.accept()
        await asyncio.wait_for(starting, 20)
        await orchestrator.stop()
        await late.close()


async def test_a_registration_whose_commit_is_not_acknowledged(world: World) -> None:
    """I2, A3: registered anew; the row of the try before does not stay behind."""
    async with TcpProxy.before(world.url) as proxy:
        doubtful = World(proxy.url)
        conductor = doubtful.conductor()

        @conductor.task
        async def task(ctx: TaskContext) -> None:
            return

        proxy.lose_reply_to(b"COMMIT")
        async with world.serving(conductor) as orchestrator:
            assert proxy.cuts == 1
            assert world.rows(ROWS) == [{"id": orchestrator.registration.orchestrator_id}]
        await doubtful.close()
    assert world.rows(ROWS) == []


async def test_a_server_that_never_comes(world: World) -> None:
    """I9: startup_timeout is the limit."""
    async with TcpProxy.before(world.url) as proxy:
        await proxy.refuse()
        late = World(proxy.url)
        conductor = late.conductor(startup_timeout=0.3)

        @conductor.task
        async def task(ctx: TaskContext) -> None:
            return

        with pytest.raises(TimeoutError):
            await conductor.orchestrator().start()
        await late.close()


# --- stopping ------------------------------------------------------------------------------------


async def test_stopping_is_idempotent(world: World, conductor: Conductor) -> None:
    orchestrator = conductor.orchestrator()
    await orchestrator.start()
    await asyncio.gather(*(orchestrator.stop() for _ in range(3)))
    await orchestrator.stop()
    assert orchestrator.exit_reason == "clean"
    assert world.rows(ROWS) == []


@pytest.mark.parametrize("way", ["run", "drain", "start"])
async def test_stopping_before_it_starts(world: World, conductor: Conductor, way: str) -> None:
    """I9: a task that is stopped before its first turn does not work for ever."""
    orchestrator = conductor.orchestrator()
    working = asyncio.create_task(getattr(orchestrator, way)())
    await orchestrator.stop()
    assert await asyncio.wait_for(working, 20) == (None if way == "start" else "clean")
    await orchestrator.stop()
    assert orchestrator.exit_reason == "clean"
    assert world.rows(ROWS) == []


@pytest.mark.parametrize("moment", ["register", "heartbeat", "declare"])
async def test_stopping_while_it_starts(
    world: World, conductor: Conductor, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """I2, I9: wherever the start has got to, no row is left and no thread goes on."""
    reached = asyncio.Event()

    async def never(*args: object, **options: object) -> None:
        loop.call_soon_threadsafe(reached.set)
        await asyncio.sleep(3600)

    loop = asyncio.get_running_loop()
    owner = HeartbeatLink if moment == "heartbeat" else OrchestratorService
    monkeypatch.setattr(owner, "beat" if moment == "heartbeat" else moment, never)
    orchestrator = conductor.orchestrator()
    starting = asyncio.create_task(orchestrator.start())
    await asyncio.wait_for(reached.wait(), 20)
    await asyncio.wait_for(orchestrator.stop(), 30)
    await asyncio.wait_for(starting, 20)
    assert world.rows(ROWS) == []


async def test_a_start_that_is_cancelled(world: World, conductor: Conductor) -> None:
    """I2: cancelled by its caller at any moment, it leaves no row."""
    for delay in (0.0, 0.01, 0.02, 0.04, 0.08):
        orchestrator = conductor.orchestrator()
        starting = asyncio.create_task(orchestrator.start())
        await asyncio.wait([starting], timeout=delay)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await orchestrator.stop()
        assert world.rows(ROWS) == []


async def test_completions_are_flushed_before_it_leaves(world: World, conductor: Conductor) -> None:
    """C (SIGTERM lost a finished result): what has ended is written, what has not is given back."""
    handles = await conductor.get_task("touch").invoke_many(range(500))
    orchestrator = conductor.orchestrator(concurrency=50)
    await orchestrator.start()
    some = "SELECT 1 FROM pgconductor.executions WHERE finished_at IS NOT NULL LIMIT 1"
    await eventually(lambda: world.rows(some))
    await orchestrator.stop()
    held = world.rows("SELECT 1 FROM pgconductor.executions WHERE locked_by IS NOT NULL")
    spent = world.rows(
        "SELECT state, attempts FROM pgconductor.executions GROUP BY state, attempts ORDER BY state"
    )
    assert held == []
    assert [tuple(row.values()) for row in spent] in (
        [("available", 0), ("completed", 1)],
        [("completed", 1)],
    )
    await conductor.orchestrator().drain()
    assert [await handle.result(SOON) for handle in handles] == list(range(500))


async def test_stopping_without_a_database(world: World) -> None:
    """I9: bounded, even if nothing can be flushed and the row cannot be removed."""
    async with TcpProxy.before(world.url) as proxy:
        away = World(proxy.url)
        conductor = away.conductor()

        @conductor.task
        async def task(ctx: TaskContext) -> None:
            return

        orchestrator = conductor.orchestrator()
        await orchestrator.start()
        await proxy.refuse()
        proxy.reset()
        await asyncio.wait_for(orchestrator.stop(), 60)
        await away.close()
    world.rows("DELETE FROM pgconductor.orchestrators")


async def test_a_handler_that_checks_in_goes_at_once(world: World) -> None:
    """Lifecycle 3.7: at its boundary a handler ends, whatever grace is left; nothing is charged."""
    conductor = world.conductor(shutdown_grace=3600)
    running = asyncio.Event()

    @conductor.task
    async def task(ctx: TaskContext) -> None:
        running.set()
        while True:
            await ctx.checkpoint()
            await asyncio.sleep(0.01)

    orchestrator = conductor.orchestrator()
    await orchestrator.start()
    handle = await task.invoke()
    await asyncio.wait_for(running.wait(), 20)
    await asyncio.wait_for(orchestrator.stop(), 30)
    assert orchestrator.exit_reason == "clean"
    row = world.execution(handle.id)
    assert (row["state"], row["attempts"]) == ("available", 0)


# --- draining ------------------------------------------------------------------------------------


async def test_drain_does_what_is_due_and_no_more(world: World) -> None:
    """Retries that are due at once included, and what handlers invoke; later ones are left."""
    conductor = world.conductor()
    done: list[str] = []

    @conductor.task
    async def leaf(ctx: TaskContext, name: str) -> None:
        done.append(name)

    @conductor.task(queue="other")
    async def tree(ctx: TaskContext, depth: int) -> None:
        done.append(f"tree {depth}")
        if depth:
            await tree.invoke(depth - 1)
            await leaf.invoke(f"leaf {depth}")

    @conductor.task(max_attempts=4, retry=AT_ONCE)
    async def flaky(ctx: TaskContext) -> None:
        done.append(f"attempt {ctx.attempt}")
        if ctx.attempt < 4:
            raise OSError

    await tree.invoke(4)
    await flaky.invoke()
    later = await leaf.invoke("later", delay=timedelta(hours=1))
    assert await conductor.orchestrator().drain() == "clean"
    assert sorted(done) == sorted(
        [
            *(f"tree {depth}" for depth in range(5)),
            *(f"leaf {depth}" for depth in range(1, 5)),
            *(f"attempt {number}" for number in range(1, 5)),
        ]
    )
    assert world.execution(later.id)["state"] == "available"
    assert world.rows(ROWS) == []


async def test_drain_of_nothing(world: World, conductor: Conductor) -> None:
    assert await conductor.orchestrator().drain() == "clean"
    assert world.rows(ROWS) == []


async def test_drain_of_what_another_holds_waits_not_for_it(
    world: World, conductor: Conductor
) -> None:
    """Drain answers for what it may fetch; what is running elsewhere is somebody else's."""
    let_go = asyncio.Event()
    elsewhere = world.conductor()

    @elsewhere.task("touch")
    async def held(ctx: TaskContext, number: int) -> int:
        await let_go.wait()
        return -number

    async with world.serving(elsewhere):
        handle = await held.invoke(5)
        await eventually(lambda: world.execution(handle.id)["state"] == "running")
        assert await conductor.orchestrator().drain() == "clean"
        let_go.set()
        assert await handle.result(SOON) == -5


async def test_ten_start_and_stop_at_once(world: World) -> None:
    """Reliability 9: on a backlog; each execution is done once."""
    done: list[int] = []
    conductors = [world.conductor(concurrency=3) for _ in range(6)]
    for conductor in conductors:

        @conductor.task
        async def task(ctx: TaskContext, number: int) -> None:
            done.append(number)

    handles = await conductors[0].tasks["task"].invoke_many(range(300))
    orchestrators = [conductor.orchestrator() for conductor in conductors]
    await asyncio.gather(*(one.start() for one in orchestrators))
    await asyncio.gather(*(handle.result(SOON) for handle in handles))
    await asyncio.gather(*(one.stop() for one in orchestrators))
    assert sorted(done) == list(range(300))
    assert world.rows(ROWS) == []
