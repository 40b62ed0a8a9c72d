"""A6: the guard goes with the revisions: a user's own environment, or a script, meets it too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest
from alembic import command
from sqlalchemy.ext.asyncio import create_async_engine

from pgconductor.domain.ids import new_id
from pgconductor.exceptions import HistoryMismatch, LeaseLost, NotDrained, SchemaTooNew
from pgconductor.schema import script_location
from pgconductor.services import OrchestratorService
from tests.migrations.support import (
    PLAIN_ENVIRONMENT,
    add_revision,
    config_for,
    copy_of_revisions,
    current,
    execute,
    gate,
    in_thread,
    ledger,
    rows,
    written,
)
from tests.support.servers import connect
from tests.support.waiting import eventually

HOLD = """
    SET application_name = 'pgconductor-migrate/{lease}';
    UPDATE pgconductor.schema_gate SET lease_id = '{lease}', lease_holder = 'a test',
        lease_pid = pg_backend_pid(), lease_since = now()
"""


@pytest.fixture
def location(tmp_path: Path) -> Path:
    """Revisions with a plain environment, which knows nothing of us."""
    copy = copy_of_revisions(tmp_path)
    (copy / "env.py").write_text(PLAIN_ENVIRONMENT, encoding="utf-8")
    return copy


def add(location: Path, number: int, *, breaking: bool) -> None:
    add_revision(
        location,
        f"{number:04d}",
        f"{number - 1:04d}",
        metadata=f"name = 'revision {number}'\nbreaking = {breaking}",
        change="def change(): op.execute('CREATE TABLE pgconductor.added (id int)')",
        change_back="def change_back(): op.execute('DROP TABLE pgconductor.added')",
    )


def upgrade(url: str, location: Path) -> None:
    in_thread(command.upgrade, config_for(url, location), "head")


def downgrade(url: str, location: Path) -> None:
    in_thread(command.downgrade, config_for(url, location), "-1")


def script(url: str, location: Path, way: str = "0001:0002") -> str:
    config = config_for(url, location)
    # Our own environment renders scripts, a plain one does not.
    ours = (script_location() / "env.py").read_text(encoding="utf-8")
    (location / "env.py").write_text(ours, encoding="utf-8")
    move = command.upgrade if way.endswith("2") else command.downgrade
    in_thread(move, config, way, sql=True)
    return written(config)


@asynccontextmanager
async def registered(url: str, version: int, required: int = 1) -> AsyncIterator[str]:
    """An orchestrator that is there."""
    engine = create_async_engine(url)
    service = OrchestratorService(engine)
    try:
        found = await service.register(schema_version=version, schema_required=required)
        yield str(found.orchestrator_id)
        await service.leave(found)
    finally:
        await engine.dispose()


def assert_unchanged(url: str, at: int = 1) -> None:
    assert current(url) == [(f"{at:04d}",)]
    assert gate(url)[0][0] == at
    assert len(ledger(url)) == at
    exists = rows(url, "SELECT to_regclass('pgconductor.added') IS NOT NULL")
    assert exists == [(at == 2,)]


async def test_a_breaking_revision_refuses_while_old_ones_are_there(
    database_url: str, location: Path
) -> None:
    add(location, 2, breaking=True)
    async with registered(database_url, 1) as old, registered(database_url, 2) as new:
        with pytest.raises(NotDrained, match=f"revision 0002 shuts out: orchestrator {old}") as no:
            upgrade(database_url, location)
        assert new not in str(no.value)
        assert_unchanged(database_url)
    upgrade(database_url, location)
    assert_unchanged(database_url, at=2)
    assert gate(database_url) == [(2, 2)]


async def test_another_revision_does_not(database_url: str, location: Path) -> None:
    add(location, 2, breaking=False)
    async with registered(database_url, 1):
        upgrade(database_url, location)
    assert_unchanged(database_url, at=2)


@pytest.mark.parametrize("breaking", [False, True])
async def test_a_way_back_refuses_while_somebody_needs_the_revision(
    database_url: str, location: Path, breaking: bool
) -> None:
    add(location, 2, breaking=breaking)
    upgrade(database_url, location)
    async with registered(database_url, 2, 2) as needs, registered(database_url, 2, 1) as not_so:
        with pytest.raises(NotDrained, match=needs) as no:
            downgrade(database_url, location)
        assert not_so not in str(no.value)
        assert_unchanged(database_url, at=2)
    downgrade(database_url, location)
    assert_unchanged(database_url)
    assert gate(database_url) == [(1, 0)]


async def test_even_the_way_back_to_nothing(database_url: str, location: Path) -> None:
    async with registered(database_url, 1):
        with pytest.raises(NotDrained):
            downgrade(database_url, location)
    downgrade(database_url, location)
    assert current(database_url) == []


@pytest.mark.parametrize("breaking", [False, True])
def test_while_another_migration_is_at_work(
    database_url: str, location: Path, breaking: bool
) -> None:
    add(location, 2, breaking=breaking)
    with connect(database_url) as holder:
        holder.execute(HOLD.format(lease=new_id()).encode())
        with pytest.raises(LeaseLost, match="another migration is at work: a test"):
            upgrade(database_url, location)
        assert_unchanged(database_url)
    # Its server process has ended, and the lease with it.
    upgrade(database_url, location)
    assert_unchanged(database_url, at=2)


async def test_who_registers_meanwhile_waits_and_is_refused(
    database_url: str, location: Path
) -> None:
    """A6: the gate is locked from the count on until the commit."""
    change = "def change(): op.execute('SELECT pg_advisory_xact_lock(77)')"
    metadata = "name = 'x'\nbreaking = True"
    add_revision(location, "0002", "0001", metadata=metadata, change=change)
    waits = (
        "SELECT count(*) = 1 FROM pg_stat_activity"
        " WHERE wait_event_type = 'Lock' AND datname = current_database() AND query LIKE '%{}%'"
    )
    engine = create_async_engine(database_url)
    with connect(database_url) as other:
        other.execute("SELECT pg_advisory_lock(77)")
        upgrading = asyncio.create_task(asyncio.to_thread(upgrade, database_url, location))
        await eventually(lambda: rows(database_url, waits.format("xact_lock(77)")) == [(True,)])
        registering = asyncio.create_task(OrchestratorService(engine).register(schema_version=1))
        insert = waits.format("FOR SHARE OF g")
        await eventually(lambda: rows(database_url, insert) == [(True,)])
        other.execute("SELECT pg_advisory_unlock(77)")
    await upgrading
    with pytest.raises(SchemaTooNew):
        await registering
    await engine.dispose()


def test_a_revision_knows_where_it_begins(database_url: str, location: Path) -> None:
    add(location, 2, breaking=False)
    execute(database_url, "UPDATE pgconductor.schema_gate SET installed = 0")
    with pytest.raises(HistoryMismatch, match="needs a database at 0001"):
        upgrade(database_url, location)
    execute(database_url, "UPDATE pgconductor.schema_gate SET installed = 1")
    assert_unchanged(database_url)


async def test_a_script_refuses_too(database_url: str, location: Path) -> None:
    add(location, 2, breaking=True)
    text = script(database_url, location)
    async with registered(database_url, 1) as old:
        with pytest.raises(psycopg.Error, match=old) as no:
            execute(database_url, text)
        assert no.value.sqlstate == "PC002"
        assert_unchanged(database_url)
        # The DBA knows better, and says so.
        execute(database_url, f"SET pgconductor.force = 'they are dead'; {text}")
    assert_unchanged(database_url, at=2)
    execute(database_url, script(database_url, location, "0002:0001"))
    assert_unchanged(database_url)


def test_a_snapshot_older_than_the_lock_is_refused(database_url: str, location: Path) -> None:
    """It would not show who has registered last."""
    add(location, 2, breaking=True)
    text = script(database_url, location)
    with connect(database_url) as dba:
        dba.execute("SET default_transaction_isolation = 'repeatable read'")
        with pytest.raises(psycopg.Error, match="READ COMMITTED"):
            dba.execute(text.encode())
    assert_unchanged(database_url)


def test_a_stamp_meets_the_lease(database_url: str, location: Path) -> None:
    add(location, 2, breaking=False)
    script(database_url, location)
    with connect(database_url) as holder:
        holder.execute(HOLD.format(lease=new_id()).encode())
        with pytest.raises(LeaseLost, match="another migration is at work"):
            in_thread(command.stamp, config_for(database_url, location), "0002")
    assert_unchanged(database_url)


def test_a_script_meets_the_lease(database_url: str, location: Path) -> None:
    add(location, 2, breaking=False)
    text = script(database_url, location)
    with connect(database_url) as holder:
        holder.execute(HOLD.format(lease=new_id()).encode())
        with pytest.raises(psycopg.Error, match="another migration is at work") as no:
            execute(database_url, text)
        assert no.value.sqlstate == "PC001"
    assert_unchanged(database_url)


async def test_a_holder_whose_lease_was_taken_over(database_url: str, location: Path) -> None:
    """It says by its setting who it is, and is not it any more."""
    add(location, 2, breaking=False)
    text = script(database_url, location)
    with connect(database_url) as paused, connect(database_url) as other:
        mine, theirs = new_id(), new_id()
        paused.execute(f"SET pgconductor.lease = '{mine}'".encode())
        paused.execute(HOLD.format(lease=mine).encode())
        other.execute(HOLD.format(lease=theirs).encode())
        with pytest.raises(psycopg.Error, match="taken over by a test") as no:
            paused.execute(text.encode())
        assert no.value.sqlstate == "PC001"
    assert_unchanged(database_url)
