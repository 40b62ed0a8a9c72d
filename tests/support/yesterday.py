"""Yesterday's tests and yesterday's code on today's schema.

A revision that says that it is not breaking must leave a release that does not know it at work.
Whoever reads it may be wrong about that; the tests of that release are not. So each state of the
project that is older than such a revision is unpacked, and its tests are executed on databases
that today's revisions have made. ``nox -s schema`` does that for every revision that claims it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from pgconductor.schema import revisions
from tests.support.migrate import REVISIONS_VARIABLE

ROOT = Path(__file__).resolve().parents[2]

#: What a release does, seen from outside. The plans of statements and the constraints of tables
#: are no promise to older releases, and their tests are left out.
SELECTION = (
    "tests/acceptance/test_cli_worker.py",
    "tests/contracts/test_cancel.py",
    "tests/contracts/test_complete.py",
    "tests/contracts/test_dedupe.py",
    "tests/contracts/test_fetch.py",
    "tests/contracts/test_invoke.py",
    "tests/contracts/test_orchestrators.py",
    "tests/contracts/test_reading.py",
    "tests/contracts/test_recovery.py",
    "tests/contracts/test_retention.py",
    "tests/contracts/test_retry.py",
    "tests/contracts/test_steps.py",
    "tests/integration/test_health.py",
    "tests/integration/test_invoke_from_sql.py",
    "tests/integration/test_invoke_sessions.py",
    "tests/integration/test_runtime_cancel.py",
    "tests/integration/test_runtime_handles.py",
    "tests/integration/test_runtime_life.py",
    "tests/integration/test_runtime_retention.py",
    "tests/integration/test_runtime_retries.py",
    "tests/integration/test_runtime_worker.py",
    "tests/integration/test_tasks_invoke.py",
)


@dataclass(frozen=True)
class State:
    """A state of the project that does not know a revision."""

    version: int
    commit: str


def states(checkout: Path) -> list[State]:
    """The newest state before each revision that older releases must be able to bear.

    Those before a breaking revision need not bear what comes after.
    """
    known = revisions(checkout / "alembic")
    floor = max((one.version for one in known if one.breaking), default=1)
    return [
        State(one.version, _before(checkout, one.version)) for one in known if one.version > floor
    ]


def _before(checkout: Path, version: int) -> str:
    files = f"alembic/versions/{version:04d}_*"
    added = git(checkout, "log", "--diff-filter=A", "--format=%H", "--", files).split()
    if not added:
        return "HEAD"  # the revision is not committed yet
    before = f"{added[-1]}^"
    # What was released last, if anything was: that is what is at work somewhere.
    tags = git(checkout, "tag", "--merged", before, "--sort=-creatordate").split()
    return tags[0] if tags else before


def git(checkout: Path, *arguments: str) -> str:
    return _git(checkout, *arguments).decode()


def _git(checkout: Path, *arguments: str) -> bytes:
    return subprocess.run(
        ["git", *arguments], cwd=checkout, capture_output=True, timeout=60, check=True
    ).stdout


def unpack(checkout: Path, commit: str, folder: Path) -> None:
    with tarfile.open(fileobj=BytesIO(_git(checkout, "archive", commit))) as archive:
        archive.extractall(folder, filter="data")


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options]


def environment(yesterday: Path, today: Path) -> dict[str, str]:
    """Where the code of yesterday is found first, and the revisions of today are applied."""
    return os.environ | {"PYTHONPATH": str(yesterday), REVISIONS_VARIABLE: str(today)}


def present(yesterday: Path) -> Iterator[str]:
    """What there is of the selection; a state may be older than a file."""
    return (name for name in SELECTION if (yesterday / name).exists())


def main(*options: str) -> int:
    """Execute the tests of every state that matters; the number of those that failed."""
    failed = 0
    found = states(ROOT)
    if not found:
        print("No revision claims that older releases bear it, but the first: nothing to ask.")
    for state in found:
        print(f"Before {state.version:04d}, at {state.commit}:", flush=True)
        with TemporaryDirectory() as name:
            yesterday = Path(name)
            unpack(ROOT, state.commit, yesterday)
            done = subprocess.run(
                command("-q", "-m", "not slow", *options, *present(yesterday)),
                cwd=yesterday,
                env=environment(yesterday, ROOT),
                check=False,
            )
        failed += done.returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
