"""`MigrationCoordinator`: outcomes as values, errors by type, two in one process, an abort."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import main
from pydantic import SecretStr
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine

from pgconductor import Settings
from pgconductor.domain.migrations import MigrationOptions, MigrationResult, OnDeadline
from pgconductor.exceptions import (
    DowngradeRefused,
    DrainTimeout,
    InvalidInput,
    LeaseTimeout,
    MigrationAborted,
    RevisionFailed,
)
from pgconductor.schema import script_location
from pgconductor.services import MigrationCoordinator, OrchestratorService
from pgconductor.services.coordinator import _ALEMBIC
from pgconductor.services.interrupts import terminable, terminable_here
from tests.migrations.support import (
    add_revision,
    config_for,
    copy_of_revisions,
    current,
    gate,
    in_thread,
    rows,
)
from tests.support.servers import connect
from tests.support.waiting import ASLEEP, eventually

SHORT = MigrationOptions(
    lease_wait=timedelta(seconds=20),
    drain_timeout=timedelta(seconds=20),
    lock_wait=timedelta(seconds=20),
)


@pytest.fixture
def location(tmp_path: Path) -> Path:
    return copy_of_revisions(tmp_path)


def add(location: Path, number: int, *, breaking: bool, more: str = "", **code: str) -> None:
    add_revision(
        location,
        f"{number:04d}",
        f"{number - 1:04d}",
        metadata=f"name = 'revision {number}'\nbreaking = {breaking}\n{more}",
        **code,
    )


@pytest.fixture
async def fleet(database_url: str) -> AsyncIterator[OrchestratorService]:
    engine = create_async_engine(database_url)
    yield OrchestratorService(engine)
    await engine.dispose()


def coordinator(url: str, location: Path | None = None, **options: Any) -> MigrationCoordinator:
    given = MigrationOptions(**{**vars(SHORT), **options})
    return MigrationCoordinator(url, options=given, location=location)


async def test_from_nothing_and_again(empty_database_url: str) -> None:
    outcome = await coordinator(empty_database_url).upgrade()
    assert (outcome.result, outcome.from_version, outcome.to_version) == ("migrated", 0, 1)
    assert outcome.migrated
    assert not outcome.should_shutdown
    assert str(outcome) == "nothing → 0001"
    outcome = await coordinator(empty_database_url).upgrade()
    assert (outcome.result, outcome.migrated) == (MigrationResult.NOTHING_TO_DO, False)
    assert str(outcome) == "0001: nothing to do"


@pytest.mark.parametrize("bind", ["url", "engine", "autocommit", "settings"])
async def test_on_what_it_is_given(empty_database_url: str, bind: str) -> None:
    """An engine stays open and usable, whatever its isolation level."""
    if bind == "url":
        await MigrationCoordinator(empty_database_url).upgrade()
    elif bind == "settings":
        settings = Settings(database_url=SecretStr(empty_database_url))
        await MigrationCoordinator(settings=settings).upgrade()
    else:
        level: dict[str, Any] = {"isolation_level": "AUTOCOMMIT"} if bind == "autocommit" else {}
        engine = create_async_engine(empty_database_url, **level)
        async with engine.connect():
            await MigrationCoordinator(engine).upgrade()
        async with engine.connect() as connection:
            assert await connection.scalar(text("SELECT 1")) == 1
        await engine.dispose()
    assert current(empty_database_url) == [("0001",)]


async def test_to_a_revision_and_back(database_url: str, location: Path) -> None:
    for number in (2, 3, 4):
        add(location, number, breaking=False)
    one = coordinator(database_url, location)
    assert (await one.upgrade(3)).to_version == 3
    assert (await one.upgrade("0003")).result == "nothing to do"
    assert (await one.upgrade()).to_version == 4
    outcome = await one.downgrade(2)
    assert (outcome.result, outcome.from_version, outcome.to_version) == ("migrated", 4, 2)
    assert gate(database_url) == [(2, 0)]
    assert (await one.downgrade(0)).to_version == 0
    assert current(database_url) == []


@pytest.mark.parametrize("target", ["0099", "later", "-1", "heads", ""])
async def test_a_revision_that_is_not_there(database_url: str, target: str) -> None:
    with pytest.raises(InvalidInput, match="known: head, 0001"):
        await coordinator(database_url).upgrade(target)


async def test_ten_in_one_process(empty_database_url: str) -> None:
    """Alembic's context is one for the process; each waits for its turn."""
    outcomes = await asyncio.gather(*(coordinator(empty_database_url).upgrade() for _ in range(10)))
    results = sorted(outcome.result for outcome in outcomes)
    assert results == ["migrated", *["nothing to do"] * 9]


