"""A real PgBouncer in transaction mode between everybody and the server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from pgconductor import Conductor, Settings
from pgconductor.cli import ExitCode
from pgconductor.exceptions import ConfigurationError
from pgconductor.types import ExecutionState
from tests.faults.drill_tasks import DRILL_SETTINGS, declare_harmless, drill_conductor
from tests.faults.drills import Drill
from tests.support.pgbouncer import PgBouncer, pgbouncer
from tests.support.processes import Children
from tests.support.servers import connect
from tests.support.waiting import eventually

pytestmark = pytest.mark.faults

POOL_SIZE = 3
#: What the documentation says.
SAFE: dict[str, Any] = {
    "statement_cache_size": 0,
    "prepared_statement_name_func": lambda: "",
}


@pytest.fixture
def pooler(database_url: str) -> Iterator[PgBouncer]:
    with pgbouncer(database_url, pool_size=POOL_SIZE) as pooler:
        yield pooler


@pytest.fixture
async def pooled(database_url: str, pooler: PgBouncer, children: Children) -> AsyncIterator[Drill]:
    """A drill that looks at the server directly, and whose conductor goes through the pooler."""
    drill = Drill(database_url, children)
    drill.conductor = drill_conductor(pooler.url)
    try:
        yield drill
    finally:
        await drill.conductor.close()


def left_behind(pooler: PgBouncer) -> dict[str, set[str]]:
    """What the server's connections of the pool keep, looked at all at once."""
    settings = (
        "default_transaction_isolation",
        "synchronous_commit",
        "enable_seqscan",
        "plan_cache_mode",
        "jit",
        "application_name",
    )
    columns = ", ".join(f"current_setting('{name}')" for name in settings)
    found: dict[str, set[str]] = {name: set() for name in (*settings, "prepared")}
    plain = make_url(pooler.url).set(drivername="postgresql")
    with ExitStack() as stack:
        for _ in range(POOL_SIZE):
            url = plain.render_as_string(hide_password=False)
            connection = stack.enter_context(psycopg.connect(url, prepare_threshold=None))
            query = f"SELECT (SELECT count(*) FROM pg_prepared_statements)::text, {columns}"
            row = connection.execute(query.encode()).fetchone()
            assert row is not None
            for name, value in zip(("prepared", *settings), row, strict=True):
                found[name].add(str(value))
    return found


# --- a conductor made from settings --------------------------------------------------------------


async def test_orchestrators_under_load(pooled: Drill, pooler: PgBouncer) -> None:
    """I1, I3: three processes, fifteen connections of theirs, three of the server's."""
    untouched = left_behind(pooler)
    workers = [await pooled.worker(url=pooler.url) for _ in range(3)]
    await pooled.invoke_many("touch", range(300))
    singly = await asyncio.gather(*(pooled.invoke("touch", number) for number in range(100)))
    await pooled.finished()
    for number, one in enumerate(singly):
        assert pooled.execution(one)["result"] == number
    for worker in workers:
        worker.terminate()
        assert await worker.wait() == 0
    pooled.assert_settled()
    assert len(pooled.rows("SELECT DISTINCT finished_by FROM pgconductor.executions")) > 1
    assert left_behind(pooler) == untouched
    servers = [one for one in pooler.ask("SHOW SERVERS") if one["user"] != "pgbouncer"]
    assert len(servers) <= POOL_SIZE


async def test_results_retries_and_cancellation(pooled: Drill) -> None:
    conductor = pooled.conductor
    tries: list[int] = []

    @conductor.task(max_attempts=3)
    async def fails_at_first(ctx: Any) -> int:
        tries.append(ctx.attempt)
        if ctx.attempt == 1:
            raise ValueError("at first")
        return int(ctx.attempt)

    orchestrator = conductor.orchestrator(concurrency=4)
    await orchestrator.start()
    slow = await conductor.get_task("slow").invoke(60)
    results = [await conductor.get_task("touch").invoke(number) for number in range(5)]
    assert [await one.result() for one in results] == list(range(5))
    assert await slow.cancel()
    await eventually(lambda: pooled.state(slow.id) == ExecutionState.CANCELLED)
    retried = await fails_at_first.invoke()
    # Not while its failure is being written: this would wait for that, and keep it from ending.
    await eventually(lambda: tries == [1] and pooled.execution(retried.id)["last_error"])
    pooled.execute("UPDATE pgconductor.executions SET run_at = now() WHERE id = %s", retried.id)
    assert await retried.result() == 2
    await orchestrator.stop()
    assert pooled.registered() == set()


