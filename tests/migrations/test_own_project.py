"""A user's own project: his Alembic and ours live side by side, and leave each other alone."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine

from pgconductor.schema import script_location
from tests.migrations.support import (
    ROOT,
    alembic,
    config_for,
    current,
    gate,
    in_thread,
    ledger,
    rows,
    succeeded,
)

# No logging, no path_separator: an ini file as short as it may be. In an installed project the
# second location reads `pgconductor:migrations`.
INI = """
[alembic]
script_location = %(here)s/migrations

[pgconductor]
script_location = {location}
"""

ENVIRONMENT = """
import os
import sqlalchemy as sa
from alembic import context
from pgconductor.schema import include_name

metadata = sa.MetaData(schema="shop")
sa.Table("orders", metadata, sa.Column("id", sa.BigInteger, primary_key=True))

engine = sa.create_engine(os.environ["SHOP_URL"], poolclass=sa.NullPool)
with engine.connect() as connection:
    connection.execute(sa.text("CREATE SCHEMA IF NOT EXISTS shop"))
    connection.commit()
    context.configure(
        connection=connection, target_metadata=metadata, include_schemas=True, {filter}
    )
    with context.begin_transaction():
        context.run_migrations()
"""

TEMPLATE = (
    "import sqlalchemy as sa\n"
    "from alembic import op\n"
    "from sqlalchemy.dialects import postgresql\n"
    "revision = ${repr(up_revision)}\n"
    "down_revision = ${repr(down_revision)}\n"
    "def upgrade():\n    ${upgrades if upgrades else 'pass'}\n"
    "def downgrade():\n    ${downgrades if downgrades else 'pass'}\n"
)


class Project:
    """A project's folder and its database."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        (folder / "migrations" / "versions").mkdir(parents=True)
        (folder / "alembic.ini").write_text(INI.format(location=script_location()), "utf-8")
        (folder / "migrations" / "script.py.mako").write_text(TEMPLATE, "utf-8")
        self.filter_names(True)

    def filter_names(self, wanted: bool) -> None:
        option = "include_name=include_name" if wanted else ""
        environment = ENVIRONMENT.replace("{filter}", option)
        (self.folder / "migrations" / "env.py").write_text(environment, "utf-8")

    def alembic(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PYTHONPATH": str(ROOT),
            "SHOP_URL": self.url.replace("+asyncpg", "+psycopg", 1),
        }
        return alembic(*arguments, url=self.url, cwd=self.folder, environment=environment)

    def revision(self, name: str) -> str:
        succeeded(self.alembic("revision", "--autogenerate", "-m", name))
        (path,) = (self.folder / "migrations" / "versions").glob(f"*_{name}.py")
        return path.read_text("utf-8")


@pytest.fixture
def project(tmp_path: Path, empty_database_url: str) -> Project:
    return Project(tmp_path, empty_database_url)


def test_two_histories_in_one_database(project: Project) -> None:
    succeeded(project.alembic("-n", "pgconductor", "upgrade", "head"))
    assert ledger(project.url) == [(1, "initial", False)]
    made = project.revision("first")
    # Q1, A1: the user's autogenerate sees his table, and nothing of ours.
    assert "create_table('orders'" in made
    assert "pgconductor" not in made.replace("pgconductor.schema", "")
    succeeded(project.alembic("upgrade", "head"))
    assert "No new upgrade operations" in succeeded(project.alembic("check"))
    assert "No new upgrade operations" in succeeded(project.alembic("-n", "pgconductor", "check"))
    # Each has a version table of its own, so that each goes back alone.
    succeeded(project.alembic("downgrade", "base"))
    assert current(project.url) == [("0001",)]
    assert gate(project.url) == [(1, 0)]


def test_without_the_filter_autogenerate_would_drop_our_tables(project: Project) -> None:
    """So the test above has teeth, and the documentation a reason."""
    succeeded(project.alembic("-n", "pgconductor", "upgrade", "head"))
    project.filter_names(False)
    assert "drop_table('executions', schema='pgconductor')" in project.revision("drops")


# --- a connection of the user's ------------------------------------------------------------------


def upgrade_on(connection: Connection) -> None:
    config = config_for(None)
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


async def test_on_a_given_connection(empty_database_url: str) -> None:
    engine = create_async_engine(empty_database_url)
    async with engine.connect() as connection:
        await connection.run_sync(upgrade_on)
        # What follows on the connection is not in a transaction that nobody commits.
        assert not connection.in_transaction()
    await engine.dispose()
    assert ledger(empty_database_url) == [(1, "initial", False)]


async def test_a_connection_in_a_transaction_is_refused(empty_database_url: str) -> None:
    """Alembic alone would report success, and commit nothing."""
    engine = create_async_engine(empty_database_url)
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
        with pytest.raises(RuntimeError, match="must not be in a transaction"):
            await connection.run_sync(upgrade_on)
        await connection.commit()
        await connection.run_sync(upgrade_on)
    await engine.dispose()
    assert ledger(empty_database_url) == [(1, "initial", False)]


async def test_an_async_engine_is_refused(
    empty_database_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the database of the settings would be migrated, which nobody asked for."""
    monkeypatch.setenv("PGCONDUCTOR_DATABASE_URL", empty_database_url)
    engine = create_async_engine(database_url)
    config = config_for(None)
    config.attributes["connection"] = engine
    with pytest.raises(TypeError, match="not AsyncEngine; of an AsyncConnection, use run_sync"):
        in_thread(command.upgrade, config, "head")
    await engine.dispose()
    assert rows(empty_database_url, "SELECT to_regnamespace('pgconductor')::text") == [(None,)]


def test_on_a_given_engine(empty_database_url: str) -> None:
    engine = create_engine(empty_database_url.replace("+asyncpg", "+psycopg", 1))
    config = config_for(None)
    config.attributes["connection"] = engine
    in_thread(command.upgrade, config, "head")
    engine.dispose()
    assert current(empty_database_url) == [("0001",)]


def test_a_search_path_of_the_users_changes_nothing(empty_database_url: str) -> None:
    separator = "&" if "?" in empty_database_url else "?"
    url = empty_database_url.replace("+asyncpg", "+psycopg", 1)
    in_thread(
        command.upgrade,
        config_for(f"{url}{separator}options=-c%20search_path%3Dnowhere"),
        "head",
    )
    assert rows(url, "SELECT to_regclass('public.executions')::text") == [(None,)]
    assert gate(url) == [(1, 0)]
