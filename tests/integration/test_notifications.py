"""The server's queue of notifications is full, as a forgotten listener has it: all goes on.

A server of its own, for the queue is one for all databases; from Postgres 17 on it can be small.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from pgconductor import TaskContext, sql
from pgconductor.dev import EmbeddedServer
from pgconductor.domain.health import Severity
from pgconductor.domain.sqlstates import Cause
from pgconductor.exceptions import ExecutionCancelled
from pgconductor.repositories.errors import cause, is_queue_full
from pgconductor.schema.locations import script_location
from pgconductor.services.health import HealthService
from pgconductor.services.listener import Listener
from tests.integration.runtime_world import SOON, World
from tests.support.migrate import migrate
from tests.support.servers import chosen_binaries, connect, memory_directory
from tests.support.waiting import eventually

NOISE = "SELECT pg_notify('noise', g || repeat('x', 7000)) FROM generate_series(1, {}) g"


@pytest.fixture(scope="module")
def small_queue() -> Iterator[str]:
    """The URL of a migrated database whose server has room for few notifications."""
    binaries = chosen_binaries()
    if binaries.version < 17:
        pytest.skip("before 17 the queue has 8 GB, always")
    with EmbeddedServer.start(
        binaries=binaries,
        fsync=False,
        settings={"max_notify_queue_pages": "64"},
        temp_dir=memory_directory(),
    ) as server:
        migrate(server.url)
        yield server.url


@pytest.fixture
async def world(small_queue: str) -> AsyncIterator[World]:
    world = World(small_queue)
    yield world
    await world.close()
    world.rows("TRUNCATE pgconductor.executions, pgconductor.steps, pgconductor.events")


def fill(connection: psycopg.Connection[Any], noise: bytes) -> None:
    """Notify until there is no room for as much."""
    with suppress(psycopg.errors.ProgramLimitExceeded):
        while True:
            connection.execute(noise)


@contextmanager
def full_queue(url: str) -> Iterator[psycopg.Connection[Any]]:
    """Whoever listens and never ends its transaction has the queue fill up."""
    with connect(url) as holder:
        holder.execute(b"SET application_name = 'forgotten'; LISTEN anything")
        with holder.transaction():
            holder.execute(b"SELECT 1")
            with connect(url) as filler:
                for some in (20, 1):
                    fill(filler, NOISE.format(some).encode())
            yield holder
    with connect(url) as anybody:
        # Asking lets go of what nobody needs.
        row: Any = anybody.execute(b"SELECT pg_notification_queue_usage()").fetchone()
        assert row[0] < 0.5


def calls(folder: Path) -> list[str]:
    return sorted(folder.read_text().split())


async def test_results_that_somebody_waits_for_are_recorded_once(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The statement that would announce them is what fails at the commit."""
    conductor, log, go = world.conductor(), tmp_path / "calls", asyncio.Event()

    @conductor.task(max_attempts=1)
    async def pay(ctx: TaskContext, n: int) -> str:
        with log.open("a") as file:
            file.write(f"{n}\n")
        await go.wait()
        return f"paid {n}"

    handles = await pay.invoke_many(list(range(8)))
    async with world.serving(conductor, concurrency=8):
        results = [asyncio.create_task(one.result(SOON)) for one in handles]
        awaited = "SELECT 1 FROM pgconductor.executions WHERE awaited AND state = 'running'"
        await eventually(lambda: len(world.rows(awaited)) == 8)
        with full_queue(world.url):
            go.set()
            assert await asyncio.gather(*results) == [f"paid {n}" for n in range(8)]
    assert calls(log) == [str(n) for n in range(8)]
    assert not [one for one in caplog.records if "refused" in one.message]


async def test_everything_that_notifies_goes_on(world: World) -> None:
    """Children, events, waits, retries, cancellations: what is missed is found at the next poll."""
    conductor = world.conductor()

    @conductor.task(max_attempts=1)
    async def child(ctx: TaskContext, n: int) -> int:
        return n + 1

    @conductor.task(max_attempts=1)
    async def parent(ctx: TaskContext) -> list[Any]:
        found = await ctx.invoke("child", child, 1)
        await ctx.emit("inner", payload=found)
        return [found, await ctx.wait_for("inner", "inner"), await ctx.wait_for("outer", "outer")]

    @conductor.task
    async def endless(ctx: TaskContext) -> None:
        await asyncio.sleep(600)

    with full_queue(world.url):
        async with world.serving(conductor, concurrency=4):
            handle = await parent.invoke()
            stopped = await endless.invoke(dedupe_key="one")
            await eventually(lambda: world.execution(stopped.id)["state"] == "running")
            assert await stopped.cancel("no more")
            await conductor.emit("outer", payload="out")
            assert await handle.result(SOON) == [2, 2, "out"]
            with pytest.raises(ExecutionCancelled):
                await stopped.result(SOON)
            assert await conductor.executions.retry(stopped.id)
            assert await stopped.cancel()
            (member,) = await conductor.orchestrators.list()
            assert await conductor.orchestrators.request_shutdown(member.id, reason="why")


