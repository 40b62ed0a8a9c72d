"""Call the command line as a user does; what the other test_cli modules share."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from pgconductor.cli import execute

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def fails(self, code: int, *words: str) -> str:
        """Assert that it failed with one clear line, and return the line."""
        assert self.code == code, (self.code, self.out, self.err)
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("pgconductor: ")
        assert "Traceback" not in self.err
        for word in words:
            assert word in lines[0], lines[0]
        return lines[0]

    def succeeds(self) -> Ended:
        assert self.code == 0, (self.code, self.out, self.err)
        return self


def environment(database_url: str | None = None, **more: str) -> dict[str, str]:
    """The tests' own environment with no settings but these."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PGCONDUCTOR_") and name != "DATABASE_URL"
    }
    search = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    kept |= {"PYTHONPATH": search, **more}
    return kept if database_url is None else {**kept, "PGCONDUCTOR_DATABASE_URL": database_url}


def call(*arguments: str, url: str | None = None, stdin: str = "", **more: str) -> Ended:
    """Execute a command line in this process, which saves a second of imports."""
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.dict(os.environ, environment(url, **more), clear=True),
        patch("sys.stdin", io.StringIO(stdin)),
        contextlib.chdir("/"),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = execute(arguments)
    return Ended(code, out.getvalue(), err.getvalue())


def call_process(
    *arguments: str, url: str | None = None, stdin: str = "", cwd: Path | None = None, **more: str
) -> Ended:
    """Execute a command line in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "pgconductor", *arguments],
        cwd=cwd or "/",
        env=environment(url, **more),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def test_help_tells_commands_and_exit_codes() -> None:
    ended = call_process("--help").succeeds()
    for word in ("demo", "worker", "invoke", "migrate", "current", "Exit codes:", "57", "58"):
        assert word in ended.out


def test_the_version() -> None:
    import pgconductor

    assert call_process("--version").succeeds().out == f"pgconductor {pgconductor.__version__}\n"
