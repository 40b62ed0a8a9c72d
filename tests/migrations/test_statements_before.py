"""A release's first words are spoken to the schema before its own revisions; they must be valid.

A migration asks older orchestrators to stop, recovers the dead and waits, before it applies a
breaking revision; a new orchestrator asks how far the database is. See `docs/revisions.md`.
"""

from __future__ import annotations

import re
from pathlib import Path

import asyncpg
import pytest
from alembic import command
from sqlalchemy import make_url
from sqlalchemy.dialects.postgresql.asyncpg import dialect

from pgconductor import sql
from pgconductor.schema import revisions
from pgconductor.sql.before_upgrade import BEFORE_UPGRADE
from tests.migrations.support import config_for, execute, in_thread

#: All but nothing: the last one is our own.
SCHEMAS = [one.version for one in revisions()]


async def not_valid(url: str) -> list[str]:
    """What the server says to each of the statements that it cannot prepare."""
    address = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    connection = await asyncpg.connect(address)
    found: list[str] = []
    try:
        for statement in BEFORE_UPGRADE:
            text = str(statement.compile(dialect=dialect()))  # type: ignore[no-untyped-call]
            try:
                await connection.prepare(text)
            except asyncpg.PostgresError as error:
                found.append(str(error))
    finally:
        await connection.close()
    return found


@pytest.mark.parametrize("number", SCHEMAS[-2:])
async def test_on_the_schema_before_and_on_our_own(empty_database_url: str, number: int) -> None:
    in_thread(command.upgrade, config_for(empty_database_url), f"{number:04d}")
    assert await not_valid(empty_database_url) == []


@pytest.mark.parametrize(
    ("table", "column"),
    [("executions", "claim_number"), ("orchestrators", "schema_version"), ("schema_gate", "floor")],
)
async def test_a_schema_that_is_another_is_noticed(
    database_url: str, table: str, column: str
) -> None:
    execute(database_url, f"ALTER TABLE pgconductor.{table} RENAME COLUMN {column} TO other")
    assert await not_valid(database_url) != []


def test_what_migrations_say_is_in_the_list() -> None:
    """By the names that their modules use."""
    gate = (Path(sql.__file__).parents[1] / "repositories" / "gate.py").read_text("utf-8")
    listed = {name for name in sql.__all__ if getattr(sql, name) in BEFORE_UPGRADE}
    named = set(re.findall(r"sql\.([A-Z_]+)", gate))
    assert named <= listed
