"""The engine's own connections, beside whatever engine the user has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import StaticPool

from pgconductor import Conductor, TaskContext
from pgconductor.services.pinned import sibling_engine

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
