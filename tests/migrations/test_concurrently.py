"""An index is built beside those who write, and a build that was interrupted is made good."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from io import StringIO
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError

from pgconductor.domain.migrations import MigrationOptions
from pgconductor.exceptions import HistoryMismatch, LeaseLost, LockWaitTimeout
from pgconductor.schema.concurrently import create_index_concurrently
from tests.migrations.support import (
    add_revision,
    config_for,
    copy_of_revisions,
    current,
    execute,
    gate,
    in_thread,
    ledger,
    rows,
)
from tests.support.servers import connect
from tests.support.waiting import eventually

CREATE = """
from datetime import timedelta
from pgconductor.schema.concurrently import create_index_concurrently, drop_index_concurrently

def change():
    create_index_concurrently(
        op, "executions_added_idx", "executions", ["queue", "created_at"],
        where="state = 'failed'", wait=timedelta(seconds=WAIT),
    )
"""
DROP = """
def change_back():
    drop_index_concurrently(op, "executions_added_idx", wait=timedelta(seconds=WAIT))
"""
STATE = """
    SELECT i.indexrelid::bigint, i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = indexrelid
    WHERE c.relname = 'executions_added_idx'
"""
DEFINITION = "SELECT pg_get_indexdef('pgconductor.executions_added_idx'::regclass)"
BEFORE = [(1, "initial", False)]
AFTER = [*BEFORE, (2, "an index", False)]
drivers = pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])


def revise(folder: Path, *, wait: float = 30.0) -> Path:
    """Our revisions and one more that builds an index."""
    location = copy_of_revisions(folder)
    add_revision(
        location,
        "0002",
        "0001",
        metadata=f"name = 'an index'\nbreaking = False\nWAIT = {wait}",
        change=CREATE,
        change_back=DROP,
    )
    return location


def upgrade(
    url: str,
    location: Path,
    driver: str = "asyncpg",
    *,
    lock_wait: float = 0.0,
    report: Callable[[str], object] | None = None,
) -> None:
    """By our own environment, which tries again for as long as ``lock_wait``."""
    given = make_url(url).set(drivername=f"postgresql+{driver}")
    config = config_for(given.render_as_string(hide_password=False), location)
    config.attributes["migration_options"] = MigrationOptions(
        lock_wait=timedelta(seconds=lock_wait)
    )
    config.attributes["report"] = report or (lambda _: None)
    in_thread(command.upgrade, config, "head")


@contextmanager
def old_snapshot(url: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """A transaction that began before, elsewhere: a concurrent build must wait for it."""
    with connect(url) as connection:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM pgconductor.tasks")
        yield connection


def is_recorded(url: str) -> bool:
    said = (ledger(url), gate(url), current(url))
    assert said in [(AFTER, [(2, 0)], [("0002",)]), (BEFORE, [(1, 0)], [("0001",)])]
    return said[0] == AFTER


@drivers
def test_there_and_back(database_url: str, tmp_path: Path, driver: str) -> None:
    location = revise(tmp_path)
    upgrade(database_url, location, driver)
    assert is_recorded(database_url)
    ((_, valid),) = rows(database_url, STATE)
    assert valid
    in_thread(command.downgrade, config_for(database_url, location), "0001")
    assert not is_recorded(database_url)
    assert rows(database_url, STATE) == []


@drivers
def test_an_interrupted_build_is_made_good(database_url: str, tmp_path: Path, driver: str) -> None:
    with old_snapshot(database_url):
        location = revise(tmp_path, wait=0.1)
        with pytest.raises(LockWaitTimeout, match="did not get its locks"):
            upgrade(database_url, location, driver)
    ((left, valid),) = rows(database_url, STATE)
    assert not valid
    assert not is_recorded(database_url)
    upgrade(database_url, location, driver)
    ((built, valid),) = rows(database_url, STATE)
    assert valid
    assert built != left
    assert is_recorded(database_url)


def test_our_environment_tries_again(database_url: str, tmp_path: Path) -> None:
    """It takes a build that waits in vain for what it is: a revision without its locks."""
    lines: list[str] = []
    with old_snapshot(database_url) as older:

        def told(line: str) -> None:
            lines.append(line)
            older.rollback()

        upgrade(database_url, revise(tmp_path, wait=0.1), lock_wait=60, report=told)
    assert any("revision 0002 did not get its locks" in line for line in lines)
    assert [valid for _, valid in rows(database_url, STATE)] == [True]
    assert is_recorded(database_url)


def test_what_if_not_exists_would_have_done(database_url: str, tmp_path: Path) -> None:
    """The reason for the helper: Postgres takes the invalid index for the one that is wanted."""
    with old_snapshot(database_url), pytest.raises(LockWaitTimeout):
        upgrade(database_url, revise(tmp_path, wait=0.1))
    execute(
        database_url,
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS executions_added_idx"
        " ON pgconductor.executions (queue, created_at)",
    )
    ((_, valid),) = rows(database_url, STATE)
    assert not valid


def test_killed_between_index_and_ledger(database_url: str, tmp_path: Path) -> None:
    """What is built is not built again: the second time only records."""
    location = revise(tmp_path)
    cut = location / "versions" / "0002_added.py"
    source = cut.read_text(encoding="utf-8")
    die = "        change()\n        raise SystemExit('killed')\n"
    cut.write_text(source.replace("        change()\n", die), encoding="utf-8")
    with pytest.raises(SystemExit):
        upgrade(database_url, location)
    assert not is_recorded(database_url)
    built = rows(database_url, STATE)
    assert [valid for _, valid in built] == [True]
    cut.write_text(source, encoding="utf-8")
    upgrade(database_url, location)
    assert is_recorded(database_url)
    assert rows(database_url, STATE) == built


async def test_a_build_that_goes_on_is_not_dropped(database_url: str, tmp_path: Path) -> None:
    """A client that died leaves its statement at work in the server."""
    with ThreadPoolExecutor(max_workers=1) as thread, old_snapshot(database_url) as older:
        building = thread.submit(
            execute,
            database_url,
            "CREATE INDEX CONCURRENTLY executions_added_idx ON pgconductor.executions"
            " (queue, created_at) WHERE state = 'failed'",
        )
        (being_built,) = await eventually(lambda: rows(database_url, STATE))
        assert being_built[1] is False
        with pytest.raises(LeaseLost, match=r"pid \d+, builds the index executions_added_idx"):
            upgrade(database_url, revise(tmp_path / "first", wait=0.2))
        assert rows(database_url, STATE) == [being_built]
        assert not is_recorded(database_url)
        older.rollback()
        building.result()
        upgrade(database_url, revise(tmp_path / "again"))
        assert rows(database_url, STATE) == [(being_built[0], True)]
        assert is_recorded(database_url)


def test_an_index_of_that_name_elsewhere(database_url: str, tmp_path: Path) -> None:
    execute(database_url, "CREATE INDEX executions_added_idx ON pgconductor.tasks (queue)")
    with pytest.raises(HistoryMismatch, match="is there, on tasks, not on executions"):
        upgrade(database_url, revise(tmp_path))
    assert not is_recorded(database_url)


def test_another_migration_meanwhile(database_url: str, tmp_path: Path) -> None:
    """The guard's transaction is over when the index is built: the ledger looks once more."""
    location = revise(tmp_path)
    path = location / "versions" / "0002_added.py"
    source = path.read_text(encoding="utf-8")
    other = (
        "        change()\n        op.execute('UPDATE pgconductor.schema_gate SET installed = 2')\n"
    )
    path.write_text(source.replace("        change()\n", other), encoding="utf-8")
    with pytest.raises(HistoryMismatch, match="another session"):
        upgrade(database_url, location)
    assert not is_recorded(database_url)


