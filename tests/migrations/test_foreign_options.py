"""Alembic takes each option that our section leaves out from where an application has put its own.

So what is configured for one history is used for another: its folder, its version table.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest

from pgconductor.schema import script_location
from pgconductor.services import MigrationCoordinator
from tests.migrations.support import ROOT, alembic, current, gate, rows, succeeded

ENVIRONMENT = """
import os
import sqlalchemy as sa
from alembic import context

engine = sa.create_engine(os.environ["SHOP_URL"], poolclass=sa.NullPool)
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=sa.MetaData())
    with context.begin_transaction():
        context.run_migrations()
"""
REVISION = """
from alembic import op
revision, down_revision = {revision!r}, None
def upgrade(): op.execute("CREATE TABLE public.orders (id int)")
def downgrade(): op.execute("DROP TABLE public.orders")
"""
# What the documentation has; in a project that has us installed it reads `pgconductor:migrations`.
DOCUMENTED = """
[pgconductor]
script_location = {location}
version_locations = {location}/versions
path_separator = space
"""
SHORT = "[pgconductor]\nscript_location = {location}\npath_separator = os\n"
# Each way to name the application's own folder where Alembic finds it for our section as well.
ELSEWHERE = {
    "toml": '[tool.alembic]\nscript_location = "%(here)s/migrations"\n'
    'version_locations = ["%(here)s/migrations/versions"]\n',
    "toml with ours": '[tool.alembic]\nscript_location = "%(here)s/migrations"\n'
    'version_locations = ["%(here)s/migrations/versions", "{location}/versions"]\n',
    "toml, an empty folder": '[tool.alembic]\nversion_locations = ["%(here)s/nothing"]\n',
}
EVERYTHING = """
[tool.alembic]
script_location = "%(here)s/migrations"
version_locations = ["%(here)s/migrations/versions"]
prepend_sys_path = ["%(here)s/source"]
file_template = "%%(year)d/%%(rev)s"
timezone = "Europe/Berlin"
truncate_slug_length = 10
output_encoding = "latin-1"
revision_environment = true
recursive_version_locations = true
sourceless = true

