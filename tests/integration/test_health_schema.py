"""What somebody has changed by hand in the schema, and where names are mixed up with others'."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from pgconductor.domain.diagnosis_schema import definitions
from pgconductor.domain.health import Severity
from pgconductor.models import Base
from pgconductor.schema.catalog import CATALOG_FILE, wanted_catalog
from pgconductor.schema.linting.catalog import read, render
from tests.integration.test_health import did, only, troubles

WARN, BAD = Severity.WARN, Severity.BAD
COMMAND = "python -m pgconductor.schema.linting.catalog"


def test_what_is_shipped_is_what_the_revisions_make(database_url: str) -> None:
    """On every supported server alike: Postgres writes definitions in its own words."""
    made = render(asyncio.run(read(database_url)))
    assert made == CATALOG_FILE.read_text(encoding="utf-8"), f"write it anew: {COMMAND}"


def test_definitions_stay_the_same_when_they_are_read_again(database_url: str) -> None:
    """As a dump and its restoration do it. BETWEEN before an AND would become something else."""
    statements = ["SET search_path = pg_catalog"]
    for thing, made in wanted_catalog().items():
        kind, _, name = thing.partition(" ")
        table, _, part = name.partition(".")
        alter = f"ALTER TABLE pgconductor.{table}"
        if made.startswith("CHECK"):
            statements += [
                f"{alter} DROP CONSTRAINT {part}",
                f"{alter} ADD CONSTRAINT {part} {made}",
            ]
        elif kind == "index":
            statements += [f"DROP INDEX pgconductor.{name}", made]
        elif kind == "column" and " DEFAULT " in made:
            default = made.partition(" DEFAULT ")[2]
            statements.append(f"{alter} ALTER {part} SET DEFAULT {default}")
    assert len(statements) > 50
    did(database_url, *statements)
    assert asyncio.run(read(database_url)) == wanted_catalog()


def test_it_says_something_of_everything() -> None:
    kinds = {thing.split()[0] for thing in wanted_catalog()}
    assert kinds == {"table", "column", "constraint", "index", "function"}
    for table in Base.metadata.sorted_tables:
        for column in table.columns:
            assert f"column {table.name}.{column.name}" in wanted_catalog()


CHANGES = {
    "a CHECK constraint that is dropped": (
        "ALTER TABLE pgconductor.steps DROP CONSTRAINT steps_life_check",
        "constraint steps.steps_life_check is missing",
    ),
    "a CHECK constraint that allows more": (
        (
            "ALTER TABLE pgconductor.steps DROP CONSTRAINT steps_life_check;"
            "ALTER TABLE pgconductor.steps ADD CONSTRAINT steps_life_check CHECK (true)"
        ),
        "constraint steps.steps_life_check was changed: it is 'CHECK (true)'",
    ),
    "a constraint that is not validated": (
        (
            "ALTER TABLE pgconductor.steps DROP CONSTRAINT steps_life_check;"
            "ALTER TABLE pgconductor.steps ADD CONSTRAINT steps_life_check CHECK (true) NOT VALID"
        ),
        "NOT VALID",
    ),
    "a foreign key without its cascade": (
        (
            "ALTER TABLE pgconductor.steps DROP CONSTRAINT steps_execution_id_fkey;"
            "ALTER TABLE pgconductor.steps ADD CONSTRAINT steps_execution_id_fkey"
            " FOREIGN KEY (execution_id) REFERENCES pgconductor.executions (id)"
        ),
        "constraint steps.steps_execution_id_fkey was changed",
    ),
    "an index with another predicate": (
        (
            "DROP INDEX pgconductor.executions_ready_idx;"
            "CREATE INDEX executions_ready_idx ON pgconductor.executions (queue)"
        ),
        "index executions_ready_idx was changed",
    ),
    "a column's default": (
        "ALTER TABLE pgconductor.executions ALTER max_attempts SET DEFAULT 9",
        "column executions.max_attempts was changed: it is 'integer NOT NULL DEFAULT 9'",
    ),
    "a default that is lost": (
        "ALTER TABLE pgconductor.executions ALTER created_at DROP DEFAULT",
        "column executions.created_at was changed",
    ),
    "a column's type": (
        "ALTER TABLE pgconductor.executions ALTER attempts TYPE bigint",
        "column executions.attempts was changed: it is 'bigint",
    ),
    "a column's collation": (
        'ALTER TABLE pgconductor.queues ALTER name TYPE text COLLATE "C"',
        "COLLATE C",
    ),
    "a column that may be null": (
        "ALTER TABLE pgconductor.executions ALTER task_key DROP NOT NULL",
        "column executions.task_key was changed: it is 'text'",
    ),
    "a column that is dropped": (
        "ALTER TABLE pgconductor.executions DROP COLUMN wakes",
        "column executions.wakes is missing",
    ),
    "a table that is dropped": (
        "DROP TABLE pgconductor.queues",
        "table queues is missing",
    ),
    "a table that does not survive a crash": (
        "ALTER TABLE pgconductor.retention_walk SET UNLOGGED",
        "table retention_walk was changed: it is 'table, unlogged'",
    ),
    "foreign keys that are not looked at": (
        "ALTER TABLE pgconductor.steps DISABLE TRIGGER ALL",
        "triggers disabled",
    ),
    "rows that roles do not see": (
        "ALTER TABLE pgconductor.queues ENABLE ROW LEVEL SECURITY",
        "row security",
    ),
    "a function's body": (
        (
            "CREATE OR REPLACE FUNCTION pgconductor.wall_clock() RETURNS timestamptz"
            " LANGUAGE sql STABLE PARALLEL SAFE AS 'SELECT now()'"
        ),
        "function wall_clock() was changed",
    ),
    "a function's settings": (
        "ALTER FUNCTION pgconductor.wall_clock() SET work_mem = '1MB'",
        "function wall_clock() was changed",
    ),
    "a function that is dropped": (
        "DROP FUNCTION pgconductor.emit_event",
        "function emit_event(",
    ),
    "a composite type": (
        "ALTER TYPE pgconductor.execution_spec ADD ATTRIBUTE more text",
        "column execution_spec.more",
    ),
}
ADDITIONS = {
    "a column of an application's": (
        "ALTER TABLE pgconductor.executions ADD COLUMN tenant text",
        "column executions.tenant is made by no revision",
    ),
    "a trigger on a hot table": (
        (
            "CREATE TRIGGER mine BEFORE INSERT ON pgconductor.executions"
            " FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()"
        ),
        "trigger executions.mine is made by no revision",
    ),
    "a constraint of an application's": (
        "ALTER TABLE pgconductor.queues ADD CONSTRAINT short CHECK (length(name) < 9) NOT VALID",
        "constraint queues.short is made by no revision",
    ),
    "a second function of the same name": (
        "CREATE FUNCTION pgconductor.invoke(text) RETURNS uuid LANGUAGE sql AS 'SELECT NULL::uuid'",
        "function invoke(text) is made by no revision",
    ),
}


@pytest.mark.parametrize("name", [*CHANGES, *ADDITIONS])
async def test_a_change_by_hand(engine: AsyncEngine, database_url: str, name: str) -> None:
    statement, words = {**CHANGES, **ADDITIONS}[name]
    did(database_url, *statement.split(";"))
    found = await _findings_of(engine, "definitions")
    assert [words in one for one in found].count(True) == 1, found


async def _findings_of(engine: AsyncEngine, check: str) -> list[str]:
    from pgconductor.services import HealthService

    found = [one for one in await HealthService(engine).diagnose() if one.check == check]
    expected = {WARN, BAD}
    assert all(one.severity in expected and one.advice for one in found), found
    return [one.what for one in found]


@pytest.mark.parametrize(
    "name", [thing for thing, made in wanted_catalog().items() if made.startswith("CHECK")]
)
async def test_the_advice_brings_any_check_back(
    engine: AsyncEngine, database_url: str, name: str
) -> None:
    table, _, constraint = name.removeprefix("constraint ").partition(".")
    alter = f"ALTER TABLE pgconductor.{table}"
    did(database_url, f"{alter} DROP CONSTRAINT {constraint}")
    one = await only(engine, "definitions", BAD, constraint)
    statement, _, _ = one.advice.partition(", and then ")
    did(database_url, statement, f"{alter} VALIDATE CONSTRAINT {constraint}")
    assert not await troubles(engine)


async def test_a_storage_parameter_of_another_value(engine: AsyncEngine, database_url: str) -> None:
    did(
        database_url,
        "ALTER TABLE pgconductor.executions SET (autovacuum_vacuum_scale_factor = 0.2)",
    )
    one = await only(engine, "autovacuum", WARN, "autovacuum_vacuum_scale_factor = 0.2")
    did(database_url, one.advice.removeprefix("unless it is meant: "))
    assert not await troubles(engine)


async def test_indexes_and_tables_of_others_are_no_trouble(
    engine: AsyncEngine, database_url: str
) -> None:
    did(
        database_url,
        "CREATE INDEX mine ON pgconductor.executions (finished_at)",
        "CREATE TABLE pgconductor.theirs (id int PRIMARY KEY)",
        "CREATE VIEW pgconductor.seen AS SELECT id FROM pgconductor.executions",
    )
    assert not await troubles(engine)


def test_nothing_is_compared_to_itself() -> None:
    wanted: Mapping[str, str] = wanted_catalog()
    (one,) = definitions(wanted, wanted)
    assert one.severity is Severity.OK
    for thing in wanted:
        others = {**wanted, thing: "another"}
        assert definitions(others, wanted)[0].severity is BAD


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "severity"),
    [("public, pgconductor", WARN), ("pgconductor, public", BAD), ('"pgconductor"', BAD)],
)
async def test_a_search_path_of_the_session(
    database_url: str, path: str, severity: Severity
) -> None:
    settings = {"server_settings": {"search_path": path}}
    engine = create_async_engine(database_url, connect_args=settings)
    await only(engine, "search path", severity, "names schema pgconductor", "search_path = public")
    await engine.dispose()


@pytest.mark.parametrize("whose", ["DATABASE", "ROLE"])
async def test_a_search_path_of_somebody_else(database_url: str, whose: str) -> None:
    """Set for others than the one who asks."""
    name, role = make_url(database_url).database, f"pgc_{uuid4().hex[:12]}"
    settings = {"server_settings": {"search_path": "public"}}
    engine = create_async_engine(database_url, connect_args=settings)
    did(database_url, f"CREATE ROLE {role}")
    try:
        whom = f"DATABASE {name}" if whose == "DATABASE" else f"ROLE {role} IN DATABASE {name}"
        did(database_url, f"ALTER {whom} SET search_path = public, pgconductor")
        said = "everybody: public, pgconductor" if whose == "DATABASE" else f"{role}: public, "
        await only(engine, "search path", WARN, said)
        did(database_url, f"ALTER {whom} SET search_path = public, pgconductors")
        assert not await troubles(engine)
    finally:
        did(database_url, f"DROP ROLE {role}")
        await engine.dispose()


async def test_a_version_table_of_somebody_else(engine: AsyncEngine, database_url: str) -> None:
    did(database_url, "CREATE TABLE pgconductor.alembic_version (version_num text)")
    await only(engine, "search path", WARN, "is not ours", "version_table_schema")


@pytest.mark.parametrize(
    "damage",
    [
        "INSERT INTO pgconductor.pgconductor_version VALUES ('a1b2')",
        "UPDATE pgconductor.pgconductor_version SET version_num = '0099'",
        "DELETE FROM pgconductor.pgconductor_version",
        "DELETE FROM pgconductor.schema_migrations",
    ],
)
async def test_a_version_table_that_does_not_agree(
    engine: AsyncEngine, database_url: str, damage: str
) -> None:
    did(database_url, damage)
    await only(engine, "version table", BAD, "the version table says")


def test_no_advice_destroys() -> None:
    """Neither of the doctor nor of a migration: nobody is told to drop or to empty what is ours."""
    package = Path(__file__).resolve().parents[2] / "pgconductor"
    text = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("domain", "services", "cli", "exceptions")
        for path in (package / folder).rglob("*.py")
    )
    for words in ("stamp base", "stamp --purge", "DROP SCHEMA", "DROP TABLE", "TRUNCATE"):
        assert words not in text
    assert not re.search(r"downgrade base`", text)
