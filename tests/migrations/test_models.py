"""Q1: one source of truth. What the revisions make is what the models say, to the last default.

`alembic check` compares neither server defaults nor CHECK constraints nor the predicates of
indexes; this does.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from pgconductor.models import SCHEMA, Base
from pgconductor.models.base import OFTEN_VACUUMED
from pgconductor.schema import script_location, sql_file
from tests.migrations.support import CATALOG, Rows, catalog, execute, rows

# Alembic's own, and what is no table.
NOT_MODELLED = {"pgconductor_version", "pgconductor_version_pkc", "execution_spec"}


@pytest.fixture
def modelled(empty_database_url: str) -> str:
    """A database whose tables are made from the models."""
    engine = create_engine(empty_database_url.replace("+asyncpg", "+psycopg", 1))
    with engine.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
        for function in ("clock", "wall_clock"):
            connection.execute(sql_file(f"0001_{function}.sql"))
        Base.metadata.create_all(connection)
    engine.dispose()
    return empty_database_url


def of_tables(found: Rows) -> Rows:
    return [row for row in found if not NOT_MODELLED & set(map(str, row[:2])) and mentions(row)]


def mentions(row: tuple[Any, ...]) -> bool:
    return not any(f"{SCHEMA}.{name}" in str(row) for name in NOT_MODELLED)


@pytest.mark.parametrize("part", sorted(set(CATALOG) - {"functions"}))
def test_tables_are_what_the_models_say(database_url: str, modelled: str, part: str) -> None:
    assert of_tables(catalog(database_url)[part]) == of_tables(catalog(modelled)[part])


def test_the_comparison_sees_a_difference(database_url: str, modelled: str) -> None:
    differences = {
        "ALTER TABLE pgconductor.steps ALTER created_at SET DEFAULT now()": "columns",
        "ALTER TABLE pgconductor.steps DROP CONSTRAINT steps_life_check": "constraints",
        "DROP INDEX pgconductor.executions_held_idx": "indexes",
        "ALTER TABLE pgconductor.executions RESET (autovacuum_vacuum_threshold)": "relations",
    }
    for statement, part in differences.items():
        execute(database_url, statement)
        assert of_tables(catalog(database_url)[part]) != of_tables(catalog(modelled)[part])


def test_hot_tables_are_vacuumed_often(database_url: str) -> None:
    """Alembic does not compare storage parameters: here they are, as the server has them."""
    found = rows(
        database_url,
        "SELECT relname::text, reloptions FROM pg_class"
        " WHERE relnamespace = 'pgconductor'::regnamespace AND reloptions IS NOT NULL",
    )
    often = [f"{name}={value}" for name, value in OFTEN_VACUUMED.items()]
    seldom = [
        "fillfactor=50",
        "autovacuum_vacuum_threshold=500",
        "autovacuum_vacuum_scale_factor=0",
    ]
    assert dict(found) == {
        **dict.fromkeys(("executions", "steps", "events"), often),
        "orchestrators": seldom,
    }


def test_names_follow_one_convention(database_url: str) -> None:
    for table, name, definition in catalog(database_url)["constraints"]:
        bare = table.removeprefix(f"{SCHEMA}.")
        if bare in NOT_MODELLED or definition.startswith("NOT NULL"):
            continue
        assert re.fullmatch(rf"{bare}(_[a-z_]+)?_(check|pkey|fkey)", name)
        assert name.count(bare) == 1


def test_no_type_of_a_schema_other_than_ours(database_url: str) -> None:
    """No enum and no extension's type: they are trouble for drivers and for migrations."""
    found = rows(
        database_url,
        "SELECT DISTINCT t.typname, t.typtype::text, n.nspname FROM pg_attribute a"
        " JOIN pg_class c ON c.oid = a.attrelid JOIN pg_type t ON t.oid = a.atttypid"
        " JOIN pg_namespace n ON n.oid = t.typnamespace"
        " WHERE c.relnamespace = 'pgconductor'::regnamespace AND a.attnum > 0",
    )
    assert {(kind, schema) for _, kind, schema in found} == {("b", "pg_catalog")}


def test_nothing_needs_an_extension(database_url: str) -> None:
    assert rows(database_url, "SELECT extname::text FROM pg_extension") == [("plpgsql",)]


def test_downgrade_drops_all_that_upgrade_makes() -> None:
    """A function that a revision makes and its downgrade forgets would break the next upgrade."""
    for path in (script_location() / "versions").glob("*.py"):
        source = path.read_text(encoding="utf-8")
        assert "IF EXISTS" not in source, "a downgrade knows what there is"
        assert "CASCADE" not in source.replace('ondelete="CASCADE"', ""), "it would drop others'"