@pytest.mark.parametrize("kept", ["5s", "0"])
@pytest.mark.parametrize("fails", [False, True])
def test_the_sessions_own_patience_comes_back(
    database_url: str, sync_engine: sa.Engine, kept: str, fails: bool
) -> None:
    with sync_engine.connect() as connection:
        connection.execute(sa.text(f"SET lock_timeout = '{kept}'"))
        connection.commit()
        context = MigrationContext.configure(connection=connection)
        given = (Operations(context), "added_idx", "executions", ["missing" if fails else "queue"])
        raised = pytest.raises(DBAPIError, match="missing") if fails else nullcontext()
        with raised, context.begin_transaction():
            create_index_concurrently(*given)
        connection.rollback()
        assert connection.scalar(sa.text("SHOW lock_timeout")) == kept
    found = rows(database_url, "SELECT to_regclass('pgconductor.added_idx') IS NOT NULL")
    assert found == [(not fails,)]


# --- as a script ---------------------------------------------------------------------------------


class Parts(StringIO):
    """Keeps what Alembic writes apart: a statement each."""

    def __init__(self) -> None:
        super().__init__()
        self.statements: list[str] = []

    def write(self, text: str) -> int:
        self.statements.append(text)
        return len(text)


def script_of(location: Path) -> list[str]:
    config = config_for(None, location)
    config.output_buffer = parts = Parts()
    in_thread(command.upgrade, config, "0001:0002", sql=True)
    return parts.statements


def execute_script(url: str, statements: list[str]) -> None:
    with connect(url) as connection:
        for statement in statements:
            connection.execute(statement.encode())


@pytest.mark.parametrize("left", ["nothing", "invalid", "valid"])
def test_the_script(database_url: str, tmp_path: Path, left: str) -> None:
    location = revise(tmp_path)
    script = script_of(location)
    if left == "invalid":
        with old_snapshot(database_url), pytest.raises(LockWaitTimeout):
            upgrade(database_url, revise(tmp_path / "first", wait=0.1))
    elif left == "valid":
        execute(database_url, "CREATE INDEX executions_added_idx ON pgconductor.executions (queue)")
    execute_script(database_url, script)
    assert [valid for _, valid in rows(database_url, STATE)] == [True]
    (definition,) = rows(
        database_url, "SELECT pg_get_indexdef('pgconductor.executions_added_idx'::regclass)"
    )
    assert "(queue, created_at) WHERE (state = 'failed'::text)" in str(definition[0])
    assert is_recorded(database_url)


def test_the_script_looks_whether_the_index_is_valid(database_url: str, tmp_path: Path) -> None:
    script = script_of(revise(tmp_path))
    (look,) = (part for part in script if "$whole$" in part)
    with pytest.raises(psycopg.Error, match="executions_added_idx is not valid"):
        execute_script(database_url, [look])
