"""A6: every revision says whether it is breaking, or nothing moves."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy.ext.asyncio import create_async_engine

from pgconductor.exceptions import RevisionMetadataError, SchemaTooNew
from pgconductor.schema import revisions
from pgconductor.services import OrchestratorService
from tests.migrations.support import (
    PLAIN_ENVIRONMENT,
    ROOT,
    add_revision,
    alembic,
    config_for,
    copy_of_revisions,
    current,
    execute,
    gate,
    in_thread,
    ledger,
    rows,
    succeeded,
    written,
)

UNDECIDED = {
    "missing": "name = 'x'",
    "none": "name = 'x'\nbreaking = None",
    "a number": "name = 'x'\nbreaking = 1",
    "a word": "name = 'x'\nbreaking = 'no'",
    "nameless": "breaking = True",
}


@pytest.fixture
def location(tmp_path: Path) -> Path:
    return copy_of_revisions(tmp_path)


def upgrade(url: str, location: Path, revision: str = "head") -> None:
    in_thread(command.upgrade, config_for(url, location), revision)


def downgrade(url: str, location: Path, revision: str) -> None:
    in_thread(command.downgrade, config_for(url, location), revision)


# --- undecided -----------------------------------------------------------------------------------


@pytest.mark.parametrize("metadata", UNDECIDED.values(), ids=UNDECIDED)
def test_an_undecided_revision_is_refused(
    empty_database_url: str, location: Path, metadata: str
) -> None:
    add_revision(location, "0002", "0001", metadata=metadata)
    with pytest.raises(RevisionMetadataError, match="revision 0002"):
        revisions(location)
    with pytest.raises(RevisionMetadataError, match="revision 0002"):
        upgrade(empty_database_url, location)
    # Not even the revision before it was applied.
    assert rows(empty_database_url, "SELECT to_regnamespace('pgconductor')::text") == [(None,)]


@pytest.mark.parametrize("metadata", UNDECIDED.values(), ids=UNDECIDED)
def test_the_revision_itself_refuses_too(database_url: str, location: Path, metadata: str) -> None:
    """An application's own env.py does not ask before; then the revision does."""
    add_revision(location, "0002", "0001", metadata=metadata)
    (location / "env.py").write_text(PLAIN_ENVIRONMENT, encoding="utf-8")
    with pytest.raises(RevisionMetadataError, match="revision 0002"):
        upgrade(database_url, location)
    assert ledger(database_url) == [(1, "initial", False)]
    assert current(database_url) == [("0001",)]


# --- decided -------------------------------------------------------------------------------------


@pytest.mark.parametrize("breaking", [True, False])
async def test_a_decided_revision_is_recorded(
    database_url: str, location: Path, breaking: bool
) -> None:
    add_revision(location, "0002", "0001", metadata=f"name = 'second'\nbreaking = {breaking}")
    upgrade(database_url, location)
    assert ledger(database_url) == [(1, "initial", False), (2, "second", breaking)]
    assert gate(database_url) == [(2, 2 if breaking else 0)]
    engine = create_async_engine(database_url)
    register = OrchestratorService(engine).register
    if breaking:
        with pytest.raises(SchemaTooNew, match=r"0002 is breaking; this release knows .* 0001"):
            await register(schema_version=1)
    else:
        assert (await register(schema_version=1)).schema_version == 1
    assert (await register(schema_version=2)).schema_version == 2
    await engine.dispose()
    downgrade(database_url, location, "0001")
    assert ledger(database_url) == [(1, "initial", False)]
    assert gate(database_url) == [(1, 0)]


def test_the_floor_is_the_highest_breaking_revision(database_url: str, location: Path) -> None:
    for number, breaking in ((2, True), (3, False), (4, True), (5, False)):
        add_revision(
            location,
            f"{number:04d}",
            f"{number - 1:04d}",
            metadata=f"name = 'number {number}'\nbreaking = {breaking}",
        )
    floors = {1: 0, 2: 2, 3: 2, 4: 4, 5: 4}
    for number in (2, 3, 4, 5):
        upgrade(database_url, location, f"{number:04d}")
        assert gate(database_url) == [(number, floors[number])]
    for number in (4, 3, 2, 1):
        downgrade(database_url, location, f"{number:04d}")
        assert gate(database_url) == [(number, floors[number])]
    in_thread(command.stamp, config_for(database_url, location), "0003")
    assert gate(database_url) == [(3, 2)]
    assert [row[0] for row in ledger(database_url)] == [1, 2, 3]


@pytest.mark.parametrize("offline", [False, True])
def test_a_name_may_hold_any_character(database_url: str, location: Path, offline: bool) -> None:
    name = r"it's 100% :sure \:too $$ \ ?"
    add_revision(location, "0002", "0001", metadata=f"name = {name!r}\nbreaking = False")
    if offline:
        config = config_for(database_url, location)
        in_thread(command.upgrade, config, "0001:0002", sql=True)
        execute(database_url, written(config))
    else:
        upgrade(database_url, location)
    assert ledger(database_url)[1] == (2, name, False)
    in_thread(command.stamp, config_for(database_url, location), "0001")
    in_thread(command.stamp, config_for(database_url, location), "0002")
    assert ledger(database_url)[1] == (2, name, False)


# --- a new revision ------------------------------------------------------------------------------


def test_a_new_revision_must_be_decided(empty_database_url: str, location: Path) -> None:
    message = 'it\'s "quoted" and 100% :sure'
    command.revision(config_for(None, location), message, rev_id="0002")
    (path,) = location.glob("versions/0002*")
    text = path.read_text(encoding="utf-8")
    ast.parse(text)
    with pytest.raises(RevisionMetadataError, match="breaking must be True or False, not None"):
        upgrade(empty_database_url, location)
    path.write_text(text.replace("breaking: bool | None = None", "breaking = True"), "utf-8")
    upgrade(empty_database_url, location)
    assert ledger(empty_database_url)[1] == (2, message, True)


def test_a_new_revision_by_the_command_line(location: Path) -> None:
    ini = location.parent / "alembic.ini"
    ini.write_text(f"[alembic]\nscript_location = {location}\n", encoding="utf-8")
    made = succeeded(
        alembic("-c", str(ini), "revision", "-m", "x", environment={"PYTHONPATH": str(ROOT)})
    )
    assert "Generating" in made
    with pytest.raises(RevisionMetadataError, match="make it with `alembic revision -m"):
        revisions(location)


def test_what_autogenerate_writes_is_valid(empty_database_url: str, location: Path) -> None:
    upgrade(empty_database_url, location)
    execute(empty_database_url, "ALTER TABLE pgconductor.steps DROP COLUMN result")
    config = config_for(empty_database_url, location)
    in_thread(command.revision, config, "put back", rev_id="0002", autogenerate=True)
    (path,) = location.glob("versions/0002*")
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("breaking: bool | None = None", "breaking = False"), "utf-8")
    upgrade(empty_database_url, location)
    in_thread(command.check, config_for(empty_database_url, location))
