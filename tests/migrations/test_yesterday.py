"""A revision that is called non-breaking and is not is found by the tests of the release before."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.migrations.support import ROOT, add_revision
from tests.support.processes import UNMEASURED
from tests.support.servers import URL_VARIABLE, Server
from tests.support.yesterday import SELECTION, State, command, environment, git, states, unpack

# A test that invokes is enough to see that the schema is another.
FEW = ("tests/integration/test_tasks_invoke.py", "-k", "exactly_if_the_caller_commits")
KNOWN = "KNOWN_REVISION: Final = "
HARMLESS = "ALTER TABLE pgconductor.executions ADD COLUMN added text"
HARMFUL = "ALTER TABLE pgconductor.executions DROP COLUMN priority CASCADE"


def later(folder: Path, statement: str) -> Path:
    """Tomorrow's state of this checkout: it has, and knows, one revision more."""
    for name in ("alembic", "pgconductor"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "alembic.ini", folder)
    add_revision(
        folder / "alembic",
        "0002",
        "0001",
        metadata="name = 'later'\nbreaking = False",
        change=f"def change():\n    op.execute({statement!r})",
    )
    known = folder / "pgconductor" / "domain" / "revisions.py"
    source = known.read_text(encoding="utf-8")
    assert f"{KNOWN}1\n" in source
    known.write_text(source.replace(f"{KNOWN}1\n", f"{KNOWN}2\n"), encoding="utf-8")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("statement", "borne"), [(HARMLESS, True), (HARMFUL, False)])
def test_a_release_on_a_later_schema(
    server: Server, tmp_path: Path, statement: str, borne: bool
) -> None:
    """The tests of this checkout, which does not know the revision."""
    today = later(tmp_path / "today", statement)
    done = subprocess.run(
        command("-q", *FEW),
        cwd=ROOT,
        env=environment(ROOT, today) | UNMEASURED | {URL_VARIABLE: server.url_for("postgres")},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    said = done.stdout + done.stderr
    assert (done.returncode == 0) == borne, said
    assert "passed" in said if borne else 'column "priority"' in said, said


def test_what_is_selected_is_there() -> None:
    assert [name for name in SELECTION if not (ROOT / name).exists()] == []


# --- which states --------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository whose first commit has our revisions as they are."""
    made = tmp_path / "repository"
    shutil.copytree(
        ROOT / "alembic", made / "alembic", ignore=shutil.ignore_patterns("__pycache__")
    )
    git(made, "init", "-q")
    commit(made, "first")
    return made


def commit(repository: Path, message: str) -> str:
    git(repository, "add", "-A")
    who = ("-c", "user.name=x", "-c", "user.email=x@localhost", "-c", "commit.gpgsign=false")
    git(repository, *who, "commit", "-q", "--allow-empty", "-m", message)
    return git(repository, "rev-parse", "HEAD").strip()


def revise(repository: Path, number: int, *, breaking: bool = False) -> None:
    add_revision(
        repository / "alembic",
        f"{number:04d}",
        f"{number - 1:04d}",
        metadata=f"name = 'number {number}'\nbreaking = {breaking}",
    )


def resolved(repository: Path) -> list[tuple[int, str]]:
    return [
        (one.version, git(repository, "rev-parse", f"{one.commit}^{{commit}}").strip())
        for one in states(repository)
    ]


def test_the_first_revision_has_no_before(repository: Path) -> None:
    assert states(repository) == []


def test_the_commit_before_the_revision(repository: Path) -> None:
    before = commit(repository, "before")
    revise(repository, 2)
    assert states(repository) == [State(2, "HEAD")]
    commit(repository, "0002")
    # What became of the file later says nothing of when it came.
    added = repository / "alembic" / "versions" / "0002_added.py"
    added.write_text(f"{added.read_text()}# more\n")
    between = commit(repository, "a comment")
    revise(repository, 3)
    commit(repository, "0003")
    assert resolved(repository) == [(2, before), (3, between)]


def test_the_release_before_the_revision(repository: Path) -> None:
    git(repository, "tag", "v1")
    released = git(repository, "rev-parse", "HEAD").strip()
    commit(repository, "not released")
    revise(repository, 2)
    commit(repository, "0002")
    git(repository, "tag", "v2")
    assert resolved(repository) == [(2, released)]


def test_nobody_has_to_bear_what_a_breaking_revision_shuts_out(repository: Path) -> None:
    revise(repository, 2)
    commit(repository, "0002")
    revise(repository, 3, breaking=True)
    last = commit(repository, "0003")
    assert states(repository) == []
    revise(repository, 4)
    commit(repository, "0004")
    assert resolved(repository) == [(4, last)]


def test_a_state_is_unpacked(repository: Path, tmp_path: Path) -> None:
    revise(repository, 2)
    commit(repository, "0002")
    (state,) = states(repository)
    unpack(repository, state.commit, tmp_path / "old")
    files = {path.name[:4] for path in (tmp_path / "old" / "alembic" / "versions").iterdir()}
    assert files == {"0001"}
