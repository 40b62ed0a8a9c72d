"""``pgconductor fleet``: who is there, and whom a migration waits for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from uuid import uuid4

import pytest

from pgconductor.schema import Revision
from tests.acceptance.test_cli_support import Ended, call
from tests.support.servers import connect

Command = Callable[..., Ended]


@pytest.fixture
def command(database_url: str) -> Command:
    return partial(call, url=database_url)


def test_an_empty_fleet(command: Command) -> None:
    found = command("fleet", "--json").succeeds().json
    assert found["orchestrators"] == found["blockers"] == found["behind"] == []
    last = command("fleet").succeeds().out.splitlines()[-1]
    assert last.startswith("no breaking revision is pending; 0 of 0 do not know 0")


@pytest.fixture
def fleet(database_url: str) -> list[str]:
    """An orchestrator that knows everything, and one of the past that is asked to stop."""
    found = [str(uuid4()), str(uuid4())]
    with connect(database_url) as connection:
        connection.execute(
            "INSERT INTO pgconductor.orchestrators"
            " (id, version, schema_version, schema_required, hostname, pid, queues, started_at,"
            " last_heartbeat_at, shutdown_requested_at, shutdown_reason) VALUES"
            " (%s, '2', 9, 1, 'new', 5, '{mail,default}', now(), now(), NULL, NULL),"
            " (%s, '1', 1, 1, 'old', 6, '{}', now() + '1 s',"
            " now() - interval '7 s', now(), 'away')",
            found,
        )
        connection.execute(
            "INSERT INTO pgconductor.executions"
            " (id, task_key, state, locked_by, locked_at, claim_number, attempts)"
            " VALUES (gen_random_uuid(), 'a', 'running', %s, now(), 1, 1)",
            found[:1],
        )
    return found


def test_the_fleet(command: Command, fleet: list[str]) -> None:
    new, old = command("fleet", "--json").succeeds().json["orchestrators"]
    assert [new["id"], old["id"]] == fleet
    assert (new["version"], new["schema_version"], new["hostname"], new["pid"]) == (
        "2",
        9,
        "new",
        5,
    )
    assert new["queues"] == ["mail", "default"]
    assert (new["running"], old["running"]) == (1, 0)
    assert (new["draining"], old["draining"]) == (None, "away")
    assert new["silent_for"] < 7 <= old["silent_for"] < 60
    heads, first, second, *_ = command("fleet").succeeds().out.splitlines()
    assert heads.split()[-2:] == ["QUEUES", "STATE"]
    assert first.endswith("1        mail, default  working")
    assert second.endswith("draining: away")


def revisions_to_come(*breaking: bool) -> tuple[Revision, ...]:
    return tuple(Revision(n, f"number {n}", one) for n, one in enumerate(breaking, start=1))


@pytest.mark.parametrize(
    ("breaking", "blockers", "last"),
    [
        ((False,), [], "no breaking revision is pending; 0 of 2 do not know 0001, the newest"),
        (
            (False, False),
            [],
            "no breaking revision is pending; 1 of 2 do not know 0002, the newest: old pid 6",
        ),
        (
            (False, False, True, True),
            [1],
            "the next breaking revision, 0003 (number 3), waits for 1 of 2: old pid 6",
        ),
        (
            (False,) * 9 + (True,),
            [0, 1],
            "the next breaking revision, 0010 (number 10), waits for 2 of 2: new pid 5, old pid 6",
        ),
    ],
)
def test_whom_the_next_breaking_revision_waits_for(
    *,
    command: Command,
    fleet: list[str],
    monkeypatch: pytest.MonkeyPatch,
    breaking: tuple[bool, ...],
    blockers: list[int],
    last: str,
) -> None:
    monkeypatch.setattr("pgconductor.schema.revisions", lambda: revisions_to_come(*breaking))
    assert command("fleet").succeeds().out.splitlines()[-1] == last
    found = command("fleet", "--json").succeeds().json
    assert found["blockers"] == [fleet[place] for place in blockers]
    assert (found["next_breaking"] is None) == (not blockers)
