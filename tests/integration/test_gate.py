"""The lease of migrations and what they read of the gate, statement by statement."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from pgconductor.domain.ids import new_id
from pgconductor.domain.migrations import History
from pgconductor.repositories import SqlGateRepository
from pgconductor.repositories.autocommit import OWN
from pgconductor.services import ExecutionService, OrchestratorService
from tests.support.waiting import eventually

MINUTE = timedelta(minutes=1)


@asynccontextmanager
async def migrator(engine: AsyncEngine) -> AsyncIterator[tuple[UUID, AsyncConnection]]:
    """A session that bears a lease in its name, as migrations do."""
    lease = new_id()
    async with engine.connect() as made:
        connection = await made.execution_options(isolation_level="AUTOCOMMIT", **{OWN: True})
        await connection.execute(text(f"SET application_name = 'pgconductor-migrate/{lease}'"))
        yield lease, connection
        await connection.invalidate()


async def take(lease: UUID, connection: AsyncConnection) -> bool:
    return await SqlGateRepository(connection).take_lease(lease, "a test")


async def note(lease: UUID, connection: AsyncConnection, floor: int | None = None) -> bool:
    return await SqlGateRepository(connection).note(
        lease, "testing", floor=floor, ceiling=None, expires_after=MINUTE
    )


async def test_one_at_a_time(engine: AsyncEngine) -> None:
    async with migrator(engine) as (one, first), migrator(engine) as (two, second):
        assert await take(one, first)
        assert not await take(two, second)
        assert await take(one, first), "whoever has it may take it again"
        holder = await SqlGateRepository(second).lease_holder()
        assert (holder.lease_id, holder.holder, holder.alive) == (one, "a test", True)
        assert holder.application_name == f"pgconductor-migrate/{one}"
        assert holder.state == "idle"
        assert not await SqlGateRepository(second).release_lease(two)
        assert not await take(two, second)
        assert await SqlGateRepository(first).release_lease(one)
        assert await take(two, second)


async def test_only_the_holder_says_what_it_does(engine: AsyncEngine) -> None:
    async with migrator(engine) as (one, first), migrator(engine) as (two, second):
        assert not await note(one, first)
        assert await take(one, first)
        assert await note(one, first, floor=2)
        assert not await note(two, second, floor=3)
        status = await OrchestratorService(engine).schema_status()
        assert (status.intent_floor, status.lease_holder) == (2, "a test")
        assert (await SqlGateRepository(second).lease_holder()).note == "testing"


async def test_who_connects_again_goes_on_keeping_others_out(engine: AsyncEngine) -> None:
    async with migrator(engine) as (one, first):
        assert await take(one, first)
        assert await note(one, first, floor=2)
        assert await take(one, first)
        assert (await OrchestratorService(engine).schema_status()).intent_floor == 2


async def test_it_ends_with_its_server_process(engine: AsyncEngine) -> None:
    """A4: at once, and its intent does not outlive who takes it next."""
    async with migrator(engine) as (two, second):
        async with migrator(engine) as (one, first):
            assert await take(one, first)
            assert await note(one, first, floor=2)
        await eventually(lambda: take(two, second))
        status = await OrchestratorService(engine).schema_status()
        assert status.intent_floor is None


async def test_a_pid_alone_proves_nothing(engine: AsyncEngine) -> None:
    """Another process may have got the number of a dead one."""
    async with migrator(engine) as (one, first), migrator(engine) as (two, second):
        assert await take(one, first)
        await first.execute(text("SET application_name = 'psql'"))
        assert await take(two, second)


async def test_nobody_waits_for_the_row(engine: AsyncEngine) -> None:
    async with migrator(engine) as (one, first), engine.begin() as other:
        await other.execute(text("SELECT * FROM pgconductor.schema_gate FOR SHARE"))
        await first.execute(text("SET statement_timeout = '5s'"))
        assert not await take(one, first)


async def test_a_holder_is_ended_only_if_it_did_nothing_since(engine: AsyncEngine) -> None:
    async with migrator(engine) as (one, first), migrator(engine) as (_, second):
        assert await take(one, first)
        gate = SqlGateRepository(second)
        seen = (await gate.lease_holder()).state_change
        assert seen is not None
        await first.execute(text("SELECT 1"))
        assert not await gate.end_holder(one, seen)
        seen = (await gate.lease_holder()).state_change
        assert seen is not None
        assert not await gate.end_holder(new_id(), seen)
        assert await gate.end_holder(one, seen)

        async def gone() -> bool:
            return not (await gate.lease_holder()).alive

        await eventually(gone)


async def test_who_is_waited_for(engine: AsyncEngine) -> None:
    service, executions = OrchestratorService(engine), ExecutionService(engine)
    knows = [
        await service.register(schema_version=version, schema_required=required)
        for version, required in ((1, 1), (2, 1), (3, 1))
    ]
    await executions.invoke("resize")
    await executions.fetch(knows[0], limit=1)
    async with engine.connect() as connection:
        gate = SqlGateRepository(connection)
        below = await gate.waited_for(below_version=2, above_required=None)
        assert [one.id for one in below] == [knows[0].orchestrator_id]
        assert (below[0].running, below[0].oldest_task) == (1, "resize")
        assert below[0].silent_seconds >= 0
        told = r"1 executions running, the oldest of resize for \d+ s"
        assert re.search(told, str(below[0]))
        above = await gate.waited_for(below_version=None, above_required=0)
        assert [one.id for one in above] == [one.orchestrator_id for one in knows]
        assert await gate.waited_for(below_version=None, above_required=1) == []
    for one in knows:
        await service.leave(one)


async def test_who_holds_locks(engine: AsyncEngine) -> None:
    async with engine.connect() as connection, engine.connect() as user:
        gate = SqlGateRepository(connection)
        assert await gate.lock_holders() == []
        # What processes do is read once a transaction.
        await connection.rollback()
        await user.execute(text("SELECT count(*) FROM pgconductor.executions"))
        (held,) = await gate.lock_holders()
        assert held.tables == ("executions",)
        assert "on executions: SELECT count(*) FROM pgconductor.executions" in str(held)


@pytest.mark.parametrize(
    ("change", "agrees"),
    [
        ("SELECT 1", True),
        ("UPDATE pgconductor.schema_gate SET installed = 2", False),
        ("DELETE FROM pgconductor.schema_migrations", False),
        ("DELETE FROM pgconductor.pgconductor_version", False),
        ("INSERT INTO pgconductor.pgconductor_version VALUES ('0002')", False),
    ],
)
async def test_a_history_agrees_with_itself(engine: AsyncEngine, change: str, agrees: bool) -> None:
    async with engine.begin() as connection:
        await connection.execute(text(change))
        history = await SqlGateRepository(connection).history()
        assert history.agrees is agrees
        if agrees:
            assert history == History(("0001",), 1, 1, 1, 0)
        await connection.rollback()
