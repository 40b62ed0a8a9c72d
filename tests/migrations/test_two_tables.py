"""A revision of two tables under load: it gives way, and no attempt is lost to it.

Handlers hold one table of ours and go on to the other while it is applied and taken back.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import text

from pgconductor import TaskContext
from pgconductor.domain.migrations import MigrationOptions
from pgconductor.exceptions import LockWaitTimeout
from tests.integration.runtime_world import World
from tests.migrations.support import add_revision, config_for, copy_of_revisions, current, in_thread
from tests.support.servers import connect
from tests.support.waiting import eventually

TRIALS = 3
READ = text("SELECT key FROM pgconductor.steps LIMIT 1")
CHANGE = """
def change():
    {locks}
    op.execute("ALTER TABLE pgconductor.executions ADD note text")
    op.execute("SELECT pg_sleep(0.2)")
    op.execute("ALTER TABLE pgconductor.steps ADD note text")
"""
CHANGE_BACK = """
def change_back():
    {locks}
    op.execute("ALTER TABLE pgconductor.steps DROP COLUMN note")
    op.execute("SELECT pg_sleep(0.2)")
    op.execute("ALTER TABLE pgconductor.executions DROP COLUMN note")
"""
ROW_LOCK = "LOCK TABLE pgconductor.{} IN ROW EXCLUSIVE MODE NOWAIT"
LOCKS = "from pgconductor.schema import lock_tables; lock_tables(op, 'steps', 'executions')"


def two_tables(folder: Path, locks: str = LOCKS) -> Path:
    location = copy_of_revisions(folder)
    add_revision(
        location,
        "0002",
        "0001",
        metadata="name = 'two tables'\nbreaking = False",
        change=CHANGE.format(locks=locks),
        change_back=CHANGE_BACK.format(locks=locks),
    )
    return location


@pytest.mark.parametrize("locks", [LOCKS, "pass"], ids=["locked first", "locked one by one"])
async def test_a_revision_under_load_costs_no_attempt(
    database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, locks: str
) -> None:
    """One by one, it is a transaction of a handler's that the server ends: that does not count."""
    world = World(database_url)
    conductor = world.conductor()
    location = two_tables(tmp_path, locks)
    stop = asyncio.Event()

    @conductor.task(max_attempts=1)
    async def work(ctx: TaskContext) -> int:
        await ctx.step("before", int, "1")
        async with ctx.transaction("book") as session:
            await session.execute(READ)
            await asyncio.sleep(0.01)
        if not stop.is_set():
            await work.invoke()
        return ctx.attempt

    try:
        with caplog.at_level(logging.WARNING):
            async with world.serving(conductor, concurrency=8):
                for _ in range(8):
                    await work.invoke()
                for _ in range(TRIALS):
                    await asyncio.to_thread(
                        in_thread, command.upgrade, config_for(database_url, location), "0002"
                    )
                    await asyncio.to_thread(
                        in_thread, command.downgrade, config_for(database_url, location), "0001"
                    )
                stop.set()
                unfinished = "SELECT id FROM pgconductor.executions WHERE finished_at IS NULL"
                await eventually(lambda: not world.rows(unfinished), timeout=60)
        assert current(database_url) == [("0001",)]
        outcomes = world.rows("SELECT DISTINCT state, attempts FROM pgconductor.executions")
        assert outcomes == [{"state": "completed", "attempts": 1}]
        if locks == LOCKS:
            assert "given back" not in caplog.text
    finally:
        await world.close()


@pytest.mark.parametrize("table", ["executions", "steps"])
def test_it_takes_all_or_none_and_never_waits_for_one_with_another(
    database_url: str, tmp_path: Path, table: str
) -> None:
    """Whoever holds one table is not what it makes a deadlock with, however long that takes."""
    config = config_for(database_url, two_tables(tmp_path))
    config.attributes["migration_options"] = MigrationOptions(
        lock_timeout=timedelta(milliseconds=200), lock_wait=timedelta(seconds=1)
    )
    with connect(database_url) as holder, connect(database_url) as other:
        holder.execute(f"BEGIN; SELECT FROM pgconductor.{table}".encode())
        with pytest.raises(LockWaitTimeout, match="did not get its locks"):
            in_thread(command.upgrade, config, "0002")
        # The tables are free again, both.
        for one in ("executions", "steps"):
            other.execute(f"BEGIN; {ROW_LOCK.format(one)}; COMMIT".encode())
    assert current(database_url) == [("0001",)]