async def test_a_breaking_revision_waits_and_says_for_whom(
    database_url: str, location: Path, fleet: OrchestratorService
) -> None:
    add(location, 2, breaking=True)
    old = await fleet.register(schema_version=1)
    told: list[str] = []
    work = asyncio.create_task(
        MigrationCoordinator(
            database_url, options=SHORT, report=told.append, location=location
        ).upgrade()
    )
    await eventually(lambda: told)
    assert str(old.orchestrator_id) in told[0]
    assert "left" in told[0]
    beat = await fleet.heartbeat(old)
    assert (beat.shutdown_requested, beat.schema_floor) == (True, 2)
    assert beat.shutdown_reason == "a migration: breaking revision 0002 (revision 2)"
    await fleet.leave(old)
    outcome = await work
    assert (outcome.drained, outcome.evicted) == ((old.orchestrator_id,), ())
    assert outcome.waited > timedelta(0)
    assert outcome.should_shutdown is False


async def test_the_deadline(database_url: str, location: Path, fleet: OrchestratorService) -> None:
    add(location, 2, breaking=False)
    add(location, 3, breaking=True)
    old = await fleet.register(schema_version=1)
    soon = timedelta(seconds=0.2)
    with pytest.raises(DrainTimeout) as caught:
        await coordinator(database_url, location, drain_timeout=soon).upgrade()
    assert caught.value.orchestrators == (old.orchestrator_id,)
    assert caught.value.outcome is not None
    assert caught.value.outcome.result is MigrationResult.NOT_DRAINED
    assert caught.value.outcome.to_version == 2
    evicting = coordinator(
        database_url, location, drain_timeout=soon, on_drain_timeout=OnDeadline.EVICT
    )
    outcome = await evicting.upgrade()
    assert (outcome.to_version, outcome.evicted) == (3, (old.orchestrator_id,))


async def test_a_database_that_is_too_new(database_url: str, location: Path) -> None:
    """The code is told that it must not go on; nothing is raised, for nothing has failed."""
    add(location, 2, breaking=True)
    await coordinator(database_url, location).upgrade()
    outcome = await coordinator(database_url).upgrade()
    assert (outcome.result, outcome.should_shutdown) == (MigrationResult.REFUSED, True)
    assert (outcome.migrated, outcome.to_version) == (False, 2)


async def test_a_downgrade_waits_for_who_needs_the_revision(
    database_url: str, location: Path, fleet: OrchestratorService
) -> None:
    add(location, 2, breaking=True)
    await coordinator(database_url, location).upgrade()
    needs = await fleet.register(schema_version=2, schema_required=2)
    other = await fleet.register(schema_version=2, schema_required=1)
    work = asyncio.create_task(coordinator(database_url, location).downgrade(1))
    asked = "SELECT id FROM pgconductor.orchestrators WHERE shutdown_requested_at IS NOT NULL"
    await eventually(lambda: rows(database_url, asked) == [(needs.orchestrator_id,)])
    assert (await fleet.heartbeat(needs)).schema_ceiling == 1
    await fleet.leave(needs)
    assert (await work).to_version == 1
    assert not (await fleet.heartbeat(other)).shutdown_requested


async def test_an_irreversible_revision(database_url: str, location: Path) -> None:
    add(location, 2, breaking=False, more="irreversible = True")
    add(location, 3, breaking=False)
    one = coordinator(database_url, location)
    await one.upgrade()
    with pytest.raises(DowngradeRefused, match="0002"):
        await one.downgrade(1)
    # Not even those after it.
    assert current(database_url) == [("0003",)]
    assert (await one.downgrade(2)).to_version == 2


async def test_an_abort_while_it_waits(
    database_url: str, location: Path, fleet: OrchestratorService
) -> None:
    """A4, I9: what was announced is taken back."""
    add(location, 2, breaking=True)
    old = await fleet.register(schema_version=1)
    abort = asyncio.Event()
    work = asyncio.create_task(coordinator(database_url, location).upgrade(abort=abort))
    intent = "SELECT intent_floor FROM pgconductor.schema_gate"
    await eventually(lambda: rows(database_url, intent) == [(2,)])
    abort.set()
    with pytest.raises(MigrationAborted) as caught:
        await work
    assert caught.value.outcome is not None
    assert caught.value.outcome.result is MigrationResult.ABORTED
    assert rows(database_url, intent) == [(None,)]
    await fleet.register(schema_version=1)
    assert (await fleet.heartbeat(old)).schema_floor == 0


async def test_cancelling_it_is_an_abort(database_url: str, location: Path) -> None:
    add(location, 2, breaking=False, change="def change(): op.execute('SELECT pg_sleep(600)')")
    work = asyncio.create_task(coordinator(database_url, location).upgrade())
    await eventually(lambda: rows(database_url, ASLEEP) == [(1,)])
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    await eventually(lambda: rows(database_url, ASLEEP) == [(0,)])
    assert current(database_url) == [("0001",)]
    # Nothing is left that another would have to wait for.
    add(location, 2, breaking=False)
    assert (await coordinator(database_url, location).upgrade()).to_version == 2


