"""Whose transaction it is: the caller's with a session or connection, else the service's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session

from pgconductor.domain.outcomes import Completed
from pgconductor.domain.steps import StepRecord
from pgconductor.exceptions import ExecutionNotFound, OwnershipLost, SchemaMissing, WrongSession
from pgconductor.models import Execution
from pgconductor.repositories import sql_repositories
from pgconductor.services import ExecutionService, OrchestratorService, unit_of_work
from pgconductor.services.pinned import PinnedUnitOfWork, TimedUnitOfWork
from pgconductor.testing import FakeDatabase
from pgconductor.types import ExecutionState
from tests.contracts.harness import FakeHarness, Harness, PostgresHarness

SECOND = timedelta(seconds=30)


@asynccontextmanager
async def pinned(engine: AsyncEngine) -> AsyncIterator[Harness]:
    work = PinnedUnitOfWork(engine, timeout=SECOND, role="test")
    yield PostgresHarness(engine, work)
    await work.aclose()


@asynccontextmanager
async def timed(engine: AsyncEngine) -> AsyncIterator[Harness]:
    yield PostgresHarness(engine, TimedUnitOfWork(engine, timeout=SECOND))


@asynccontextmanager
async def from_sessionmaker(engine: AsyncEngine) -> AsyncIterator[Harness]:
    yield PostgresHarness(engine, unit_of_work(async_sessionmaker(engine)))


@asynccontextmanager
async def repeatable_read(engine: AsyncEngine) -> AsyncIterator[Harness]:
    yield PostgresHarness(engine.execution_options(isolation_level="REPEATABLE READ"))


@asynccontextmanager
async def serializable(engine: AsyncEngine) -> AsyncIterator[Harness]:
    yield PostgresHarness(engine.execution_options(isolation_level="SERIALIZABLE"))


Bound = Callable[[AsyncEngine], AbstractAsyncContextManager[Harness]]
BINDS: list[Bound] = [
    pinned, timed, from_sessionmaker, repeatable_read, serializable,
]  # fmt: skip


@pytest.mark.parametrize("bind", BINDS, ids=lambda bind: bind.__name__)
async def test_a_life_over_every_kind_of_bind(engine: AsyncEngine, bind: Bound) -> None:
    async with bind(engine) as db:
        await whole_life(db)


async def test_the_same_life_over_the_fake() -> None:
    await whole_life(FakeHarness(FakeDatabase()))


async def whole_life(db: Harness) -> None:
    """Every statement of the engine's life, in sequence."""
    owner, fetched = await db.running(dedupe_key="k", payload=1)
    assert await db.invoke(dedupe_key="k") == fetched.id
    async with db.begin() as repositories:
        assert (
            await repositories.steps.record(StepRecord(fetched.id, fetched.claim, "a", "1")) == "1"
        )
    await db.executions.cancel(fetched.id)
    assert (await db.orchestrators.heartbeat(owner)).cancellations == {fetched.id}
    assert (await db.complete(fetched)).state is ExecutionState.CANCELLED
    assert await db.executions.retry(fetched.id, from_scratch=True)
    (again,) = await db.fetch(owner)
    await db.crash(owner)
    (third,) = await db.fetch(await db.register())
    assert (third.id, third.crashes) == (again.id, 1)
    assert (await db.complete(again)).accepted is False
    assert (await db.complete(third, "done")).accepted
    assert (await db.get(third.id)).result == "done"


# --- the caller's own transaction ----------------------------------------------------------------


async def test_a_session_stays_the_callers_to_commit(
    sessionmaker: async_sessionmaker[AsyncSession], postgres: PostgresHarness
) -> None:
    async with sessionmaker() as session:
        service = ExecutionService(session)
        lost = await service.invoke("greet")
        assert (await service.get(lost.id)).id == lost.id
        await session.rollback()
        kept = await service.invoke("greet")
        with pytest.raises(ExecutionNotFound):
            await postgres.get(kept.id)
        await session.commit()
    assert (await postgres.get(kept.id)).state is ExecutionState.AVAILABLE
    with pytest.raises(ExecutionNotFound):
        await postgres.get(lost.id)


