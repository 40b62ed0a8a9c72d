"""Releases as real wheels: the checkout as yesterday's, and two made-up ones that follow it.

A wheel is installed by unpacking it, and used by putting the folder in front of the import path.
What the made-up releases bring is written here, and not shipped.
"""

from __future__ import annotations

import compileall
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pgconductor.domain.revisions import KNOWN_REVISION
from tests.migrations.support import add_revision
from tests.support.processes import UNMEASURED

ROOT = Path(__file__).resolve().parents[2]
# What a wheel is built from.
SOURCES = ("alembic", "LICENSE", "pgconductor", "pyproject.toml", "README.md")

#: The revisions that the made-up releases bring.
BESIDE = KNOWN_REVISION + 1
BREAKING = KNOWN_REVISION + 2

# A column that may be empty, and its index: an old release does not write it, and needs not.
BESIDE_CHANGE = """
def change():
    op.execute("ALTER TABLE pgconductor.executions ADD COLUMN fetched_with text")
    op.execute("CREATE INDEX executions_fetched_with ON pgconductor.executions (fetched_with)")
"""
BESIDE_CHANGE_BACK = """
def change_back():
    op.execute("ALTER TABLE pgconductor.executions DROP COLUMN fetched_with")
"""
# How a column is renamed, and back.
RENAMING = """
def change():
    op.execute("ALTER TABLE pgconductor.executions RENAME COLUMN {old} TO {new}")
"""
RENAMING_BACK = """
def change_back():
    op.execute("ALTER TABLE pgconductor.executions RENAME COLUMN {new} TO {old}")
"""


@dataclass(frozen=True)
class Release:
    """A release that is installed in a folder of its own.

    Attributes:
        version: Its version.
        known: The highest revision that it ships.
        site: The folder.
    """

    version: str
    known: int
    site: Path

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment in which a process uses it."""
        return {"PYTHONPATH": str(self.site), **UNMEASURED}


@dataclass(frozen=True)
class Releases:
    """All releases of the drills.

    Attributes:
        old: The checkout.
        beside: Brings a revision that is not breaking, and needs it.
        breaking: Brings a breaking revision after that one: the old release cannot record the end
            of any execution any more.
        deep: The same, but the revision changes what a migration writes while it waits for
            orchestrators: what the dead hold. What it reads, it reads in both forms.
    """

    old: Release
    beside: Release
    breaking: Release
    deep: Release


def build_all(folder: Path) -> Releases:
    """Build and install all releases: about a second."""
    return Releases(
        old=_build(folder, "0.9.0", KNOWN_REVISION, lambda _: None),
        beside=_build(folder, "0.9.1", BESIDE, _add_beside),
        breaking=_build(
            folder,
            "0.10.0",
            BREAKING,
            lambda source: _add_breaking(source, "finished_claim", "finished_number"),
        ),
        deep=_build(
            folder,
            "0.11.0",
            BREAKING,
            _add_deep,
        ),
    )


def _build(folder: Path, version: str, known: int, change: Callable[[Path], None]) -> Release:
    source, site = folder / version / "source", folder / version / "site"
    source.mkdir(parents=True)
    for name in SOURCES:
        origin = ROOT / name
        if origin.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(origin, source / name, ignore=ignored)
        else:
            shutil.copy(origin, source / name)
    _replace(source / "pgconductor/_version.py", r'"[^"]+"', f'"{version}"')
    change(source)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / version)],
        cwd=source,
        env=os.environ | UNMEASURED,
        check=True,
        capture_output=True,
        timeout=60,
    )
    (wheel,) = (folder / version).glob(f"pgconductor-{version}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # As an installer does; each process would compile it all again otherwise.
    compileall.compile_dir(site, quiet=2)
    return Release(version, known, site)


def _replace(path: Path, pattern: str, replacement: str) -> None:
    """Replace every occurrence; there must be one, or the source is not what we think it is."""
    text, count = re.subn(pattern, replacement, path.read_text(encoding="utf-8"))
    assert count, f"{path} has no {pattern}"
    path.write_text(text, encoding="utf-8")


def _know(source: Path, revision: int) -> None:
    """The release knows this revision, and works on nothing older."""
    revisions = source / "pgconductor/domain/revisions.py"
    _replace(revisions, r"(KNOWN_REVISION: Final) = \d+", rf"\1 = {revision}")
    _replace(revisions, r"(REQUIRED_REVISION: Final) = \d+", rf"\1 = {revision}")


def _add_beside(source: Path) -> None:
    _know(source, BESIDE)
    add_revision(
        source / "alembic",
        f"{BESIDE:04d}",
        f"{KNOWN_REVISION:04d}",
        metadata="name = 'fetched with'\nbreaking = False",
        change=BESIDE_CHANGE,
        change_back=BESIDE_CHANGE_BACK,
    )
    _replace(
        source / "pgconductor/sql/fetch.sql",
        r"( +)locked_at = (.*),\n",
        rf"\g<0>\1fetched_with = '{BESIDE:04d}',\n",
    )


def _add_breaking(source: Path, old: str, new: str) -> None:
    _add_beside(source)
    _know(source, BREAKING)
    add_revision(
        source / "alembic",
        f"{BREAKING:04d}",
        f"{BESIDE:04d}",
        metadata=f"name = '{old} to {new}'\nbreaking = True",
        change=RENAMING.format(old=old, new=new),
        change_back=RENAMING_BACK.format(old=old, new=new),
    )
    named = [
        path
        for path in (source / "pgconductor/sql").glob("*.sql")
        if old in path.read_text(encoding="utf-8")
    ]
    assert named
    for path in named:
        _replace(path, rf"\b{old}\b", new)
    model = source / "pgconductor/models/execution.py"
    _replace(model, rf"\({old} IS (NOT )?NULL\)", rf"({new} IS \1NULL)")
    # The attribute keeps its name: only what is in the database has another one.
    text = model.read_text(encoding="utf-8")
    if f"{old}: Mapped[int | None] = mapped_column(" in text:
        _replace(model, rf"({old}: .* = mapped_column\()", rf'\1"{new}", ')
    else:
        _replace(model, rf"({old}: .*)", rf'\1 = mapped_column("{new}")')


def _add_deep(source: Path) -> None:
    waited_for = source / "pgconductor/sql/waited_for.sql"
    _replace(waited_for, r"\be\.locked_at\b", "e.before_and_after")
    _add_breaking(source, "locked_at", "held_since")
    either = (
        "CAST(coalesce(to_jsonb(e) ->> 'locked_at', to_jsonb(e) ->> 'held_since') AS timestamptz)"
    )
    _replace(waited_for, r"\be\.before_and_after\b", either)
