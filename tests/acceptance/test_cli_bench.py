"""``pgconductor bench``: that it measures and tells, never how fast; figures are no tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import URL, make_url

from pgconductor.bench import harness
from pgconductor.bench.contestants import OURS, ours_and_raw
from pgconductor.bench.databases import Databases
from pgconductor.bench.measures import CONDITIONS, MEASURES
from pgconductor.cli import ExitCode
from tests.acceptance.test_cli_support import call, call_process
from tests.support.processes import UNMEASURED
from tests.support.servers import connect

KNOWN = {one.key: one for one in (*MEASURES, *CONDITIONS)}
# One of each way to measure: each contestant of each measure starts a process or two. They end
# without telling what was covered, so it need not be noted.
MEASURED = [
    "invoke_one",
    "bulk_large",
    "drain",
    "pick_up",
    "steps",
    "chain",
    "drain_future",
    "drain_held",
]


@pytest.fixture
def prefixes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the names of our own databases begin with; others may measure at the same time."""
    noted: list[str] = []

    class Noted(Databases):
        def __init__(self, server: URL) -> None:
            super().__init__(server)
            noted.append(self._prefix)

    monkeypatch.setattr(harness, "Databases", Noted)
    return noted


def leftovers(url: str, prefixes: list[str]) -> list[Any]:
    with connect(url) as connection:
        query = "SELECT datname FROM pg_database WHERE starts_with(datname, %s)"
        return [row for one in prefixes for row in connection.execute(query, [one]).fetchall()]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_each_way_of_measuring_once_and_tiny(
    empty_database_url: str, tmp_path: Path, prefixes: list[str]
) -> None:
    file = tmp_path / "figures.json"
    options = ["--rounds", "1", "--scale", "0.004", "--seeded-rows", "50", "--json", str(file)]
    for key in MEASURED:
        options += ["--measure", key]
    ended = call("bench", *options, "--database-url", empty_database_url, **UNMEASURED).succeeds()

    found = json.loads(file.read_text(encoding="utf-8"))
    assert list(found["measures"]) == MEASURED
    assert found["machine"]["fsync"] in {"on", "off"}
    assert found["contestants"][OURS]["version"]
    for measure in (KNOWN[key] for key in MEASURED):
        entries = found["measures"][measure.key]["contestants"]
        entered = [one.name for one in ours_and_raw() if measure.key in one.measures]
        assert list(entries) == entered
        for name, entry in entries.items():
            assert "not_measured" not in entry, (measure.key, name)
            assert entry["median"] > 0
            assert (entry["costs"]["commits"] is not None) == measure.counted
            assert f"{measure.title}, {measure.unit}" in ended.out
            assert name in ended.out
    assert len(prefixes) == 1
    assert leftovers(empty_database_url, prefixes) == []
    with connect(empty_database_url) as connection:
        (schemas,) = connection.execute("SELECT to_regnamespace('pgconductor')").fetchall()
    assert schemas == (None,), "the database that was named stays as it is"


def test_one_measure(empty_database_url: str) -> None:
    options = ("--rounds", "2", "--scale", "0.01", "--measure", "invoke_one")
    ended = call("bench", *options, "--database-url", empty_database_url, **UNMEASURED).succeeds()
    titles = [one for one in MEASURES if one.title in ended.out]
    assert [one.key for one in titles] == ["invoke_one"]
    heads = next(line for line in ended.out.splitlines() if "median" in line)
    assert heads.split()[:3] == ["median", "least", "greatest"]
    assert "round 2 of 2" in ended.err


def test_wrong_usage(empty_database_url: str) -> None:
    url = ("--database-url", empty_database_url)
    call("bench", "--measure", "speed", *url).fails(ExitCode.USAGE, "speed", "invoke_one")
    call("bench", "--scale", "0", *url).fails(ExitCode.USAGE, "scale")
    nowhere = "postgresql://nobody@127.0.0.1:1/none"
    call("bench", "--database-url", nowhere).fails(ExitCode.UNREACHABLE, "out of reach")


def test_a_role_that_may_not_create_databases(empty_database_url: str) -> None:
    guest = f"bench_guest_{uuid4().hex[:12]}"
    with connect(empty_database_url) as connection:
        connection.execute(f"CREATE ROLE {guest} LOGIN".encode())
        try:
            url = make_url(empty_database_url).set(username=guest)
            ended = call("bench", "--database-url", url.render_as_string(hide_password=False))
            assert ended.code == ExitCode.PRIVILEGE
            last = ended.err.splitlines()[-1]
            assert last == "pgconductor: the database refuses: permission denied to create database"
        finally:
            connection.execute(f"DROP ROLE {guest}".encode())


def test_help_needs_no_engine() -> None:
    ended = call_process("bench", "--help").succeeds()
    assert "--conditions" in ended.out
