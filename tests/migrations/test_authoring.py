"""`alembic revision` writes a file that only waits for its decision."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config

from pgconductor.exceptions import RevisionMetadataError
from pgconductor.schema import revisions
from tests.migrations.support import (
    ROOT,
    alembic,
    copy_of_revisions,
    execute,
    in_thread,
    ledger,
    succeeded,
)

# What an environment has to have for it: two lines.
HOOKS = """
from alembic import context
from sqlalchemy import NullPool, create_engine

from pgconductor.models import Base
from pgconductor.schema.authoring import number_revision, needs_no_database

if not needs_no_database(context):
    url = context.config.attributes["database_url"].replace("asyncpg", "psycopg")
    with create_engine(url, poolclass=NullPool).connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            include_schemas=True,
            include_name=lambda name, kind, _: kind != "schema" or name == "pgconductor",
            version_table="pgconductor_version",
            version_table_schema="pgconductor",
            process_revision_directives=number_revision,
        )
        with context.begin_transaction():
            context.run_migrations()
"""


@pytest.fixture
def location(tmp_path: Path) -> Path:
    location = copy_of_revisions(tmp_path)
    (location / "env.py").write_text(HOOKS, encoding="utf-8")
    return location


def asking(location: Path, url: str | None = None) -> Config:
    """The configuration of a checkout, for a copy of the revisions."""
    config = Config(str(ROOT / "alembic.ini"))
    config.set_main_option("script_location", str(location))
    config.set_main_option("revision_environment", "true")
    config.attributes.update(configure_logger=False, database_url=url)
    return config


def made(location: Path) -> Path:
    (path,) = location.glob("versions/0002_*.py")
    return path


def decide(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("breaking: bool | None = None", "breaking = False"), "utf-8")


def test_the_next_number(location: Path) -> None:
    """Without a database, and without an address of one."""
    command.revision(asking(location), "more of it")
    assert made(location).name == "0002_more_of_it.py"
    with pytest.raises(RevisionMetadataError, match="revision 0002: breaking must be True or"):
        revisions(location)
    decide(made(location))
    command.revision(asking(location), "and more")
    assert [path.name for path in location.glob("versions/0003*")] == ["0003_and_more.py"]


def test_the_next_number_by_the_command_line(tmp_path: Path) -> None:
    """By our own environment."""
    location = copy_of_revisions(tmp_path)
    by_command_line(location, "revision", "-m", "x")
    assert made(location).name == "0002_x.py"


def test_commands_that_need_no_database(location: Path) -> None:
    assert "0002_x.py" in by_command_line(location, "revision", "-m", "x")
    decide(made(location))
    assert "0001 -> 0002 (head)" in by_command_line(location, "history")
    assert "Rev: 0002 (head)" in by_command_line(location, "history", "-v", "-r", "0001:0002")
    for asks in (("-i",), ("-r", "current:")):
        with pytest.raises(AssertionError, match="database_url"):
            by_command_line(location, "history", *asks)


def by_command_line(location: Path, *arguments: str) -> str:
    ini = location.parent / "alembic.ini"
    options = "file_template = %%(rev)s_%%(slug)s\nrevision_environment = true\n"
    ini.write_text(f"[alembic]\nscript_location = {location}\n{options}", encoding="utf-8")
    return succeeded(alembic("-c", str(ini), *arguments, environment={"PYTHONPATH": str(ROOT)}))


def test_a_number_that_is_given_stays(location: Path) -> None:
    command.revision(asking(location), "x", rev_id="0007")
    assert [path.name for path in location.glob("versions/0007*")] == ["0007_x.py"]


def test_the_next_number_by_autogenerate(database_url: str, location: Path) -> None:
    execute(database_url, "ALTER TABLE pgconductor.steps DROP COLUMN result")
    in_thread(command.revision, asking(location, database_url), "put back", autogenerate=True)
    text = made(location).read_text(encoding="utf-8")
    assert "op.add_column(" in text
    decide(made(location))
    in_thread(command.upgrade, asking(location, database_url), "head")
    in_thread(command.check, asking(location, database_url))


@pytest.mark.parametrize("autogenerate", [False, True])
def test_what_is_written_is_clean(database_url: str, location: Path, autogenerate: bool) -> None:
    """Once it is decided, nothing has to be repaired; the hooks of alembic.ini see to that."""
    if autogenerate:
        execute(database_url, "ALTER TABLE pgconductor.steps DROP COLUMN result")
    message = 'it\'s "quoted" and 100% :sure'
    config = asking(location, database_url)
    in_thread(command.revision, config, message, autogenerate=autogenerate)
    path = made(location)
    decide(path)
    inside = ROOT / "alembic" / "versions" / path.name
    options = ("--stdin-filename", str(inside), "-")
    for arguments in (("check", "--no-cache"), ("format", "--check", "--no-cache")):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *arguments, *options],
            cwd=ROOT,
            input=path.read_text(encoding="utf-8"),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    in_thread(command.upgrade, asking(location, database_url), "head")
    assert ledger(database_url)[1] == (2, message, False)
