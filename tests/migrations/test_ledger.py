"""Ledger and gate say what the database holds, whichever way it came there."""

from __future__ import annotations

import psycopg
import pytest
from alembic import command

from tests.migrations.support import (
    config_for,
    current,
    execute,
    gate,
    in_thread,
    ledger,
    rows,
    written,
)

INITIAL = (1, "initial", False)


def test_after_upgrade(empty_database_url: str) -> None:
    in_thread(command.upgrade, config_for(empty_database_url), "head")
    assert ledger(empty_database_url) == [INITIAL]
    assert gate(empty_database_url) == [(1, 0)]
    recent = "SELECT now() - applied_at BETWEEN interval '0' AND interval '1 hour'"
    assert rows(empty_database_url, f"{recent} FROM pgconductor.schema_migrations") == [(True,)]


def test_after_stamping_back_and_forth(database_url: str) -> None:
    in_thread(command.stamp, config_for(database_url), "base")
    assert ledger(database_url) == []
    assert gate(database_url) == [(0, 0)]
    assert current(database_url) == []
    in_thread(command.stamp, config_for(database_url), "head")
    assert ledger(database_url) == [INITIAL]
    assert gate(database_url) == [(1, 0)]
    assert current(database_url) == [("0001",)]


def test_stamping_what_is_there_already_changes_nothing(database_url: str) -> None:
    before = rows(database_url, "SELECT * FROM pgconductor.schema_migrations")
    in_thread(command.stamp, config_for(database_url), "head")
    assert rows(database_url, "SELECT * FROM pgconductor.schema_migrations") == before
    assert gate(database_url) == [(1, 0)]


def test_stamping_an_empty_database(empty_database_url: str) -> None:
    in_thread(command.stamp, config_for(empty_database_url), "head")
    assert current(empty_database_url) == [("0001",)]
    found = rows(empty_database_url, "SELECT to_regclass('pgconductor.schema_migrations')::text")
    assert found == [(None,)]


@pytest.mark.parametrize("revision", ["head", "base"])
def test_a_stamp_as_a_script(database_url: str, revision: str) -> None:
    config = config_for(database_url)
    start = "0001:base" if revision == "base" else "head"
    in_thread(command.stamp, config, start, sql=True)
    if revision == "head":
        # A script cannot look: it is for a database where nothing is recorded yet.
        in_thread(command.stamp, config_for(database_url), "base")
        execute(database_url, "DROP TABLE pgconductor.pgconductor_version")
    execute(database_url, written(config))
    expected = ([INITIAL], [(1, 0)]) if revision == "head" else ([], [(0, 0)])
    assert (ledger(database_url), gate(database_url)) == expected


def test_after_downgrade_and_upgrade_again(database_url: str) -> None:
    in_thread(command.downgrade, config_for(database_url), "base")
    assert current(database_url) == []
    in_thread(command.upgrade, config_for(database_url), "head")
    assert ledger(database_url) == [INITIAL]
    assert gate(database_url) == [(1, 0)]


def test_a_ledger_row_must_say_whether_it_is_breaking(database_url: str) -> None:
    """A6: no default stands in for the decision."""
    with pytest.raises(psycopg.errors.NotNullViolation):
        execute(
            database_url,
            "INSERT INTO pgconductor.schema_migrations (version, name) VALUES (2, 'x')",
        )


def test_there_is_one_gate(database_url: str) -> None:
    for second in ("(true, 1, 0)", "(false, 1, 0)"):
        with pytest.raises(psycopg.IntegrityError):
            execute(database_url, f"INSERT INTO pgconductor.schema_gate VALUES {second}")