async def test_a_failure_says_how_far_it_came(database_url: str, location: Path) -> None:
    add(location, 2, breaking=False)
    add(location, 3, breaking=False, change="def change(): op.execute('SELECT 1 / 0')")
    with pytest.raises(RevisionFailed) as caught:
        await coordinator(database_url, location).upgrade()
    assert (caught.value.revision, caught.value.sqlstate) == (3, "22012")
    assert caught.value.outcome is not None
    assert (caught.value.outcome.from_version, caught.value.outcome.to_version) == (1, 2)


async def test_the_gate_is_locked_by_somebody(database_url: str, location: Path) -> None:
    """I9: also where nobody holds the lease."""
    add(location, 2, breaking=False)
    with connect(database_url) as other:
        other.autocommit = False
        other.execute("SELECT * FROM pgconductor.schema_gate FOR UPDATE")
        with pytest.raises(LeaseTimeout, match="the gate's row was locked"):
            await coordinator(database_url, location, lease_wait=timedelta(seconds=0.2)).upgrade()
    assert (await coordinator(database_url, location).upgrade()).to_version == 2


async def test_another_of_this_process_does_not_end(empty_database_url: str) -> None:
    """I9."""
    with _ALEMBIC, pytest.raises(LeaseTimeout, match="in this process"):
        await coordinator(empty_database_url, lease_wait=timedelta(seconds=0.2)).upgrade()
    assert (await coordinator(empty_database_url).upgrade()).migrated


# --- a connection of the caller's -----------------------------------------------------------------


def upgrade_on(connection: Connection) -> None:
    config = config_for(None)
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_connection_that_commits_each_statement(
    empty_database_url: str, driver: str
) -> None:
    """A revision would be half there after an error."""

    def refused(connection: Connection) -> None:
        with pytest.raises(RuntimeError, match="must not commit every statement"):
            upgrade_on(connection)

    if driver == "asyncpg":
        engine = create_async_engine(empty_database_url, isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            await connection.run_sync(refused)
        await engine.dispose()
    else:
        plain = create_engine(empty_database_url.replace("asyncpg", "psycopg"))
        with plain.connect() as made:
            refused(made.execution_options(isolation_level="AUTOCOMMIT"))
        plain.dispose()


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_what_the_caller_has_set_comes_back(empty_database_url: str, driver: str) -> None:
    names = ("lock_timeout", "application_name", "statement_timeout", "pgconductor.lease")
    asked = text("SELECT " + ", ".join(f"current_setting('{name}', true)" for name in names))

    def check(connection: Connection) -> None:
        connection.execute(text("SET lock_timeout = '7s'"))
        connection.execute(text("SET application_name = 'mine'"))
        connection.commit()
        level = connection.get_isolation_level()
        connection.rollback()
        upgrade_on(connection)
        assert tuple(connection.execute(asked).one()) == ("7s", "mine", "0", "")
        assert connection.get_isolation_level() == level

    if driver == "asyncpg":
        engine = create_async_engine(empty_database_url)
        async with engine.connect() as connection:
            await connection.run_sync(check)
        await engine.dispose()
    else:
        plain = create_engine(empty_database_url.replace("asyncpg", "psycopg"))
        with plain.connect() as made:
            check(made)
        plain.dispose()


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_alembics_command_line_in_a_thread(
    empty_database_url: str, driver: str, tmp_path: Path
) -> None:
    """Where no signal can be handled."""
    ini = tmp_path / "alembic.ini"
    ini.write_text(f"[alembic]\nscript_location = {script_location()}\n", encoding="utf-8")
    url = empty_database_url.replace("asyncpg", driver)
    in_thread(main, ["-c", str(ini), "-x", f"url={url}", "upgrade", "head"])
    assert current(empty_database_url) == [("0001",)]


async def test_a_program_keeps_its_own_handler() -> None:
    def own(_number: int, _frame: object) -> None: ...

    before = signal.signal(signal.SIGTERM, own)
    try:
        await terminable(asyncio.sleep(0))
        assert signal.getsignal(signal.SIGTERM) is own
        with terminable_here():
            pass
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


async def test_told_to_stop_by_many_signals() -> None:
    """Not even one that comes between the end of the work and that of the process kills it."""

    async def told_at_once() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(MigrationAborted):
            await terminable(told_at_once())
        os.kill(os.getpid(), signal.SIGTERM)
        signal.signal(signal.SIGTERM, before)
        with pytest.raises(MigrationAborted), terminable_here():
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
