"""Races on PostgreSQL between retention and everybody else: it waits for nobody."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import text

from pgconductor.domain.retention import Removal, Retention
from pgconductor.exceptions import ExecutionNotFound
from pgconductor.types import ExecutionState
from tests.contracts.harness import PostgresHarness

FAILED = ExecutionState.FAILED
MONTH = timedelta(days=31)


async def old(db: PostgresHarness, **options: str) -> UUID:
    """An execution that failed long ago."""
    one = await db.in_state(FAILED, **options)
    db.advance(MONTH)
    return one


async def remove(db: PostgresHarness) -> Removal | None:
    """In a transaction in which nothing waits."""
    async with db.impatient() as repositories:
        return await repositories.retention.remove_expired(Retention(), limit=9)


async def test_what_somebody_has_locked_is_left_for_the_next_walk(
    postgres: PostgresHarness,
) -> None:
    """I9: a row that a user keeps locked holds nothing up."""
    locked, other = await old(postgres), await old(postgres)
    async with postgres.engine.connect() as user:
        await user.execute(
            text("SELECT FROM pgconductor.executions WHERE id = :id FOR SHARE"), {"id": locked}
        )
        assert await remove(postgres) == Removal(2, 1, ended=True)
    assert {one.id for one in (await postgres.executions.list()).items} == {locked}
    postgres.advance(timedelta(hours=2))
    assert await remove(postgres) == Removal(1, 1, ended=True)
    assert other != locked


async def test_two_never_walk_at_once(postgres: PostgresHarness) -> None:
    """And neither waits: the second finds nothing to do."""
    await old(postgres)
    async with postgres.begin() as first:
        assert await first.retention.remove_expired(Retention(), limit=1) == Removal(1, 1, False)
        assert await remove(postgres) is None
    assert await remove(postgres) == Removal(0, 0, ended=True)


async def test_a_retry_that_is_under_way_is_left_alone(postgres: PostgresHarness) -> None:
    one = await old(postgres)
    async with postgres.begin() as operator:
        assert await operator.executions.retry(one)
        assert await remove(postgres) == Removal(1, 0, ended=True)
    assert (await postgres.get(one)).state is ExecutionState.AVAILABLE


async def test_a_retry_waits_for_a_removal_and_finds_nothing(postgres: PostgresHarness) -> None:
    one = await old(postgres)
    async with postgres.begin() as removing:
        await removing.retention.remove_expired(Retention(), limit=9)
        retry = await postgres.blocked(postgres.executions.retry(one))
    with pytest.raises(ExecutionNotFound):
        await retry
    assert (await postgres.executions.list()).items == []


async def test_a_retry_goes_on_if_the_removal_rolls_back(postgres: PostgresHarness) -> None:
    one = await old(postgres)
    async with postgres.rolled_back() as removing:
        await removing.retention.remove_expired(Retention(), limit=9)
        retry = await postgres.blocked(postgres.executions.retry(one))
    assert await retry is True
    assert (await postgres.get(one)).state is ExecutionState.AVAILABLE


async def test_a_retry_slips_in_before_a_removal(postgres: PostgresHarness) -> None:
    """I7: the removal has its snapshot, in which the execution has failed long ago."""
    one = await old(postgres)
    gap = "e.id = x.id"
    removal = postgres.retention.remove_expired(limit=9)
    async with postgres.paused("REMOVE_EXPIRED", gap, removal) as removing:
        assert await postgres.executions.retry(one)
    assert await removing == Removal(1, 0, ended=True)
    assert (await postgres.get(one)).state is ExecutionState.AVAILABLE


async def test_a_second_end_slips_in_before_a_removal(postgres: PostgresHarness) -> None:
    """It has failed again, just now: kept for another month."""
    one = await old(postgres)
    owner = await postgres.register()
    gap = "e.id = x.id"
    removal = postgres.retention.remove_expired(limit=9)
    async with postgres.paused("REMOVE_EXPIRED", gap, removal) as removing:
        assert await postgres.executions.retry(one)
        (held,) = await postgres.fetch(owner)
        await postgres.fail(held)
    assert await removing == Removal(1, 0, ended=True)
    assert (await postgres.get(one)).state is FAILED


async def test_an_invocation_of_its_key_waits_for_no_removal(postgres: PostgresHarness) -> None:
    one = await old(postgres, dedupe_key="k")
    async with postgres.begin() as removing:
        await removing.retention.remove_expired(Retention(), limit=9)
        async with postgres.impatient():
            assert await postgres.invoke(dedupe_key="k") != one