async def test_recovery(pooled: Drill, pooler: PgBouncer) -> None:
    """I2, I3: heartbeats and the watch over them, through the pooler."""
    one = await pooled.invoke("frozen")
    child = await pooled.worker(url=pooler.url)
    await child.wait_for_line("handler")
    child.kill()
    await child.wait()
    rescuer = await pooled.worker(url=pooler.url, wait=False, env={"DRILL_QUEUES": "other"})
    await rescuer.wait_for_line("registered")
    await eventually(lambda: pooled.state(one) == "available", timeout=30)
    assert pooled.execution(one)["crashes"] == 1
    await pooled.only_registered(rescuer.pid)


async def test_the_pooler_restarts_under_load(pooled: Drill, pooler: PgBouncer) -> None:
    """I3, I7, I9: every connection is lost at once, twice; nothing else is."""
    workers = [await pooled.worker(url=pooler.url) for _ in range(2)]
    for share in (0.2, 0.6):
        await pooled.invoke_many("touch", range(200))
        wanted = round(len(pooled.invoked) * share)
        await eventually(partial(reached, pooled, wanted), timeout=30)
        await asyncio.to_thread(pooler.stop)
        await asyncio.to_thread(pooler.start)
        await pooled.conductor.engine.dispose()
    await pooled.finished()
    assert pooled.registered() == {worker.pid for worker in workers}, "somebody was evicted"
    for worker in workers:
        worker.terminate()
        assert await worker.wait() == 0
    pooled.assert_settled()


def finished(drill: Drill) -> int:
    count = "SELECT count(*) FROM pgconductor.executions WHERE finished_at IS NOT NULL"
    return int(drill.value(count))


def reached(drill: Drill, wanted: int) -> bool:
    return finished(drill) >= wanted


# --- notifications, migrations -------------------------------------------------------------------


@pytest.mark.parametrize("direct", [True, False])
async def test_notifications_need_a_way_around(
    database_url: str, pooler: PgBouncer, direct: bool, caplog: pytest.LogCaptureFixture
) -> None:
    url = SecretStr(database_url) if direct else None
    # Without notifications, only polling finds what is invoked later.
    quick = {**DRILL_SETTINGS, "poll_interval": 3600 if direct else 0.1}
    conductor = Conductor(Settings(database_url=SecretStr(pooler.url), direct_url=url, **quick))
    declare_harmless(conductor)
    with connect(database_url) as connection:
        connection.execute(
            "CREATE TABLE effects (id bigserial PRIMARY KEY, execution_id uuid NOT NULL,"
            " task text NOT NULL, pid int NOT NULL)"
        )
    orchestrator = conductor.orchestrator()
    with caplog.at_level(logging.WARNING):
        await orchestrator.start()
        assert orchestrator._machine is not None
        if direct:
            assert orchestrator._machine._listener is not None
            await orchestrator._machine._listener.healthy.wait()
        assert [await (await conductor.get_task("touch").invoke(n)).result() for n in (1, 2)] == [
            1,
            2,
        ]
        await orchestrator.stop()
    await conductor.close()
    said = [one.message for one in caplog.records if "a pooler is between" in one.message]
    # The orchestrator's listener, and that of the handles.
    assert len(said) == (0 if direct else 2)


async def test_a_migration_goes_around_the_pooler(
    empty_database_url: str, pooler: PgBouncer, children: Children
) -> None:
    name = make_url(empty_database_url).database
    assert name is not None
    url = pooler.url_for(name)
    refused = await children.start("-m", "pgconductor", "migrate", "--database-url", url)
    assert await refused.wait() == ExitCode.POOLED
    assert "PGCONDUCTOR_DIRECT_URL" in refused.errors[-1]
    around = {"PGCONDUCTOR_DATABASE_URL": url, "PGCONDUCTOR_DIRECT_URL": empty_database_url}
    done = await children.start("-m", "pgconductor", "migrate", env=around)
    assert await done.wait() == ExitCode.OK, done.errors
    with connect(empty_database_url) as connection:
        assert connection.execute("SELECT count(*) FROM pgconductor.executions").fetchone() == (0,)


