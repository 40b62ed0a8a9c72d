"""What the commands do when all is well; in this process, for that is faster."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest

from pgconductor.cli import ExitCode
from tests.acceptance.test_cli_support import Ended, call, call_process
from tests.support.servers import connect

Command = Callable[..., Ended]


@pytest.fixture
def command(database_url: str) -> Command:
    return partial(call, url=database_url)


def invoked(command: Command, *arguments: str) -> str:
    return command("invoke", *arguments).succeeds().out.strip()


def test_invoke_show_cancel_retry(command: Command) -> None:
    made = invoked(command, "thank", "--payload", '{"email": "a@example.org"}', "--queue", "mail")
    found = command("show", made, "--json").succeeds().json
    assert found["id"] == str(UUID(made)) == made
    assert found["state"] == "available"
    assert found["payload"] == {"email": "a@example.org"}
    assert found["queue"] == "mail"
    assert found["steps"] == []
    assert "a@example.org" in command("show", made).succeeds().out

    assert command("cancel", made, "--reason", "test").succeeds().out == f"{made} cancelled\n"
    command("cancel", made).fails(ExitCode.REFUSED, "cancelled already")
    assert command("show", made, "--json").json["cancel_reason"] == "test"

    again = command("retry", made, "--from-scratch", "--json").succeeds().json
    assert again["state"] == "available"
    command("retry", made).fails(ExitCode.REFUSED, "available", "only a failed or cancelled")


def test_payload_from_file_and_from_standard_input(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "payload.json"
    file.write_text('["ä"]', encoding="utf-8")
    made = [invoked(command, "a", "--payload-file", str(file))]
    made.append(command("invoke", "a", "--payload", "-", stdin="[1]").out.strip())
    made.append(command("invoke", "a", "--payload-file", "-", stdin="[2]").out.strip())
    made.append(invoked(command, "a"))
    shown = [command("show", one, "--json").json["payload"] for one in made]
    assert shown == [["ä"], [1], [2], None]


def test_invoking_one_more_after_the_one_at_work(command: Command) -> None:
    options = ("--dedupe-key", "k", "--dedupe-scope", "unstarted", "--json")
    first = command("invoke", "a", "--payload", "1", *options).json
    again = command("invoke", "a", "--payload", "2", *options, "--dedupe-replace").json
    assert again == {"id": first["id"], "created": False}
    assert command("show", first["id"], "--json").json["payload"] == 2
    command("invoke", "a", "--dedupe-key", "k", "--dedupe-replace").fails(
        ExitCode.USAGE, "dedupe_replace"
    )


def test_the_options_of_invoke(command: Command) -> None:
    options = ("--priority", "7", "--dedupe-key", "k", "--max-attempts", "9", "--json")
    first = command("invoke", "a", "--run-at", "2999-01-01T00:00:00+01:00", *options).json
    second = command("invoke", "a", *options).json
    assert (first["created"], second["created"]) == (True, False)
    assert first["id"] == second["id"]
    found = command("show", first["id"], "--json").json
    assert found["run_at"] == "2998-12-31T23:00:00+00:00"
    assert (found["priority"], found["max_attempts"], found["dedupe_key"]) == (7, 9, "k")
    late = [
        command("show", invoked(command, "b", "--delay", delay), "--json").json
        for delay in ("3600", "PT1H")
    ]
    assert all(one["run_at"] > one["created_at"] for one in late)


def test_invoke_checks_by_the_application(command: Command, tmp_path: Path) -> None:
    (tmp_path / "checked_app.py").write_text(
        "from pgconductor import Conductor, TaskContext\n"
        "conductor = Conductor()\n"
        "@conductor.task(queue='orders', max_attempts=8)\n"
        "async def order(ctx: TaskContext, number: int) -> int:\n"
        "    return number\n"
    )
    app = ("--app", "checked_app:conductor", "--app-dir", str(tmp_path))
    found = command("show", invoked(command, "order", "--payload", "5", *app), "--json").json
    assert (found["queue"], found["payload"], found["max_attempts"]) == ("orders", 5, 8)
    command("invoke", "order", "--payload", '"x"', *app).fails(ExitCode.USAGE, "payload", "integer")
    command("invoke", "ordr", "--payload", "5", *app).fails(ExitCode.NOT_FOUND, "ordr", "order")


def test_invoke_waits_no_longer_than_it_is_told(command: Command) -> None:
    ended = command("invoke", "nobody/serves.this", "--wait", "0.1")
    assert ended.code == ExitCode.TIMEOUT
    given, line = ended.err.strip().splitlines()
    assert str(UUID(given)) == given
    assert "did not finish" in line


def test_list_filters_and_pages(command: Command) -> None:
    made = [invoked(command, "a", "--queue", queue) for queue in ("one", "one", "two")]
    invoked(command, "b", "--queue", "two")
    command("cancel", made[0]).succeeds()

    def ids(*arguments: str) -> list[str]:
        return [one["id"] for one in command("list", "--json", *arguments).succeeds().json]

    assert ids("--task", "a") == made[::-1]
    assert ids("--queue", "one") == [made[1], made[0]]
    assert ids("--state", "cancelled") == [made[0]]
    assert ids("--state", "cancelled", "--state", "available", "--task", "a") == made[::-1]
    assert ids("--until", "2020-01-01T00:00:00Z") == []
    assert len(ids("--since", "2020-01-01T00:00:00Z")) == 4
    page = command("list", "--task", "a", "--limit", "2")
    assert page.out.splitlines()[0].split()[:3] == ["ID", "STATE", "TASK"]
    assert f"--after {made[1]}" in page.err
    assert ids("--task", "a", "--limit", "2", "--after", made[1]) == [made[0]]


def test_nothing_that_a_terminal_would_obey(command: Command, database_url: str) -> None:
    made = invoked(command, "a")
    with connect(database_url) as connection:
        connection.execute(
            "UPDATE pgconductor.executions SET state = 'failed', finished_at = now(),"
            " last_error_type = 'ValueError', last_error = %s, last_error_traceback = %s",
            ("\x1b[31mred\x1b[0m \x1b]0;title\x07 \u202eright\x9b2J", "one\ntwo\x1b[2J"),
        )
    for ended in (command("list"), command("show", made), command("show", made, "--json")):
        shown = ended.succeeds().out
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(shown)
        assert "ValueError" in shown
    assert command("show", made, "--json").json["last_error"].startswith("\x1b[31m")


def test_queues(command: Command) -> None:
    invoked(command, "a", "--queue", "one")
    (queue,) = command("queues", "--json").succeeds().json
    assert (queue["name"], queue["available"], queue["failed"]) == ("one", 1, 0)
    assert "one" in command("queues").succeeds().out


def test_migrate_and_current(empty_database_url: str) -> None:
    behind = call("current", "--json", url=empty_database_url)
    assert behind.code == ExitCode.SCHEMA_BEHIND
    assert behind.json["installed"] is None
    assert behind.json["pending"][0]["version"] == 1
    assert isinstance(behind.json["pending"][0]["breaking"], bool)
    listed = call("list", url=empty_database_url)
    listed.fails(ExitCode.SCHEMA_BEHIND, "pgconductor migrate")

    migrated = call("migrate", "--database-url", empty_database_url).succeeds()
    assert migrated.out.startswith("nothing → 0")
    assert "nothing to do" in call("--database-url", empty_database_url, "migrate").out
    current = call("current", "--json", url=empty_database_url).succeeds().json
    assert current["installed"] == current["known"]
    assert current["pending"] == []
    call("migrate", "--to", "9999", url=empty_database_url).fails(ExitCode.USAGE, "9999", "0001")

    with connect(empty_database_url) as connection:
        # As newer releases leave it: version table, ledger and gate say the same.
        connection.execute(
            "INSERT INTO pgconductor.schema_migrations (version, name, breaking)"
            " SELECT n, 'x', n = 98 FROM generate_series(2, 99) n;"
            "UPDATE pgconductor.schema_gate SET installed = 99, floor = 98;"
            "UPDATE pgconductor.pgconductor_version SET version_num = '0099'"
        )
    assert call("current", url=empty_database_url).code == ExitCode.SCHEMA_TOO_NEW
    call("migrate", url=empty_database_url).fails(ExitCode.SCHEMA_TOO_NEW, "0099", "newer")


def test_migrate_prints_sql_without_a_database() -> None:
    script = call_process("migrate", "--sql").succeeds().out
    assert "CREATE TABLE pgconductor.executions" in script


def test_json_is_the_whole_output(command: Command) -> None:
    made = invoked(command, "a")
    for arguments in (["list"], ["show", made], ["queues"], ["fleet"], ["current"]):
        json.loads(command(*arguments, "--json").succeeds().out)
    json.loads(command("cancel", made, "--json").out)
