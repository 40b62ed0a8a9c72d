"""I6: time is the database's, and tests can set it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.orm import Session

from pgconductor.services.pinned import sibling_engine
from pgconductor.testing import DatabaseClock, VirtualClock
from tests.contracts.harness import Harness

HOUR = timedelta(hours=1)
AHEAD = select(func.pgconductor.clock() - func.now())
WALL_AHEAD = select(func.pgconductor.wall_clock() - func.clock_timestamp())


async def ahead(connection: AsyncConnection) -> timedelta:
    found = await connection.scalar(AHEAD)
    assert isinstance(found, timedelta)
    return found


def test_the_virtual_clock_stands_still_until_it_is_moved() -> None:
    clock = VirtualClock(datetime(2026, 1, 1, tzinfo=UTC))
    assert clock.now() == clock.now() == datetime(2026, 1, 1, tzinfo=UTC)
    assert clock.advance(HOUR) == clock.now() == datetime(2026, 1, 1, 1, tzinfo=UTC)
    clock.advance(-2 * HOUR)
    assert clock.now() == datetime(2025, 12, 31, 23, tzinfo=UTC)
    assert VirtualClock().now().tzinfo is not None
    with pytest.raises(ValueError, match="start"):
        VirtualClock(datetime(2026, 1, 1))  # noqa: DTZ001 - that is the point


async def test_both_clocks_move_for_new_pooled_and_pinned_connections(engine: AsyncEngine) -> None:
    clock = DatabaseClock(engine)
    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
    async with autocommit.connect() as pinned, engine.connect() as open_transaction:
        assert await ahead(pinned) == await ahead(open_transaction) == timedelta(0)
        assert clock.advance(HOUR) == HOUR
        async with engine.connect() as fresh:
            for connection in (pinned, open_transaction, fresh):
                assert await ahead(connection) == HOUR
                drift = await connection.scalar(WALL_AHEAD)
                assert drift is not None
                # Two looks at a clock that goes on: a difference of microseconds.
                assert abs(drift - HOUR) < timedelta(minutes=1)
        clock.advance(-2 * HOUR)
        assert await ahead(pinned) == await ahead(open_transaction) == -HOUR
        clock.reset()
        assert await ahead(pinned) == await ahead(open_transaction) == timedelta(0)
        assert clock.offset == timedelta(0)


async def test_the_offset_outlives_a_rollback(engine: AsyncEngine) -> None:
    clock = DatabaseClock(engine)
    async with engine.connect() as connection:
        await ahead(connection)
        clock.advance(HOUR)
        assert await ahead(connection) == HOUR
        await connection.rollback()
        assert await ahead(connection) == HOUR
        savepoint = await connection.begin_nested()
        clock.advance(HOUR)
        assert await ahead(connection) == 2 * HOUR
        await savepoint.rollback()
        assert await ahead(connection) == 2 * HOUR


async def test_engines_that_an_orchestrator_derives_are_moved_too(engine: AsyncEngine) -> None:
    sibling = sibling_engine(engine)
    clock = DatabaseClock(engine)
    clock.advance(HOUR)
    later = sibling_engine(engine)
    for one in (sibling, later):
        async with one.connect() as connection:
            assert await ahead(connection) == HOUR
        await one.dispose()


async def test_other_engines_keep_their_time(engine: AsyncEngine, database_url: str) -> None:
    """No session can move the clock for another."""
    DatabaseClock(engine).advance(HOUR)
    other = create_async_engine(database_url)
    async with other.connect() as connection:
        assert await ahead(connection) == timedelta(0)
    await other.dispose()


async def test_statements_with_many_parameters_and_with_errors(engine: AsyncEngine) -> None:
    clock = DatabaseClock(engine)
    clock.advance(timedelta(days=3653, microseconds=1))
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TEMP TABLE seen (n int, at timestamptz)"))
        await connection.execute(
            text("INSERT INTO seen VALUES (:n, pgconductor.clock())"), [{"n": 1}, {"n": 2}]
        )
        differences = await connection.scalars(text("SELECT at - now() FROM seen"))
        assert set(differences) == {timedelta(days=3653, microseconds=1)}


def test_a_sync_engine_can_be_moved(sync_engine: Engine) -> None:
    clock = DatabaseClock(sync_engine)
    clock.advance(HOUR)
    with Session(sync_engine) as session:
        assert session.scalar(AHEAD) == HOUR
        streamed = session.execute(AHEAD, execution_options={"stream_results": True})
        assert streamed.scalar_one() == HOUR


async def test_a_harness_moves_its_clock(db: Harness) -> None:
    before = await db.now()
    db.advance(HOUR)
    assert HOUR <= await db.now() - before < 2 * HOUR
