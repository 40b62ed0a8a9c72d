"""Each trouble made for real, and what the doctor makes of it; least privileges will do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from pgconductor.domain import diagnosis
from pgconductor.domain.health import Finding, Severity
from pgconductor.models import Base
from pgconductor.repositories.health import is_pooled, wanted_indexes, wanted_parameters
from pgconductor.services import ExecutionService, HealthService, OrchestratorService
from tests.support.servers import connect

WARN, BAD, UNKNOWN = Severity.WARN, Severity.BAD, Severity.UNKNOWN
# The server of the tests is as fast as an unsafe one can be.
UNSAFE = ("durability",)


async def findings(engine: AsyncEngine, **options: Any) -> list[Finding]:
    found = await HealthService(engine, **options).diagnose()
    return [one for one in found if one.check not in UNSAFE]


async def troubles(engine: AsyncEngine, **options: Any) -> dict[str, Finding]:
    """What needs attention, one for each check."""
    found = [one for one in await findings(engine, **options) if one.severity is not Severity.OK]
    by_check = {one.check: one for one in found}
    assert len(by_check) == len(found), found
    return by_check


async def only(engine: AsyncEngine, check: str, severity: Severity, *words: str) -> Finding:
    found = await troubles(engine)
    assert set(found) == {check}, found
    one = found[check]
    assert one.severity is severity
    assert one.advice
    for word in words:
        assert word in f"{one.what} {one.advice}", one
    return one


def did(url: str, *statements: str) -> None:
    with connect(url) as connection:
        for statement in statements:
            connection.execute(statement.encode())


async def test_a_healthy_database(engine: AsyncEngine) -> None:
    await OrchestratorService(engine).register()
    found = await findings(engine)
    assert {one.severity for one in found} == {Severity.OK}, found
    assert not any(one.advice for one in found)
    assert {one.check for one in found} >= {
        "server",
        "pooler",
        "schema",
        "oldest transaction",
        "notifications",
        "dead rows",
        "autovacuum",
        "indexes",
        "bloat",
        "stuck executions",
        "overdue executions",
        "retention",
    }


# --- what holds vacuum up ------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for five minutes here."""
    monkeypatch.setattr(diagnosis, "LONG", timedelta(0))


@contextmanager
def open_transaction(url: str) -> Iterator[str]:
    with connect(url) as connection, connection.transaction():
        connection.execute(b"SET application_name = 'forgotten'; SELECT txid_current()")
        yield str(connection.info.backend_pid)


@contextmanager
def prepared_transaction(url: str) -> Iterator[str]:
    name = f"pgc_{uuid4().hex}"
    with connect(url) as connection:
        if connection.execute(b"SHOW max_prepared_transactions").fetchone() == ("0",):
            pytest.skip("the server has no prepared transactions")
        connection.execute(f"BEGIN; SELECT txid_current(); PREPARE TRANSACTION '{name}'".encode())
        yield name
        connection.execute(f"ROLLBACK PREPARED '{name}'".encode())


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("hold", [open_transaction, prepared_transaction])
async def test_an_old_transaction(
    engine: AsyncEngine,
    database_url: str,
    hold: Callable[[str], AbstractContextManager[str]],
) -> None:
    with hold(database_url) as name:
        found = [one for one in await findings(engine) if one.figures.get("name") == name]
    assert [(one.check, one.severity) for one in found] == [("oldest transaction", WARN)]
    assert name in found[0].what
    assert name in found[0].advice


async def test_a_young_transaction_is_none_of_it(engine: AsyncEngine, database_url: str) -> None:
    with open_transaction(database_url):
        assert not await troubles(engine)


async def test_dead_rows(
    engine: AsyncEngine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosis, "FEW_DEAD", 900)
    did(
        database_url,
        "ALTER TABLE pgconductor.queues SET (autovacuum_vacuum_threshold = 1000000)",
        "INSERT INTO pgconductor.queues (name) SELECT 'q' || n FROM generate_series(1, 1000) n",
        "DELETE FROM pgconductor.queues",
        "SELECT pg_stat_force_next_flush()",
    )
    one = await only(engine, "dead rows", BAD, "queues", "VACUUM", "never")
    assert one.figures["dead"] == 1000


async def test_a_bloated_table(
    engine: AsyncEngine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosis, "SMALL", 100_000)
    did(
        database_url,
        "INSERT INTO pgconductor.queues (name) SELECT 'q' || n FROM generate_series(1, 9000) n",
        "ANALYZE pgconductor.queues",
    )
    assert not await troubles(engine)
    did(
        database_url,
        "DELETE FROM pgconductor.queues WHERE name <> 'q9000'",
        "VACUUM (ANALYZE, TRUNCATE off) pgconductor.queues",
    )
    found = [one for one in await findings(engine) if one.check == "bloat"]
    assert {one.severity for one in found} == {WARN}
    assert {next(iter(one.figures.values())) for one in found} == {"queues", "queues_pkey"}
    assert "REINDEX INDEX CONCURRENTLY pgconductor.queues_pkey" in found[1].advice