# --- an engine of the user's ---------------------------------------------------------------------


@asynccontextmanager
async def engine_with(url: str, **connect_args: Any) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(url, connect_args=connect_args)
    try:
        yield engine
    finally:
        await engine.dispose()


async def test_an_engine_that_is_made_for_it(pooled: Drill, pooler: PgBouncer) -> None:
    async with engine_with(pooler.url, **SAFE) as engine:
        conductor = Conductor(engine=engine)
        declare_harmless(conductor)
        touch = conductor.get_task("touch")
        orchestrator = conductor.orchestrator(concurrency=2)
        await orchestrator.start()
        async with AsyncSession(engine) as session:
            handles = [await touch.invoke(1, session=session)]
            handles += await touch.invoke_many([2, 3], session=session)
            await session.commit()
        async with AsyncSession(engine) as session:
            await touch.invoke(4, session=session)
            await session.rollback()
        handles.append(await touch.invoke(5))
        assert [await one.result() for one in handles] == [1, 2, 3, 5]
        await orchestrator.stop()
        await conductor.close()
    assert finished(pooled) == 4


@pytest.mark.parametrize(
    "connect_args",
    [
        {},
        {"prepared_statement_name_func": lambda: ""},
        {"prepared_statement_cache_size": 0, "prepared_statement_name_func": lambda: ""},
    ],
    ids=["default", "unnamed and kept", "driver keeps"],
)
async def test_an_engine_that_keeps_statements_is_refused(
    pooled: Drill, pooler: PgBouncer, connect_args: dict[str, Any]
) -> None:
    """Others would execute them: an error at once, and not somewhere, some day."""
    async with engine_with(pooler.url, **connect_args) as engine:
        conductor = Conductor(engine=engine)
        declare_harmless(conductor)
        touch = conductor.get_task("touch")
        with pytest.raises(ConfigurationError, match="statement_cache_size"):
            await touch.invoke()
        async with AsyncSession(engine) as session:
            with pytest.raises(ConfigurationError, match="statement_cache_size"):
                await touch.invoke(session=session)
        with pytest.raises(ConfigurationError, match="statement_cache_size"):
            await conductor.orchestrator().start()
    assert pooled.value("SELECT count(*) FROM pgconductor.executions") == 0
    assert pooled.registered() == set()


async def test_a_transaction_that_has_failed_says_so_itself(database_url: str) -> None:
    """Nobody can be asked in it, and its connection is not to be thrown away over that."""
    async with engine_with(database_url) as engine, AsyncSession(engine) as session:
        conductor = Conductor(engine=engine)
        declare_harmless(conductor)
        touch = conductor.get_task("touch")
        pid = await session.scalar(text("SELECT pg_backend_pid()"))
        with pytest.raises(DBAPIError, match="division"):
            await session.execute(text("SELECT 1 / 0"))
        with pytest.raises(DBAPIError, match="current transaction is aborted"):
            await touch.invoke(session=session)
        await session.rollback()
        await touch.invoke(session=session)
        assert await session.scalar(text("SELECT pg_backend_pid()")) == pid


@pytest.mark.parametrize("told", [True, False])
async def test_what_the_user_says_is_not_questioned(pooler: PgBouncer, told: bool) -> None:
    """PgBouncer from 1.21 on tracks statements, and one that pools sessions keeps them."""
    conductor = Conductor(Settings(database_url=SecretStr(pooler.url), pooled=told))
    declare_harmless(conductor)
    async with conductor:
        assert await conductor._poolers.behind(conductor.engine) is told
        async with conductor.engine.connect() as connection:
            assert connection.sync_connection is not None
            assert connection.sync_connection.info["pgconductor_pooled"] is told


async def test_a_direct_connection_is_known_as_such(database_url: str) -> None:
    async with Conductor(database_url=database_url) as conductor:
        assert await conductor._poolers.behind(conductor.engine) is False
    async with engine_with(database_url) as engine, AsyncSession(engine) as session:
        conductor = Conductor(engine=engine)
        declare_harmless(conductor)
        await conductor.get_task("touch").invoke(session=session)
        await session.commit()
        assert (await conductor.executions.count())[ExecutionState.AVAILABLE] == 1
