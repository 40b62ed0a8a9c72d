"""What the revisions declare, and what an application's own Alembic needs of us."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Executable, TextClause, make_url

from pgconductor.domain.revisions import KNOWN_REVISION, REQUIRED_REVISION, SchemaStatus
from pgconductor.exceptions import RevisionMetadataError, SchemaBehind, SchemaTooNew
from pgconductor.schema import (
    Revision,
    alembic_config,
    applying,
    include_name,
    locations,
    reverting,
    revisions,
    script_location,
    sql_file,
)

SQL_FILES = sorted((script_location() / "sql").iterdir())


class Recorder:
    """Stands for ``alembic.op``."""

    def __init__(self) -> None:
        self.statements: list[str] = []

    def execute(self, sqltext: Executable | str, /) -> None:
        assert isinstance(sqltext, TextClause)
        self.statements.append(str(sqltext))

    def get_context(self) -> MigrationContext:
        return MigrationContext.configure(dialect_name="postgresql")


# --- what is shipped -----------------------------------------------------------------------------


def test_revisions_are_numbered_without_a_gap() -> None:
    assert [one.version for one in revisions()] == list(range(1, KNOWN_REVISION + 1))


def test_the_code_knows_what_it_ships() -> None:
    assert max(one.version for one in revisions()) == KNOWN_REVISION
    assert 1 <= REQUIRED_REVISION <= KNOWN_REVISION


def test_every_revision_declares_a_name_and_whether_it_breaks() -> None:
    """A6."""
    assert all(type(one.breaking) is bool for one in revisions())
    assert len({one.name for one in revisions()}) == len(revisions())


def test_files_are_named_after_their_revisions() -> None:
    files = sorted(path.name for path in (script_location() / "versions").glob("*.py"))
    assert [name[:4] for name in files] == [f"{one.version:04d}" for one in revisions()]


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("revision", ["1", "00001", "abcd", "001a", "", None, 1, "٠٠٠١"])
def test_an_id_is_four_digits(revision: object) -> None:
    with pytest.raises(RevisionMetadataError, match="four digits"):
        Revision.read(revision, "x", False)


@pytest.mark.parametrize("name", [None, "", 7])
def test_a_name_is_due(name: object) -> None:
    with pytest.raises(RevisionMetadataError, match="revision 0002: it declares no name"):
        Revision.read("0002", name, False)


@pytest.mark.parametrize("breaking", [None, 0, 1, "yes", "False", (True,)])
def test_breaking_is_decided(breaking: object) -> None:
    with pytest.raises(RevisionMetadataError, match="revision 0002: breaking must be True or"):
        Revision.read("0002", "x", breaking)


@pytest.mark.parametrize("irreversible", [None, 1, "yes"])
def test_irreversible_is_a_truth_value(irreversible: object) -> None:
    with pytest.raises(RevisionMetadataError, match="revision 0002: irreversible must be True or"):
        Revision.read("0002", "x", True, irreversible)
    assert Revision.read("0002", "x", True) == Revision(2, "x", True, irreversible=False)


def test_nothing_is_recorded_of_a_revision_that_has_not_decided() -> None:
    recorder = Recorder()
    for wrapped in (applying, reverting):
        with (
            pytest.raises(RevisionMetadataError),
            wrapped(recorder, "0002", name="x", breaking=None),
        ):
            pytest.fail("the revision was applied")
    assert recorder.statements == []


# --- SQL files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SQL_FILES, ids=lambda path: path.name)
def test_sql_files_are_what_they_look_like(path: Path) -> None:
    """Colons in them are no parameters, and one file is one statement."""
    statement = sql_file(path.name)
    assert statement.compile().params == {}
    assert str(statement) == path.read_text(encoding="utf-8")
    assert not str(statement).rstrip().endswith(";")


def test_every_sql_file_is_used() -> None:
    used = "".join(path.read_text() for path in (script_location() / "versions").glob("*.py"))
    for path in SQL_FILES:
        number, _, part = path.stem.partition("_")
        assert f'revision = "{number}"' in used
        assert f'"{part}"' in used


# --- where things are ----------------------------------------------------------------------------


def test_the_checkout_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "pgconductor"
    (package / "migrations").mkdir(parents=True)
    monkeypatch.setattr(locations, "__file__", str(package / "schema" / "locations.py"))
    assert script_location() == package / "migrations"
    (tmp_path / "alembic").mkdir()
    (tmp_path / "alembic" / "env.py").touch()
    assert script_location() == tmp_path / "alembic"


def test_a_folder_called_alembic_without_an_environment_is_not_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Beside an installed package lies the library of that name."""
    (tmp_path / "alembic").mkdir()
    module = tmp_path / "pgconductor" / "schema" / "locations.py"
    monkeypatch.setattr(locations, "__file__", str(module))
    assert script_location() == tmp_path / "pgconductor" / "migrations"


def test_a_configuration_keeps_the_password() -> None:
    url = make_url("postgresql+asyncpg://user:p%25%40ss@host/db")
    config = alembic_config(url)
    assert make_url(config.attributes["database_url"]) == url
    # The ini part is what a user may print.
    assert config.get_main_option("sqlalchemy.url") is None


def test_a_configuration_without_an_address_leaves_it_to_the_settings() -> None:
    assert "database_url" not in alembic_config().attributes


# --- an application's autogenerate ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "type_", "parents", "kept"),
    [
        ("pgconductor", "schema", {}, False),
        (None, "schema", {}, True),
        ("app", "schema", {}, True),
        ("executions", "table", {"schema_name": "pgconductor"}, False),
        ("executions", "table", {"schema_name": None}, True),
        ("executions", "table", {"schema_name": "app"}, True),
        ("id", "column", {"schema_name": "pgconductor", "table_name": "executions"}, False),
        ("id", "column", {"schema_name": None, "table_name": "pgconductor"}, True),
    ],
)
def test_include_name(name: str | None, type_: str, parents: dict[str, Any], kept: bool) -> None:
    assert include_name(name, type_, parents) is kept


def test_include_name_after_an_environment_has_ended() -> None:
    config = alembic_config()
    config.output_buffer = StringIO()
    command.upgrade(config, "head", sql=True)
    assert include_name(None, "schema", {})


# --- who may work where --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("installed", "floor", "known", "required"), [(1, 0, 1, 1), (1, 1, 1, 1), (7, 3, 3, 2)]
)
def test_who_may_work(installed: int, floor: int, known: int, required: int) -> None:
    SchemaStatus(installed, floor).check(known, required)


def test_a_breaking_revision_shuts_out_who_does_not_know_it() -> None:
    with pytest.raises(SchemaTooNew, match=r"0007.*0004 is breaking.*up to 0003") as caught:
        SchemaStatus(7, 4).check(3, 1)
    assert (caught.value.installed, caught.value.known, caught.value.floor) == (7, 3, 4)


def test_a_database_that_lacks_revisions() -> None:
    with pytest.raises(SchemaBehind, match=r"0001.*needs 0002.*alembic upgrade head") as caught:
        SchemaStatus(1, 1).check(3, 2)
    assert (caught.value.installed, caught.value.required) == (1, 2)