# --- the schema ----------------------------------------------------------------------------------


async def test_without_a_schema(empty_database_url: str) -> None:
    engine = create_async_engine(empty_database_url)
    await only(engine, "schema", BAD, "no pgconductor schema", "pgconductor migrate")
    await engine.dispose()


async def test_a_breaking_revision_of_a_newer_release(
    engine: AsyncEngine, database_url: str
) -> None:
    did(database_url, "UPDATE pgconductor.schema_gate SET installed = 9999, floor = 9999")
    found = await troubles(engine)
    assert set(found) == {"schema", "version table"}
    assert "9999" in found["schema"].what
    assert found["schema"].advice == "deploy a newer release"
    assert "says 9999" in found["version table"].what


async def test_a_missing_index(engine: AsyncEngine, database_url: str) -> None:
    did(database_url, "DROP INDEX pgconductor.executions_ready_idx")
    one = await only(engine, "indexes", BAD, "executions_ready_idx is missing")
    # The advice is what helps.
    did(database_url, one.advice.removeprefix("make it again: "))
    assert not await troubles(engine)


@pytest.mark.parametrize("name", sorted(wanted_indexes()))
async def test_any_missing_index_is_made_again(
    engine: AsyncEngine, database_url: str, name: str
) -> None:
    table = name.removesuffix("_pkey")
    drop = f"DROP INDEX pgconductor.{name}"
    if name.endswith("_pkey"):
        drop = f"ALTER TABLE pgconductor.{table} DROP CONSTRAINT {name} CASCADE"
    definitions = b"SELECT pg_get_indexdef(i.indexrelid) FROM pg_index i"
    with connect(database_url) as connection:
        expected = set(connection.execute(definitions).fetchall())
    did(database_url, drop)
    one = (await troubles(engine))["indexes"]
    did(database_url, one.advice.removeprefix("make it again: "))
    with connect(database_url) as connection:
        assert set(connection.execute(definitions).fetchall()) == expected


async def test_an_invalid_index(engine: AsyncEngine, database_url: str) -> None:
    did(database_url, "INSERT INTO pgconductor.queues (name) VALUES ('a'), ('b')")
    with pytest.raises(psycopg.errors.UniqueViolation):
        did(
            database_url,
            "CREATE UNIQUE INDEX CONCURRENTLY broken ON pgconductor.queues ((name < 'c'))",
        )
    await only(engine, "indexes", BAD, "broken is invalid", "REINDEX INDEX CONCURRENTLY")


@pytest.mark.parametrize("table", sorted(wanted_parameters()))
async def test_lost_storage_parameters(engine: AsyncEngine, database_url: str, table: str) -> None:
    names = ", ".join(wanted_parameters()[table])
    did(database_url, f"ALTER TABLE pgconductor.{table} RESET ({names})")
    one = await only(engine, "autovacuum", WARN, table, "SET (")
    did(database_url, one.advice)
    assert not await troubles(engine)


async def test_autovacuum_turned_off_for_a_table(engine: AsyncEngine, database_url: str) -> None:
    did(database_url, "ALTER TABLE pgconductor.executions SET (autovacuum_enabled = off)")
    one = await only(engine, "autovacuum", BAD, "turned off for executions")
    did(database_url, one.advice)
    assert not await troubles(engine)


def test_every_table_with_parameters_is_known() -> None:
    assert set(wanted_parameters()) == {"executions", "steps", "events", "orchestrators"}
    assert len(wanted_indexes()) == len(Base.metadata.tables) + 14


# --- the session ---------------------------------------------------------------------------------


async def test_synchronous_commit_off(engine: AsyncEngine, database_url: str) -> None:
    name = engine.url.database
    did(database_url, f"ALTER DATABASE {name} SET synchronous_commit = off")
    found = [one for one in await HealthService(engine).diagnose() if "synchronous" in one.what]
    assert [(one.check, one.severity) for one in found] == [("durability", WARN)]
    assert "last second" in found[0].advice


async def test_a_read_only_server(database_url: str) -> None:
    settings = {"server_settings": {"default_transaction_read_only": "on"}}
    engine = create_async_engine(database_url, connect_args=settings)
    await only(engine, "server", BAD, "read-only", "target_session_attrs=primary")
    await engine.dispose()


