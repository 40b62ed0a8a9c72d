"""Mistakes of users: one clear line, an exit code, no traceback, and never a password."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import make_url

from pgconductor.cli import ExitCode
from tests.acceptance.test_cli_support import Ended, call, call_process

UNKNOWN = "00000000-0000-7000-8000-000000000000"
NOBODY = "postgresql://someone:s3cr3t@127.0.0.1:1/nowhere"
ANOTHER = """\
from pgconductor import Conductor
c = Conductor(database_url="postgresql://elsewhere/x")
@c.task
async def one(ctx) -> None: ...
"""


def _call(arguments: list[str], url: str | None = None) -> Ended:
    """A worker sets up the logging of its process, which should not be this one."""
    return (call_process if arguments[0] == "worker" else call)(*arguments, url=url)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["frobnicate"], 2, ["frobnicate"]),
        (["show"], 2, ["ID", "pgconductor show --help"]),
        (["show", "42"], 2, ["42", "UUID"]),
        (["show", UNKNOWN], 3, ["no execution"]),
        (["cancel", UNKNOWN], 3, ["no execution"]),
        (["retry", UNKNOWN], 3, ["no execution"]),
        (["invoke", "a", "--payload", "{no json"], 2, ["payload", "JSON"]),
        (["invoke", "a", "--payload", "NaN"], 2, ["payload"]),
        (["invoke", "a", "--payload", '"\\u0000"'], 2, ["NUL"]),
        (["invoke", "a", "--payload", "1", "--payload-file", "-"], 2, ["not both"]),
        (["invoke", "a", "--payload-file", "/nonexistent"], 2, ["/nonexistent"]),
        (["invoke", "no such"], 2, ["no such"]),
        (["invoke", "a", "--queue", "No Queue"], 2, ["No Queue"]),
        (["invoke", "a", "--delay", "-1"], 2, ["--delay", "'-1' is negative", "0 for at once"]),
        (["invoke", "a", "--delay", "P20Y"], 2, ["--delay", "'P20Y' is longer than ten years"]),
        (["invoke", "a", "--delay", "soon"], 2, ["soon", "PT1M30S"]),
        (["invoke", "a", "--run-at", "2030-01-01"], 2, ["time zone"]),
        (["invoke", "a", "--run-at", "tomorrow"], 2, ["tomorrow"]),
        (["invoke", "a", "--priority", "99999"], 2, ["priority"]),
        (["invoke", "a", "--max-attempts", "0"], 2, ["max_attempts"]),
        (["invoke", "a", "--dedupe-key", ""], 2, ["dedupe_key"]),
        (["list", "--state", "sleeping"], 2, ["sleeping"]),
        (["list", "--limit", "0"], 2, ["limit"]),
        (["list", "--queue", "Ä"], 2, ["queue"]),
        (["migrate", "--to", "later"], 2, ["later"]),
        (["worker", "no_colon"], 2, ["no_colon", "module:attribute"]),
        (["worker", "no_such_module:conductor"], 2, ["no_such_module"]),
        (["worker", "json:conductor"], 2, ["conductor"]),
        (["worker", "json:dumps"], 2, ["not a Conductor"]),
        (["worker", "json:dumps", "--log-level", "loud"], 2, ["loud"]),
        (["demo", "/nonexistent"], 2, ["/nonexistent"]),
    ],
)
def test_mistakes(database_url: str, arguments: list[str], code: int, words: list[str]) -> None:
    _call(arguments, url=database_url).fails(code, *words)


@pytest.mark.parametrize(
    "arguments", [["list"], ["current"], ["migrate"], ["invoke", "a"], ["show", UNKNOWN]]
)
def test_no_database_is_given(arguments: list[str]) -> None:
    call(*arguments).fails(ExitCode.USAGE, "PGCONDUCTOR_DATABASE_URL")


@pytest.mark.parametrize("arguments", [["list"], ["current"], ["migrate"], ["invoke", "a"]])
def test_the_database_is_out_of_reach(arguments: list[str]) -> None:
    line = call(*arguments, url=NOBODY).fails(ExitCode.UNREACHABLE, "out of reach")
    assert "s3cr3t" not in line


def test_the_login_is_refused(database_url: str) -> None:
    url = make_url(database_url).set(username="nobody_of_that_name", password="s3cr3t")
    ended = call("list", url=url.render_as_string(hide_password=False))
    assert "s3cr3t" not in ended.fails(ExitCode.UNREACHABLE, "cannot be used")


def test_the_database_does_not_exist(database_url: str) -> None:
    url = make_url(database_url).set(database="no_such_database")
    call("list", url=url.render_as_string(hide_password=False)).fails(
        ExitCode.UNREACHABLE, "no_such_database"
    )


@pytest.mark.parametrize("url", ["postgresql://user:s3cr3t@host:port/x", "mysql://u:s3cr3t@h/x"])
@pytest.mark.parametrize("arguments", [["list"], ["worker", "json:dumps"], ["migrate"]])
def test_the_url_cannot_be_read(url: str, arguments: list[str]) -> None:
    for ended in (_call(arguments, url=url), _call([*arguments, "--database-url", url])):
        assert "s3cr3t" not in ended.fails(ExitCode.USAGE)


def test_a_setting_cannot_be_read(database_url: str) -> None:
    ended = call("list", url=database_url, PGCONDUCTOR_CONCURRENCY="many")
    ended.fails(ExitCode.USAGE, "PGCONDUCTOR_CONCURRENCY", "integer")
    contradictory = call("list", url=database_url, PGCONDUCTOR_STALE_AFTER="1")
    contradictory.fails(ExitCode.USAGE, "heartbeat_interval < self_fence_after < stale_after")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import not_installed_at_all\n", ["not_installed_at_all", "line 1"]),
        ("import sys\n\nsys.exit(3)\n", ["importing 'broken_app'", "SystemExit: 3", "line 3"]),
        ("raise SystemExit\n", ["importing 'broken_app'", "SystemExit", "line 1"]),
        ("\nraise RuntimeError('boom')\n", ["RuntimeError", "boom", "line 2"]),
        ("def broken(:\n", ["SyntaxError", "broken_app.py"]),
        ("from pgconductor import Conductor\nc = Conductor()\n", ["no task is declared"]),
        (ANOTHER, ["of its own"]),
    ],
)
def test_an_application_that_cannot_be_used(
    database_url: str, tmp_path: Path, text: str, words: list[str]
) -> None:
    (tmp_path / "broken_app.py").write_text(text)
    ended = call_process("worker", "broken_app:c", "--database-url", database_url, cwd=tmp_path)
    ended.fails(ExitCode.USAGE, *words)


@pytest.mark.parametrize("wait", ["-5", "-PT5S", "P20Y", "soon"])
def test_nothing_is_invoked_where_the_wait_is_wrong(database_url: str, wait: str) -> None:
    call("invoke", "kid", "--wait", wait, url=database_url).fails(ExitCode.USAGE, "--wait", wait)
    assert call("list", "--json", url=database_url).succeeds().json == []


def test_output_that_nobody_reads(database_url: str) -> None:
    import subprocess
    import sys

    from tests.acceptance.test_cli_support import environment

    done = subprocess.run(
        ["/bin/sh", "-c", f"{sys.executable} -m pgconductor list --json | true"],
        env=environment(database_url),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