[[tool.alembic.post_write_hooks]]
name = "fails"
type = "exec"
executable = "/nowhere"
"""


class Project:
    """A folder with a history of its own, and Alembic's options wherever they may be."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        self.write("migrations/env.py", ENVIRONMENT)
        self.write("migrations/versions/a1_orders.py", REVISION.format(revision="a1"))
        shutil.copy(ROOT / "examples/own_alembic/migrations/script.py.mako", folder / "migrations")

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("{location}", str(script_location())), encoding="utf-8")

    def alembic(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PYTHONPATH": str(ROOT),
            "SHOP_URL": self.url.replace("+asyncpg", "+psycopg", 1),
        }
        return alembic(*arguments, url=self.url, cwd=self.folder, environment=environment)

    def ours(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.alembic("-n", "pgconductor", *arguments)

    @property
    def untouched(self) -> bool:
        found = "SELECT to_regnamespace('pgconductor')::text, to_regclass('public.orders')::text"
        return rows(self.url, found) == [(None, None)]


@pytest.fixture
def project(tmp_path: Path, empty_database_url: str) -> Project:
    return Project(tmp_path, empty_database_url)


@pytest.fixture
def untouched() -> set[Path]:
    return set(script_location().rglob("*"))


COMMANDS = (
    ("upgrade", "head"),
    ("upgrade", "head", "--sql"),
    ("downgrade", "base"),
    ("stamp", "head"),
    ("stamp", "base"),
    ("check",),
    ("current",),
    ("history", "-i"),
    ("revision", "--autogenerate", "-m", "x"),
)


@pytest.mark.parametrize("where", ELSEWHERE)
def test_revisions_of_others_are_refused(project: Project, where: str) -> None:
    project.write("alembic.ini", SHORT)
    project.write("pyproject.toml", ELSEWHERE[where])
    done = project.ours("upgrade", "head")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "version_locations = pgconductor:migrations/versions" in done.stderr
    assert "Traceback" not in done.stderr
    assert project.untouched


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_by_every_command(project: Project, command: tuple[str, ...]) -> None:
    project.write("alembic.ini", SHORT)
    project.write("pyproject.toml", ELSEWHERE["toml"])
    done = project.ours(*command)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "not those of pgconductor" in done.stderr
    assert "CREATE" not in done.stdout
    assert project.untouched


def test_revisions_of_others_in_the_defaults_of_the_ini_file(project: Project) -> None:
    """The same without a pyproject: every section of an ini file has what is in [DEFAULT]."""
    default = "[DEFAULT]\nversion_locations = %(here)s/migrations/versions\n"
    project.write("alembic.ini", default + SHORT)
    done = project.ours("upgrade", "head")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "not those of pgconductor" in done.stderr
    assert project.untouched


def test_a_section_that_is_not_there(project: Project) -> None:
    """Alembic takes our script_location from the toml, whatever section is asked for."""
    project.write("alembic.ini", "[alembic]\n")
    project.write("pyproject.toml", '[tool.alembic]\nscript_location = "{location}"\n')
    done = project.ours("upgrade", "head")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "[pgconductor] of" in done.stderr
    assert "has no script_location" in done.stderr
    assert project.untouched


@pytest.mark.parametrize("toml", [*ELSEWHERE.values(), "[project]\nname = 'x'\n"])
def test_the_documented_section_is_right_beside_any_pyproject(project: Project, toml: str) -> None:
    project.write("alembic.ini", DOCUMENTED)
    project.write("pyproject.toml", toml)
    succeeded(project.ours("upgrade", "head"))
    assert (current(project.url), gate(project.url)) == ([("0001",)], [(1, 0)])


def test_every_command_with_the_documented_section(project: Project, untouched: set[Path]) -> None:
    (project.folder / "source").mkdir()
    project.write("alembic.ini", DOCUMENTED)
    project.write("pyproject.toml", EVERYTHING)
    for _ in range(2):
        succeeded(project.ours("upgrade", "head"))
        assert (current(project.url), gate(project.url)) == ([("0001",)], [(1, 0)])
    assert "0001 (head)" in succeeded(project.ours("current"))
    assert "No new upgrade operations" in succeeded(project.ours("check"))
    assert "<base> -> 0001 (head), " in succeeded(project.ours("history"))
    succeeded(project.ours("stamp", "head"))
    succeeded(project.ours("downgrade", "base"))
    assert current(project.url) == []
    assert {one for one in script_location().rglob("*") if "cache" not in str(one)} <= untouched


def test_both_histories_side_by_side(project: Project) -> None:
    project.write("alembic.ini", DOCUMENTED)
    project.write("pyproject.toml", ELSEWHERE["toml"])
    succeeded(project.alembic("upgrade", "head"))
    succeeded(project.ours("upgrade", "head"))
    assert rows(project.url, "SELECT version_num FROM public.alembic_version") == [("a1",)]
    assert current(project.url) == [("0001",)]


def test_the_coordinator_reads_no_pyproject(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write("alembic.ini", SHORT)
    project.write("pyproject.toml", ELSEWHERE["toml"])
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("ALEMBIC_CONFIG", str(project.folder / "alembic.ini"))
    asyncio.run(MigrationCoordinator(project.url).upgrade())
    assert (current(project.url), gate(project.url)) == ([("0001",)], [(1, 0)])
    assert rows(project.url, "SELECT to_regclass('public.orders')::text") == [(None,)]


# --- a new revision where none belongs -----------------------------------------------------------


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The revisions as an installed package has them."""
    package = tmp_path / "installed" / "pgconductor"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    shutil.copytree(
        script_location(),
        package / "migrations",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    return package / "migrations"


@pytest.mark.parametrize("environment", ["", "revision_environment = true\n"])
@pytest.mark.parametrize(
    "command", [("revision", "-m", "x"), ("revision", "--autogenerate"), ("merge", "heads")]
)
def test_no_revision_is_written_into_the_package(
    project: Project, installed: Path, environment: str, command: tuple[str, ...]
) -> None:
    section = DOCUMENTED.replace("{location}", str(installed))
    project.write("alembic.ini", section + environment)
    before = set(installed.rglob("*.py"))
    done = project.ours(*command)
    assert done.returncode != 0
    assert "no new revision was written" in done.stderr
    assert set(installed.rglob("*.py")) == before


def test_an_installed_package_can_be_checked(project: Project, installed: Path) -> None:
    """It writes no revision, though Alembic makes one for it in memory."""
    project.write("alembic.ini", DOCUMENTED.replace("{location}", str(installed)))
    succeeded(project.ours("upgrade", "head"))
    assert "No new upgrade operations" in succeeded(project.ours("check"))


def test_no_revision_of_ours_is_written_into_another_folder(
    project: Project, installed: Path
) -> None:
    """With the application's folder taken from the toml, it would get a revision of our kind."""
    project.write("alembic.ini", SHORT.replace("{location}", str(installed)))
    project.write("pyproject.toml", ELSEWHERE["toml"])
    before = set(project.folder.rglob("*.py"))
    done = project.ours("revision", "-m", "x")
    assert done.returncode != 0
    assert "no new revision was written" in done.stderr
    assert set(project.folder.rglob("*.py")) == before


# --- our revisions in a history of the application's ---------------------------------------------

SHARED = """
[alembic]
script_location = %(here)s/migrations
path_separator = newline
version_locations =
  %(here)s/migrations/versions
  {location}/versions
"""


@pytest.mark.parametrize(
    "options", ["", 'version_table="pgconductor_version", version_table_schema="pgconductor"']
)
@pytest.mark.parametrize("command", [("upgrade", "heads"), ("upgrade", "heads", "--sql")])
def test_a_shared_history_is_refused(
    project: Project, options: str, command: tuple[str, ...]
) -> None:
    schema = 'connection.execute(sa.text("CREATE SCHEMA IF NOT EXISTS pgconductor"))\n'
    environment = ENVIRONMENT.replace("target_metadata=sa.MetaData()", options)
    environment = environment.replace(
        "    context.configure", f"    {schema}    connection.commit()\n    context.configure", 1
    )
    project.write("migrations/env.py", environment)
    project.write("alembic.ini", SHARED)
    done = project.alembic(*command)
    assert done.returncode != 0
    assert "pgconductor.exceptions.general.ConfigurationError" in done.stderr
    assert "pgconductor.executions" not in done.stdout
    found = rows(project.url, "SELECT to_regclass('pgconductor.executions')::text")
    assert found == [(None,)]