async def test_a_connection_stays_the_callers_to_commit(
    engine: AsyncEngine, postgres: PostgresHarness
) -> None:
    async with engine.connect() as connection:
        service = ExecutionService(connection)
        lost = await service.invoke("greet")
        await connection.rollback()
        kept = await service.invoke("greet")
        await connection.commit()
    assert (await postgres.get(kept.id)).id == kept.id
    with pytest.raises(ExecutionNotFound):
        await postgres.get(lost.id)


async def test_a_savepoint_takes_the_invocation_back(
    sessionmaker: async_sessionmaker[AsyncSession], postgres: PostgresHarness
) -> None:
    async with sessionmaker.begin() as session:
        service = ExecutionService(session)
        kept = await service.invoke("greet")
        async with session.begin_nested() as nested:
            await service.invoke("greet", dedupe_key="k")
            await nested.rollback()
    (only,) = (await postgres.executions.list()).items
    assert only.id == kept.id


async def test_a_models_row_can_be_read_in_the_same_session(
    sessionmaker: async_sessionmaker[AsyncSession],
) -> None:
    async with sessionmaker.begin() as session:
        invoked = await ExecutionService(session).invoke("greet", {"a": 1})
        row = (await session.scalars(select(Execution))).one()
        assert (row.id, row.payload, row.state) == (invoked.id, {"a": 1}, "available")


async def test_a_stale_owners_business_write_rolls_back_with_it(
    sessionmaker: async_sessionmaker[AsyncSession], postgres: PostgresHarness
) -> None:
    """I1, I4: step, business write and proof of ownership are one transaction."""
    owner, fetched = await postgres.running()
    await postgres.crash(owner)
    async with sessionmaker() as session:
        business = await ExecutionService(session).invoke("business")
        with pytest.raises(OwnershipLost):
            await sql_repositories(session).steps.record(
                StepRecord(fetched.id, fetched.claim, "book", "1")
            )
    with pytest.raises(ExecutionNotFound):
        await postgres.get(business.id)


async def test_a_user_in_repeatable_read_is_refused_rather_than_wrong(
    engine: AsyncEngine, postgres: PostgresHarness
) -> None:
    """I8: a key that was taken after the snapshot is a conflict to be tried again."""
    snapshot = engine.execution_options(isolation_level="REPEATABLE READ")
    async with snapshot.connect() as connection:
        service = ExecutionService(connection)
        assert sum((await service.count()).values()) == 0
        await postgres.invoke(dedupe_key="k")
        with pytest.raises(DBAPIError) as caught:
            await service.invoke("greet", dedupe_key="k")
    assert getattr(caught.value.orig, "sqlstate", None) == "40001"
    assert sum((await postgres.executions.count()).values()) == 1


async def test_a_late_completion_in_repeatable_read_is_refused(
    engine: AsyncEngine, postgres: PostgresHarness
) -> None:
    """I1."""
    _, fetched = await postgres.running()
    snapshot = engine.execution_options(isolation_level="REPEATABLE READ")
    async with snapshot.connect() as connection:
        service = ExecutionService(connection)
        await service.get(fetched.id)
        await postgres.release(fetched)
        with pytest.raises(DBAPIError) as caught:
            await service.complete([Completed(fetched.id, fetched.claim)])
    assert getattr(caught.value.orig, "sqlstate", None) == "40001"
    assert (await postgres.get(fetched.id)).state is ExecutionState.AVAILABLE


# --- the wrong thing -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bind", [Session(), None, "postgresql://x", 1], ids=lambda bind: type(bind).__name__
)
def test_what_cannot_be_worked_on_is_refused(bind: Any) -> None:
    with pytest.raises(WrongSession):
        ExecutionService(bind)


@pytest.mark.parametrize("kind", [AsyncEngine, AsyncConnection, AsyncSession])
async def test_a_database_without_our_schema_says_so(empty_database_url: str, kind: type) -> None:
    """A5."""
    engine = create_async_engine(empty_database_url)
    async with engine.connect() as connection:
        binds: dict[type, Any] = {
            AsyncEngine: engine,
            AsyncConnection: connection,
            AsyncSession: AsyncSession(connection),
        }
        bind = binds[kind]
        with pytest.raises(SchemaMissing):
            await OrchestratorService(bind).register()
        if kind is not AsyncEngine:
            await connection.rollback()
        with pytest.raises(SchemaMissing):
            await ExecutionService(bind).invoke("greet")
    await engine.dispose()