async def test_invokes_by_every_way_in_are_written(world: World) -> None:
    conductor = world.conductor()

    @conductor.task
    async def task(ctx: TaskContext, n: int) -> int:
        return n

    engine = create_async_engine(world.url)
    sync_engine = create_engine(world.url.replace("+asyncpg", "+psycopg"))
    with full_queue(world.url):
        await task.invoke(1)
        await task.invoke_many([2] * 50)
        await task.invoke(3, dedupe_key="k")
        async with AsyncSession(engine) as session, session.begin():
            await task.invoke(4, session=session)
            await conductor.emit("e", payload=1, session=session)
        with Session(sync_engine) as plain, plain.begin():
            task.invoke_sync(5, session=plain)
            conductor.emit_sync("e", payload=1, session=plain)
        world.rows("SELECT * FROM pgconductor.invoke('task', p_payload => '6')")
    await engine.dispose()
    sync_engine.dispose()
    numbers = "SELECT DISTINCT payload FROM pgconductor.executions ORDER BY 1"
    assert [row["payload"] for row in world.rows(numbers)] == [1, 2, 3, 4, 5, 6]


class Counted(Listener):
    """Counts its probes."""

    probes = 0

    async def _check(self, driver: Any) -> bool:
        answer = await super()._check(driver)
        self.probes += 1
        return answer


async def test_a_listener_says_so_once_and_comes_back(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    restored: list[int] = []
    engine = create_async_engine(world.url)
    listener = Counted(
        engine, ["a"], lambda *_: None, lambda: restored.append(1), probe_interval=0.05
    )
    with caplog.at_level(logging.WARNING, "pgconductor.listener"):
        listening = asyncio.create_task(listener.run())
        await eventually(listener.healthy.is_set)
        with full_queue(world.url):
            await eventually(lambda: not listener.healthy.is_set())
            probes = listener.probes
            await eventually(lambda: listener.probes > probes + 3)
        await eventually(listener.healthy.is_set)
        listening.cancel()
        await asyncio.wait([listening])
    told = [one.getMessage() for one in caplog.records]
    assert len(told) == 1
    assert "queue of notifications is" in told[0]
    assert "pg_terminate_backend" in told[0]
    assert len(restored) == 2
    await engine.dispose()


async def test_the_doctor_names_who_may_hold_it(world: World) -> None:
    engine = create_async_engine(world.url)
    with full_queue(world.url) as holder:
        found = {one.check: one for one in await HealthService(engine).diagnose()}
        said = found["notifications"]
        assert said.severity is Severity.BAD
        assert str(holder.info.backend_pid) in said.advice
        assert "forgotten, idle in transaction" in said.what
    found = {one.check: one for one in await HealthService(engine).diagnose()}
    assert found["notifications"].severity is Severity.OK
    await engine.dispose()


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_the_error_is_known_by_its_source_not_by_its_words(world: World, driver: str) -> None:
    """Its code is also that of a value which is too large for an index."""
    engine = create_async_engine(world.url.replace("+asyncpg", f"+{driver}"))
    with full_queue(world.url), pytest.raises(DBAPIError) as caught:
        async with engine.begin() as connection:
            await connection.exec_driver_sql("SELECT pg_notify('noise', '')")
    assert is_queue_full(caught.value)
    async with engine.begin() as connection:
        await connection.exec_driver_sql("CREATE TEMP TABLE t (a text)")
        await connection.exec_driver_sql("CREATE INDEX ON t (a)")
        with pytest.raises(DBAPIError) as large:
            await connection.exec_driver_sql(
                "INSERT INTO t SELECT string_agg(md5(g::text), '') FROM generate_series(1, 1000) g"
            )
    assert cause(large.value) is Cause.VALUE
    await engine.dispose()


def test_nothing_of_ours_notifies_past_it() -> None:
    statements = Path(sql.__file__).parent
    ours = [*script_location().joinpath("sql").glob("*.sql"), *statements.glob("*.sql")]
    assert len(ours) > 50
    callers = {one.name for one in ours if "pg_notify" in one.read_text()}
    assert callers == {"0001_notify.sql"}