async def test_a_connection_without_a_pooler(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        assert not await is_pooled(connection)


# --- executions ----------------------------------------------------------------------------------


HOUR_AGO = "pgconductor.wall_clock() - interval '1 hour'"


@pytest.fixture
async def held(engine: AsyncEngine) -> str:
    """The id of an execution that a living orchestrator holds."""
    service = ExecutionService(engine)
    owner = await OrchestratorService(engine).register()
    invoked = await service.invoke("greet")
    await service.fetch(owner)
    return str(invoked.id)


async def test_what_the_living_hold_is_not_stuck(engine: AsyncEngine, held: str) -> None:
    assert not await troubles(engine)


@pytest.mark.orphans_expected
async def test_an_owner_that_is_not_there(
    engine: AsyncEngine, database_url: str, held: str
) -> None:
    did(database_url, "DELETE FROM pgconductor.orchestrators")
    await only(engine, "stuck executions", BAD, "1 executions", "not there", "start an")


async def test_an_owner_that_is_stale(engine: AsyncEngine, database_url: str, held: str) -> None:
    did(database_url, f"UPDATE pgconductor.orchestrators SET last_heartbeat_at = {HOUR_AGO}")
    await only(engine, "stuck executions", BAD, "heartbeat has stopped", "1:00:0")


async def test_a_cancellation_that_is_not_heeded(
    engine: AsyncEngine, database_url: str, held: str
) -> None:
    did(database_url, f"UPDATE pgconductor.executions SET cancel_requested_at = {HOUR_AGO}")
    await only(engine, "stuck executions", WARN, "cancellation", "checkpoint")


async def test_longer_than_the_timeout(engine: AsyncEngine, database_url: str, held: str) -> None:
    did(
        database_url,
        "INSERT INTO pgconductor.tasks (key, queue, max_attempts, max_crashes, timeout)"
        " VALUES ('greet', 'default', 1, 1, '1 min')",
        f"UPDATE pgconductor.executions SET locked_at = {HOUR_AGO}",
    )
    await only(engine, "stuck executions", WARN, "timeout", "restart the process")


async def test_due_for_long(engine: AsyncEngine, database_url: str) -> None:
    service, orchestrators = ExecutionService(engine), OrchestratorService(engine)
    await service.invoke("greet", queue="mail")
    await service.invoke("later", queue="mail", delay=timedelta(days=1))
    assert not await troubles(engine)
    did(database_url, "UPDATE pgconductor.executions SET run_at = run_at - interval '1 hour'")
    await only(engine, "overdue executions", BAD, "1 executions of greet", "start a worker")
    owner = await orchestrators.register()
    await only(engine, "overdue executions", BAD, "mail", "nobody has ever declared")
    did(
        database_url,
        "INSERT INTO pgconductor.tasks (key, queue, max_attempts, max_crashes)"
        " VALUES ('greet', 'mail', 1, 1)",
    )
    await only(engine, "overdue executions", BAD, "nothing of the queue", "serves mail")
    await service.invoke("other", queue="mail", priority=9)
    await service.fetch(owner, queue="mail", limit=1)
    await only(engine, "overdue executions", WARN, "greet", "do not keep up")


async def test_retention_that_does_not_go_on(engine: AsyncEngine, database_url: str) -> None:
    did(database_url, "UPDATE pgconductor.retention_walk SET next_walk_at = now() - interval '2 d'")
    await only(engine, "retention", WARN, "old executions stay", "privilege")
    did(database_url, "DELETE FROM pgconductor.retention_walk")
    one = await only(engine, "retention", BAD, "is gone")
    did(database_url, one.advice)
    assert not await troubles(engine)


# --- privileges ----------------------------------------------------------------------------------


@contextmanager
def role(url: str, *grants: str) -> Iterator[str]:
    name = f"pgc_{uuid4().hex[:12]}"
    did(url, f"CREATE ROLE {name}", *(one.format(role=name) for one in grants))
    try:
        yield name
    finally:
        did(url, f"DROP OWNED BY {name}", f"DROP ROLE {name}")


async def test_a_reader_sees_all_but_others_sessions(database_url: str) -> None:
    grants = (
        "GRANT USAGE ON SCHEMA pgconductor TO {role}",
        "GRANT SELECT ON ALL TABLES IN SCHEMA pgconductor TO {role}",
    )
    with role(database_url, *grants) as name, open_transaction(database_url):
        settings = {"server_settings": {"role": name}}
        engine = create_async_engine(database_url, connect_args=settings)
        found = await troubles(engine)
        await engine.dispose()
    assert set(found) == {"oldest transaction"}
    assert found["oldest transaction"].severity is UNKNOWN
    assert "pg_read_all_stats" in found["oldest transaction"].advice


async def test_whoever_may_read_nothing_is_told_so(database_url: str) -> None:
    with role(database_url) as name:
        settings = {"server_settings": {"role": name}}
        engine = create_async_engine(database_url, connect_args=settings)
        found = [one for one in await findings(engine) if one.severity is not Severity.OK]
        await engine.dispose()
    unread = {one.check for one in found if one.severity is UNKNOWN}
    assert unread >= {"schema", "stuck executions", "retention"}
    assert not [one for one in found if one.severity.needs_attention]
    assert any("permission denied" in one.what for one in found)


async def test_it_writes_nothing(database_url: str) -> None:
    """Every transaction of it may be read-only."""
    settings = {"server_settings": {"default_transaction_read_only": "on"}}
    engine = create_async_engine(database_url, connect_args=settings)
    with pytest.raises(DBAPIError, match="read-only"):
        async with engine.begin() as connection:
            await connection.execute(text("DELETE FROM pgconductor.queues"))
    assert UNKNOWN not in {one.severity for one in await findings(engine)}
    await engine.dispose()
