"""The engine's own connections, beside whatever engine the user has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import event, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.pool import StaticPool

from pgconductor import Conductor, Settings, TaskContext
from pgconductor.services import ExecutionService, OrchestratorService
from pgconductor.services.pinned import PinnedUnitOfWork, TimedUnitOfWork, sibling_engine
from pgconductor.types import ExecutionState
from tests.support.servers import connect
from tests.support.waiting import eventually

PATIENCE = timedelta(seconds=30)
LEVEL = text("SELECT current_setting('transaction_isolation')")
WAITING = text(
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND wait_event_type = 'Lock'"
)
Make = Callable[..., AsyncEngine]


@pytest.fixture
async def make(database_url: str) -> AsyncIterator[Make]:
    """Makes engines on the test's database, disposed of at its end."""
    made: list[AsyncEngine] = []

    def one(**options: Any) -> AsyncEngine:
        made.append(create_async_engine(database_url, **options))
        return made[-1]

    yield one
    for each in made:
        await each.dispose()


async def test_an_orchestrator_starts_beside_the_first_queries(make: Make) -> None:
    """SQLAlchemy asks the server once, on the first connection, and lets others be used already."""
    for _ in range(15):
        engine = make()
        conductor = Conductor(engine=engine)

        @conductor.task
        async def task(ctx: TaskContext) -> None:
            return

        async def query(engine: AsyncEngine = engine) -> None:
            async with engine.begin() as connection:
                await connection.execute(text("SELECT 1"))

        orchestrator = conductor.orchestrator()
        await asyncio.gather(
            query(), task.invoke(), conductor.executions.count(), orchestrator.start(), query()
        )
        await orchestrator.stop()
        await conductor.close()
        await engine.dispose()


@pytest.mark.parametrize("number", [1, 30])
async def test_an_invoke_outlives_its_kept_connection(
    database_url: str, make: Make, number: int
) -> None:
    """It may have died long ago: nobody is told, and nothing is written twice."""
    conductor = Conductor(engine=make())

    @conductor.task
    async def task(ctx: TaskContext) -> None:
        return

    await task.invoke_many([None] * number)
    with connect(database_url) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    await task.invoke_many([None] * number)
    await conductor.engine.dispose()
    assert (await conductor.executions.count())[ExecutionState.AVAILABLE] == 2 * number
    await conductor.close()


async def test_a_sibling_knows_the_server_before_anybody_uses_it(make: Make) -> None:
    """Whoever connects meanwhile must not find a dialect that knows half."""
    engine = make()
    sibling = sibling_engine(engine)
    known: list[bool] = []

    @event.listens_for(sibling.sync_engine.pool, "connect", insert=True)
    def look(*_: object) -> None:
        known.append(hasattr(engine.dialect, "default_isolation_level"))

    async with sibling.connect() as connection:
        assert await connection.scalar(text("SELECT 1")) == 1
    assert known == [True]
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT 1")) == 1


async def test_a_sibling_has_connections_of_its_own(make: Make) -> None:
    engine = make(poolclass=StaticPool, hide_parameters=True)
    opened: list[object] = []
    event.listen(engine.sync_engine.pool, "connect", lambda *one: opened.append(one))
    sibling = sibling_engine(engine)
    pid = text("SELECT pg_backend_pid()")
    async with engine.connect() as a, sibling.connect() as b, sibling.connect() as c:
        assert len({await one.scalar(pid) for one in (a, b, c)}) == 3
    assert len(opened) == 3
    assert sibling.sync_engine.hide_parameters
    await sibling.dispose()


@pytest.fixture(params=["engine", "database"])
def strict(request: pytest.FixtureRequest, database_url: str, make: Make) -> AsyncEngine:
    """An engine whose transactions are REPEATABLE READ unless they say otherwise."""
    if request.param == "engine":
        return make(isolation_level="REPEATABLE READ")
    with connect(database_url) as connection:
        name = make_url(database_url).database
        setting = "SET default_transaction_isolation = 'repeatable read'"
        connection.execute(f'ALTER DATABASE "{name}" {setting}'.encode())
    return make()


async def test_leaving_sees_what_was_fetched_meanwhile(strict: AsyncEngine, make: Make) -> None:
    """I2: a snapshot from before the lock would show nothing that is held."""
    orchestrators = OrchestratorService(TimedUnitOfWork(sibling_engine(strict), timeout=PATIENCE))
    registration = await orchestrators.register()
    plain = make()
    executions = ExecutionService(plain)
    invoked = await executions.invoke("send")
    async with plain.connect() as connection, plain.connect() as watcher:
        assert len(await ExecutionService(connection).fetch(registration)) == 1
        leaving = asyncio.create_task(orchestrators.leave(registration))

        async def waits() -> bool:
            found = await watcher.scalar(WAITING)
            await watcher.rollback()
            return bool(found)

        await eventually(waits)
        await connection.commit()
    assert (await leaving).executions == 1
    assert (await executions.get(invoked.id)).state is ExecutionState.AVAILABLE


async def test_a_pinned_connection_reads_what_is_committed(strict: AsyncEngine) -> None:
    work = PinnedUnitOfWork(sibling_engine(strict), timeout=PATIENCE, role="test")
    async with work.begin():
        assert work._connection is not None
        assert await work._connection.scalar(LEVEL) == "read committed"
    await work.aclose()


async def test_a_connection_that_could_not_be_prepared_is_not_kept(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the error was: without its name and its level it is not what it should be."""
    monkeypatch.setattr(
        "pgconductor.services.pinned._PREPARE", text("SELECT 1 / (:name = '')::int")
    )
    work = PinnedUnitOfWork(sibling_engine(make()), timeout=PATIENCE, role="test")
    with pytest.raises(DBAPIError, match="division by zero"):
        async with work.begin():
            raise AssertionError
    assert work._connection is None


async def test_a_way_around_the_pooler_is_that_of_the_same_settings(
    database_url: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the environment would lead LISTEN to another database than was given."""
    monkeypatch.setenv("PGCONDUCTOR_DIRECT_URL", "postgresql://localhost:1/elsewhere")
    engine = make()
    assert Conductor(engine=engine)._direct() is engine
    assert Conductor(sessionmaker=async_sessionmaker(engine))._direct() is engine
    by_url = Conductor(database_url=database_url)
    assert by_url._direct() is by_url.engine
    settings = Settings(database_url=SecretStr(database_url))
    both = Conductor(settings)
    assert both._direct().url.database == "elsewhere"
    for one in (by_url, both):
        await one.close()
