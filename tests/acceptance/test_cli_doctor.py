"""``pgconductor doctor``: what it prints, and how it ends."""

from __future__ import annotations

import pytest

from pgconductor.cli import ExitCode
from pgconductor.domain import diagnosis
from pgconductor.domain.health import Finding, ServerReading
from tests.acceptance.test_cli_support import call
from tests.support.servers import connect


@pytest.fixture(autouse=True)
def durable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server of the tests is as fast as an unsafe one can be; that is not its point here."""
    original = diagnosis.server

    def but_for_fsync(seen: ServerReading) -> list[Finding]:
        return [one for one in original(seen) if one.check != "durability"]

    monkeypatch.setattr(diagnosis, "server", but_for_fsync)


def test_a_healthy_database(database_url: str) -> None:
    ended = call("doctor", url=database_url).succeeds()
    lines = ended.out.splitlines()
    assert len(lines) > 8
    assert all(line.startswith("ok ") for line in lines)
    found = call("doctor", "--json", url=database_url).succeeds().json
    assert {one["severity"] for one in found} == {"ok"}
    assert set(found[0]) == {"severity", "check", "what", "advice", "figures"}


def test_a_database_in_trouble(database_url: str) -> None:
    with connect(database_url) as connection:
        connection.execute(b"DROP INDEX pgconductor.executions_ready_idx")
    ended = call("doctor", url=database_url)
    assert ended.code == ExitCode.ATTENTION
    lines = ended.out.splitlines()
    (bad,) = [place for place, line in enumerate(lines) if line.startswith("bad ")]
    assert "executions_ready_idx is missing" in lines[bad]
    assert "→ make it again: CREATE INDEX CONCURRENTLY executions_ready_idx" in lines[bad + 1]
    ended = call("doctor", "--json", url=database_url)
    assert ended.code == ExitCode.ATTENTION
    assert [one["check"] for one in ended.json if one["severity"] == "bad"] == ["indexes"]


def test_figures_are_plain_json(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with connect(database_url) as connection:
        connection.execute(
            b"INSERT INTO pgconductor.executions (id, task_key, run_at)"
            b" VALUES (gen_random_uuid(), 'greet', now() - interval '1 hour')"
        )
    ended = call("doctor", "--json", url=database_url)
    (found,) = [one for one in ended.json if one["check"] == "overdue executions"]
    assert found["figures"]["age"] >= 3600
    assert found["figures"]["task"] == "greet"


def test_a_direct_way_is_looked_at_too(database_url: str) -> None:
    found = (
        call("doctor", "--json", url=database_url, PGCONDUCTOR_DIRECT_URL=database_url)
        .succeeds()
        .json
    )
    (one,) = [one for one in found if one["check"] == "pooler"]
    assert one["severity"] == "ok"


def test_without_a_schema(empty_database_url: str) -> None:
    ended = call("doctor", url=empty_database_url)
    assert ended.code == ExitCode.ATTENTION
    assert "→ execute `pgconductor migrate`" in ended.out


def test_out_of_reach() -> None:
    call("doctor", url="postgresql://127.0.0.1:1/none").fails(ExitCode.UNREACHABLE)
