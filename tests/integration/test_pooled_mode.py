"""What is done through a transaction pooler, on a server without one: told, not asked.

A real pooler is in ``tests/faults/test_pgbouncer.py``, where one is installed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from asyncpg.exceptions import DivisionByZeroError
from pydantic import SecretStr
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from pgconductor import Conductor, Settings, TaskContext
from pgconductor.domain.invocations import Invocation
from pgconductor.services import ExecutionService, OrchestratorService
from pgconductor.services.pinned import PinnedUnitOfWork, sibling_engine
from pgconductor.services.pooling import Poolers
from pgconductor.types import ExecutionState
from tests.support.servers import connect

LEVEL = "SELECT current_setting('transaction_isolation')"


@pytest.fixture(params=["read committed", "repeatable read"])
async def engine_of_level(
    database_url: str, request: pytest.FixtureRequest
) -> AsyncIterator[AsyncEngine]:
    """An engine on a database whose transactions are of that level unless they say otherwise."""
    with connect(database_url) as connection:
        name = make_url(database_url).database
        setting = f"SET default_transaction_isolation = '{request.param}'"
        connection.execute(f'ALTER DATABASE "{name}" {setting}'.encode())
    engine = create_async_engine(database_url, connect_args={"statement_cache_size": 0})
    yield engine
    await engine.dispose()


def pinned(engine: AsyncEngine) -> PinnedUnitOfWork:
    patience = timedelta(seconds=30)
    return PinnedUnitOfWork(
        sibling_engine(Poolers(True).noted(engine)), timeout=patience, role="test"
    )


async def use(work: PinnedUnitOfWork, *statements: str, error: Exception | None = None) -> Any:
    """Execute statements in one use; returns the driver's connection."""
    async with work.begin():
        assert work._connection is not None
        driver: Any = (await work._connection.get_raw_connection()).driver_connection
        for statement in statements:
            await driver.execute(statement)
        assert await driver.fetchval(LEVEL) == "read committed"
        if error is not None:
            raise error
        return driver


async def test_nothing_is_set_for_longer_than_a_use(engine_of_level: AsyncEngine) -> None:
    work = pinned(engine_of_level)
    driver = await use(work, "CREATE TABLE made (id int)")
    assert not driver.is_in_transaction()
    assert await driver.fetchval("SELECT count(*) FROM made") == 0
    settings = "SELECT name, setting FROM pg_settings WHERE setting <> reset_val ORDER BY name"
    before = await driver.fetch(settings)
    registration = await OrchestratorService(engine_of_level).register()
    executions = ExecutionService(work)
    for _ in range(2):
        assert await executions.fetch(registration) == []
    await executions.invoke_many([Invocation(task_key="send") for _ in range(3)])
    assert await driver.fetch(settings) == before
    assert await driver.fetchval("SELECT count(*) FROM pg_prepared_statements") == 0
    await OrchestratorService(engine_of_level).leave(registration)
    await work.aclose()


async def test_statements_are_kept_where_the_pooler_tracks_them(database_url: str) -> None:
    """An engine with the driver's cache, and a user who says that all is well."""
    engine = create_async_engine(database_url)
    work = pinned(engine)
    driver = await use(work)
    for _ in range(3):
        await ExecutionService(work).invoke_many([Invocation(task_key="send")])
    assert await driver.fetchval("SELECT count(*) FROM pg_prepared_statements") > 1
    assert (await ExecutionService(work).count())[ExecutionState.AVAILABLE] == 3
    await work.aclose()
    await engine.dispose()


async def test_an_error_keeps_the_connection(engine_of_level: AsyncEngine) -> None:
    work = pinned(engine_of_level)
    driver = await use(work)
    with pytest.raises(DivisionByZeroError):
        await use(work, "SELECT 1 / 0")
    assert await use(work) is driver
    await work.aclose()


async def test_an_error_without_a_code_ends_the_connection(engine_of_level: AsyncEngine) -> None:
    work = pinned(engine_of_level)
    driver = await use(work)
    with pytest.raises(LookupError):
        await use(work, error=LookupError())
    assert driver.is_closed()
    await work.aclose()


async def test_from_invoke_to_result(database_url: str) -> None:
    settings: dict[str, Any] = {"poll_interval": 0.05, "pooled": True}
    conductor = Conductor(Settings(database_url=SecretStr(database_url), **settings))

    @conductor.task
    async def double(ctx: TaskContext, number: int) -> int:
        return 2 * number

    orchestrator = conductor.orchestrator()
    await orchestrator.start()
    handles = await double.invoke_many(range(50))
    async with conductor.sessionmaker() as session:
        handles.append(await double.invoke(50, session=session, dedupe_key="once"))
        await session.commit()
    assert [await one.result() for one in handles] == [2 * number for number in range(51)]
    assert len(await conductor.orchestrators.list()) == 1
    await orchestrator.stop()
    await conductor.close()


async def test_each_engine_is_asked_once(database_url: str) -> None:
    poolers = Poolers(None)
    engine = create_async_engine(database_url)
    assert await poolers.behind(engine) is False
    async with AsyncSession(engine) as session, engine.connect() as connection:
        assert await poolers.behind(session) is False
        assert not session.in_transaction()
        assert await poolers.behind(connection) is False
        assert not connection.in_transaction()
    await engine.dispose()
    async with AsyncSession(engine) as session:
        assert await poolers.behind(session) is False
        # A new pool: it was asked, in the session's own transaction.
        assert session.in_transaction()
        assert await session.scalar(text("SELECT 1")) == 1
    await engine.dispose()


async def test_heartbeats(engine_of_level: AsyncEngine) -> None:
    conductor = Conductor(engine=engine_of_level)
    registration = await conductor.orchestrators.register()
    work = pinned(engine_of_level)
    beat = await OrchestratorService(work).heartbeat(registration)
    assert not beat.shutdown_requested
    await work.aclose()
    await conductor.orchestrators.leave(registration)
