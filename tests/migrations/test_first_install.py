"""Many install on an empty database at once: one works, all the others find it done."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic import command
from sqlalchemy import Engine, NullPool, create_engine, event

from tests.migrations.support import (
    ROOT,
    alembic,
    catalog,
    config_for,
    current,
    execute,
    gate,
    in_thread,
    ledger,
    rows,
    written,
)
from tests.support.processes import UNMEASURED

DONE = ([("0001",)], [(1, 0)], [(1, "initial", False)])
EMPTY = "DROP SCHEMA IF EXISTS pgconductor CASCADE"
COORDINATORS = """
import asyncio, threading
from pgconductor.services import MigrationCoordinator

async def upgrade():
    await asyncio.gather(*(MigrationCoordinator().upgrade() for _ in range(2)))

failed = []
threading.excepthook = lambda given: failed.append(given.exc_value)
threads = [threading.Thread(target=lambda: asyncio.run(upgrade())) for _ in range(3)]
for one in threads:
    one.start()
for one in threads:
    one.join()
assert not failed, failed
"""
ORCHESTRATOR = """
import asyncio
from pgconductor import Conductor, Settings

conductor = Conductor(Settings(startup_policy="upgrade"))

@conductor.task
async def nothing(ctx) -> None:
    pass

async def main():
    async with conductor:
        orchestrator = conductor.orchestrator(concurrency=1)
        await orchestrator.start()
        await orchestrator.stop()

asyncio.run(main())
"""


def state(url: str) -> tuple[Any, ...]:
    return current(url), gate(url), ledger(url)


def python(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    given = {"PGCONDUCTOR_DATABASE_URL": url, "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    return subprocess.run(
        [sys.executable, *arguments],
        env=UNMEASURED | given,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.slow
def test_by_every_way_at_once(empty_database_url: str) -> None:
    url = empty_database_url
    ways = [
        lambda: alembic("upgrade", "head", url=url),
        lambda: python(url, "-m", "pgconductor", "migrate"),
        lambda: python(url, "-c", COORDINATORS),
        lambda: python(url, "-c", ORCHESTRATOR),
    ] * 2
    with ThreadPoolExecutor(len(ways)) as threads:
        ended = [one.result() for one in [threads.submit(way) for way in ways]]
    assert [one.returncode for one in ended] == [0] * len(ways), [one.stderr for one in ended]
    assert state(url) == DONE


class Overtaken:
    """Has another install whole, before the given statement of a migration.

    Args:
        url: The database.
        script: What installs.
        at: Before which statement, counted from 1.
    """

    def __init__(self, url: str, script: str, at: int) -> None:
        self.reached = self.installed = False
        self.seen: list[str] = []
        self._url, self._script, self._at = url, script, at

    def listen(self, engine: Engine) -> None:
        @event.listens_for(engine, "before_cursor_execute")
        def before(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
            self.seen.append(statement)
            if len(self.seen) == self._at:
                self.reached = True
                self.installed = self._install()

    def _install(self) -> bool:
        try:
            execute(self._url, f"SET lock_timeout = '100ms'; {self._script}")
        except (psycopg.errors.LockNotAvailable, psycopg.errors.UniqueViolation):
            # It is in the other's way, and would have to wait.
            return False
        return True


@pytest.fixture
def script() -> str:
    config = config_for(None)
    in_thread(command.upgrade, config, "head", sql=True)
    made = "CREATE TABLE pgconductor.pgconductor_version"
    assert made in written(config)
    # Without a look at the database, a script cannot leave out what somebody else has made.
    return written(config).replace(made, made.replace("TABLE", "TABLE IF NOT EXISTS"))


@pytest.mark.slow
def test_overtaken_at_any_statement(empty_database_url: str, script: str) -> None:
    """What is asked in two statements may have two answers that do not fit together."""
    url, installed, at = empty_database_url, 0, 0
    while True:
        at += 1
        execute(url, EMPTY)
        overtaken = Overtaken(url, script, at)
        engine = create_engine(url.replace("+asyncpg", "+psycopg", 1), poolclass=NullPool)
        overtaken.listen(engine)
        config = config_for(None)
        config.attributes["connection"] = engine
        in_thread(command.upgrade, config, "head")
        engine.dispose()
        assert state(url) == DONE, (at, overtaken.seen[at - 1])
        installed += overtaken.installed
        if "CREATE TABLE pgconductor.executions" in "".join(overtaken.seen[:at]):
            break
        assert overtaken.reached
    assert installed > 10
    assert at > installed, "towards the end the other one has to wait"


def test_what_was_there_before_is_still_told(empty_database_url: str, script: str) -> None:
    """Tables without a version table, and the other way round, are no race."""
    execute(empty_database_url, script)
    whole = catalog(empty_database_url)
    execute(empty_database_url, "DELETE FROM pgconductor.pgconductor_version")
    done = alembic("upgrade", "head", url=empty_database_url)
    assert done.returncode == 19
    assert "the version table says nothing" in done.stderr
    assert catalog(empty_database_url) == whole


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM pgconductor.pgconductor_version",
        "UPDATE pgconductor.pgconductor_version SET version_num = '0099'",
        "INSERT INTO pgconductor.pgconductor_version VALUES ('a1b2')",
        "DROP TABLE pgconductor.pgconductor_version",
    ],
)
def test_the_advice_repairs_the_version_table(
    empty_database_url: str, script: str, damage: str
) -> None:
    url = empty_database_url
    execute(url, script)
    execute(url, damage)
    done = alembic("upgrade", "head", url=url)
    assert done.returncode == 19
    advice = done.stderr.partition("This has it say what they say: ")[2]
    assert advice.startswith("BEGIN; ")
    execute(url, advice)
    assert alembic("upgrade", "head", url=url).returncode == 0
    assert state(url) == DONE


def test_the_advice_does_nothing_to_what_has_been_installed_meanwhile(
    empty_database_url: str, script: str, tmp_path: Path
) -> None:
    url = empty_database_url
    in_thread(command.stamp, config_for(url), "head")
    done = alembic("upgrade", "head", url=url)
    assert done.returncode == 19
    assert "stamp" not in done.stderr
    advice = done.stderr.partition("makes the version table forget: ")[2]
    assert advice.startswith("DELETE FROM ")
    execute(url, EMPTY)
    execute(url, script)
    execute(url, advice)
    assert state(url) == DONE
    # And where it is meant for, it helps.
    execute(url, EMPTY)
    in_thread(command.stamp, config_for(url), "head")
    execute(url, advice)
    assert rows(url, "SELECT count(*) FROM pgconductor.pgconductor_version") == [(0,)]
    assert alembic("upgrade", "head", url=url).returncode == 0
    assert state(url) == DONE
