"""Alembic's command line in a checkout does what Alembic users expect of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import make_url

from tests.migrations.support import (
    ROOT,
    alembic,
    catalog,
    current,
    execute,
    gate,
    ledger,
    rows,
    succeeded,
)

INI = ("-c", str(ROOT / "alembic.ini"))


def tables(url: str) -> set[str]:
    return {row[0] for row in catalog(url).get("relations", []) if row[1] == "r"}


def test_upgrade_check_current_and_downgrade(empty_database_url: str) -> None:
    """A1, Q1: from empty to head, no difference to the models, and back."""
    url = empty_database_url
    succeeded(alembic("upgrade", "head", url=url))
    assert {"executions", "steps", "schema_gate"} <= tables(url)
    assert "No new upgrade operations detected" in succeeded(alembic("check", url=url))
    assert "0001 (head)" in succeeded(alembic("current", url=url))
    succeeded(alembic("downgrade", "base", url=url))
    assert tables(url) == {"pgconductor_version"}
    assert catalog(url)["functions"] == []
    assert succeeded(alembic("current", url=url)).strip() == ""
    # And once more from what a downgrade leaves.
    succeeded(alembic("upgrade", "head", url=url))
    assert gate(url) == [(1, 0)]


def test_from_any_directory(empty_database_url: str, tmp_path: Path) -> None:
    succeeded(alembic(*INI, "upgrade", "head", url=empty_database_url, cwd=tmp_path))
    assert current(empty_database_url) == [("0001",)]


def test_by_the_named_section(empty_database_url: str) -> None:
    succeeded(alembic("-n", "pgconductor", "upgrade", "head", url=empty_database_url))
    assert current(empty_database_url) == [("0001",)]


@pytest.mark.parametrize("driver", ["postgresql", "postgresql+asyncpg", "postgresql+psycopg"])
def test_by_an_address_on_the_command_line(empty_database_url: str, driver: str) -> None:
    url = make_url(empty_database_url).set(drivername=driver)
    given = url.render_as_string(hide_password=False)
    succeeded(alembic("-x", f"url={given}", "upgrade", "head"))
    assert current(empty_database_url) == [("0001",)]


def test_without_an_address_it_says_what_to_set(tmp_path: Path) -> None:
    done = alembic(*INI, "upgrade", "head", cwd=tmp_path)
    assert done.returncode != 0
    assert "set PGCONDUCTOR_DATABASE_URL (or DATABASE_URL)" in done.stderr


def test_history_needs_no_database(tmp_path: Path) -> None:
    assert "<base> -> 0001 (head)" in succeeded(alembic(*INI, "history", cwd=tmp_path))


def test_the_script_makes_what_the_command_makes(
    empty_database_url: str, database_url: str
) -> None:
    script = succeeded(alembic("upgrade", "head", "--sql"))
    execute(empty_database_url, script)
    assert catalog(empty_database_url) == catalog(database_url)
    assert ledger(empty_database_url) == ledger(database_url) == [(1, "initial", False)]
    assert gate(empty_database_url) == gate(database_url) == [(1, 0)]
    assert current(empty_database_url) == [("0001",)]


def test_the_script_back_leaves_what_the_command_leaves(
    database_url: str, empty_database_url: str
) -> None:
    execute(database_url, succeeded(alembic("downgrade", "head:base", "--sql")))
    succeeded(alembic("upgrade", "head", url=empty_database_url))
    succeeded(alembic("downgrade", "base", url=empty_database_url))
    assert catalog(database_url) == catalog(empty_database_url)
    assert current(database_url) == []


def test_stamp_back_and_forth(empty_database_url: str, tmp_path: Path) -> None:
    url = empty_database_url
    succeeded(alembic(*INI, "stamp", "head", url=url, cwd=tmp_path))
    assert current(url) == [("0001",)]
    assert tables(url) == {"pgconductor_version"}
    succeeded(alembic("stamp", "base", url=url))
    assert current(url) == []
    # Nothing is there, and nothing says so any more: the way is free.
    succeeded(alembic("upgrade", "head", url=url))
    assert (ledger(url), gate(url)) == ([(1, "initial", False)], [(1, 0)])


def test_current_changes_nothing(empty_database_url: str) -> None:
    succeeded(alembic("current", url=empty_database_url))
    assert rows(empty_database_url, "SELECT to_regnamespace('pgconductor')::text") == [(None,)]


@pytest.mark.parametrize("what", ["COLUMN result", "CONSTRAINT steps_life_check"])
def test_check_tells_of_a_difference(database_url: str, what: str) -> None:
    if "CONSTRAINT" in what:
        pytest.importorskip("alembic.ext.checkconstraint_byname")
    execute(database_url, f"ALTER TABLE pgconductor.steps DROP {what}")
    done = alembic("check", url=database_url)
    assert done.returncode != 0
    assert "New upgrade operations detected" in done.stderr
