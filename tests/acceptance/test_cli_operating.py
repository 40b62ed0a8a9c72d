"""Executions that remember and wait, as an operator sees and handles them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from pgconductor.cli import ExitCode
from pgconductor.domain.ids import new_id
from pgconductor.domain.outcomes import Failed, Failure, Suspended
from pgconductor.domain.steps import ChildSpec, StepKind, StepRecord, StepStart
from pgconductor.services import ExecutionService, OrchestratorService
from pgconductor.services.steps import StepService
from tests.acceptance.test_cli_support import Ended, call
from tests.support.servers import connect

Command = Callable[..., Ended]
DAY = timedelta(days=1)


@pytest.fixture
def command(database_url: str) -> Command:
    return partial(call, url=database_url)


async def waiting_order(url: str) -> tuple[UUID, UUID]:
    """An execution that has two steps on record and waits for an event and a failing child."""
    engine = create_async_engine(url)
    executions, steps = ExecutionService(engine), StepService(engine)
    try:
        owner = await OrchestratorService(engine).register()
        await executions.invoke("checkout", {"id": 1}, queue="orders", priority=3)
        (held,) = await executions.fetch(owner, queue="orders")
        for key, result in (("charge", '{"charge_id": "ch_1"}'), ("book", json.dumps("x" * 500))):
            await steps.record_many([StepRecord(held.id, held.claim, key, result)])
        begin = partial(StepStart, execution_id=held.id, claim=held.claim)
        packing = ChildSpec(new_id(), "packing", max_attempts=1)
        await steps.start_many(
            [
                begin(
                    key="paid",
                    kind=StepKind.EVENT,
                    detail="payment/paid",
                    text='{"order": 1}',
                    delay=DAY,
                ),
                begin(key="pack", kind=StepKind.CHILD, detail="pack", child=packing),
            ]
        )
        (packer,) = await executions.fetch(owner, queue="packing")
        nap = StepStart(
            execution_id=packer.id,
            claim=packer.claim,
            key="nap",
            kind=StepKind.SLEEP,
            delay=DAY,
        )
        await steps.start_many([nap])
        broken = Failed(packer.id, packer.claim, Failure("ValueError", "no\x1b[31m box", ""), None)
        await executions.complete([Suspended(held.id, held.claim, 0), broken])
        return held.id, packing.id
    finally:
        await engine.dispose()


@pytest.fixture
def order(database_url: str) -> tuple[str, str]:
    held, packing = asyncio.run(waiting_order(database_url))
    return str(held), str(packing)


def test_show_draws_a_tree(command: Command, order: tuple[str, str]) -> None:
    made, packing = order
    shown = command("show", made).succeeds().out
    _, _, drawn = shown.partition("\n\n")
    when = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+0000"
    # Its parent has not been told yet.
    expected = [
        r'├── charge \[step\] \{"charge_id": "ch_1"\}',
        r'├── book \[step\] "x{118}…',
        rf"├── pack \[child\] pack waits since {when}",
        rf"│   └── pack {packing} failed attempts 1/1 ValueError: no box",
        # A failed one waits for nothing any more.
        rf"│       └── nap \[sleep\] waited since {when}",
        rf'└── paid \[event\] payment/paid \{{"order": 1\}} waits since {when} until {when}',
    ]
    assert re.fullmatch("\n".join(expected), drawn.rstrip()), drawn
    cut = command("show", made, "--depth", "0").succeeds().out
    assert "└── … 1 child not shown" in cut

    found = command("show", made, "--json").succeeds().json
    assert found["payload"] == {"id": 1}
    keys = {one["key"]: one for one in found["steps"]}
    assert keys["charge"]["result"] == {"charge_id": "ch_1"}
    assert (keys["paid"]["pending"], keys["paid"]["match"]) == (True, {"order": 1})
    (child,) = found["children"]
    assert (child["key"], child["execution"]["id"]) == ("pack", packing)
    assert child["waits"][0]["key"] == "nap"
    assert found["hidden"] == 0


def test_waiting(command: Command, order: tuple[str, str]) -> None:
    made, packing = order
    found = command("waiting", "--json").succeeds().json
    (of,) = found["executions"]
    assert (of["execution_id"], of["count"], found["next"]) == (made, 2, None)
    rows = of["waits"]
    assert {(one["key"], one["kind"]) for one in rows} == {("paid", "event"), ("pack", "child")}
    table = command("waiting", "--queue", "orders", "--task", "checkout").succeeds().out
    heads, *lines = table.splitlines()
    assert heads.split() == ["ID", "TASK", "QUEUE", "WAITS", "KEY", "KIND", "FOR", "SINCE", "UNTIL"]
    assert [line.split()[0] == made for line in lines] == [True, False]
    assert packing in table
    assert 'payment/paid {"order": 1}' in table
    assert {one["key"]: one["match"] for one in rows} == {"paid": {"order": 1}, "pack": None}
    short = command("waiting", "--waits", "1").succeeds().out
    assert short.splitlines()[-1].strip() == "… 1 more"
    assert command("waiting", "--queue", "other", "--json").json == {
        "executions": [],
        "next": None,
    }
    command("waiting", "--queue", "Other").fails(ExitCode.USAGE, "queue")


async def waiting_for_nothing(url: str, number: int) -> list[str]:
    engine = create_async_engine(url)
    executions, steps = ExecutionService(engine), StepService(engine)
    try:
        owner = await OrchestratorService(engine).register()
        for _ in range(number):
            await executions.invoke("wait")
        fetched = await executions.fetch(owner, limit=number)
        for one in fetched:
            wait = StepStart(
                execution_id=one.id, claim=one.claim, key="go", kind=StepKind.EVENT, detail="go"
            )
            await steps.start_many([wait])
        await executions.complete([Suspended(one.id, one.claim, 0) for one in fetched])
        return [str(one.id) for one in fetched]
    finally:
        await engine.dispose()


def test_waiting_page_by_page(command: Command, database_url: str) -> None:
    made = asyncio.run(waiting_for_nothing(database_url, 3))
    first = command("waiting", "--limit", "2").succeeds()
    _, option, place = first.err.split()
    assert option == "--after"
    rest = command("waiting", "--limit", "2", option, place).succeeds()
    assert rest.err == ""
    ids = [line.split()[0] for one in (first, rest) for line in one.out.splitlines()[1:]]
    assert sorted(ids) == sorted(made)
    page = command("waiting", "--limit", "1", "--json").json
    found = [one["execution_id"] for one in page["executions"]]
    while page["next"] is not None:
        page = command("waiting", "--limit", "1", "--json", "--after", page["next"]).json
        found += [one["execution_id"] for one in page["executions"]]
    assert found == ids
    command("waiting", "--after", "yesterday").fails(ExitCode.USAGE, "after")


def test_fork_retry_and_cancel(command: Command, order: tuple[str, str]) -> None:
    made, packing = order
    forked = command("fork", made, "--from-step", "book").succeeds().out.strip()
    found = command("show", forked, "--json").succeeds().json
    assert (found["state"], found["queue"], found["priority"]) == ("available", "orders", 3)
    assert [one["key"] for one in found["steps"]] == ["charge"]
    fresh = command("fork", made, "--json").succeeds().json["id"]
    assert command("show", fresh, "--json").json["steps"] == []
    command("fork", made, "--from-step", "bok").fails(ExitCode.NOT_FOUND, "'bok'", "show")
    command("fork", str(new_id())).fails(ExitCode.NOT_FOUND)

    command("cancel", made).succeeds()
    command("retry", made, "--from-step", "bok").fails(ExitCode.NOT_FOUND, "'bok'")
    command("retry", made, "--from-step", "book", "--from-scratch").fails(ExitCode.USAGE, "both")
    command("retry", made, "--from-step", "book").succeeds()
    kept = command("show", made, "--json").json
    assert [one["key"] for one in kept["steps"]] == ["charge"]
    # Its step is dropped, and it is there all the same.
    assert [one["execution"]["id"] for one in kept["children"]] == [packing]


def test_a_retry_names_the_errors_that_it_keeps(command: Command, database_url: str) -> None:
    async def failed() -> str:
        engine = create_async_engine(database_url)
        executions, steps = ExecutionService(engine), StepService(engine)
        try:
            owner = await OrchestratorService(engine).register()
            await executions.invoke("checkout", max_attempts=1)
            (held,) = await executions.fetch(owner)
            failure = Failure("ValueError", "no stock", "")
            for key, error in (("it's a step", failure), ("tell", None)):
                await steps.record_many([StepRecord(held.id, held.claim, key, failure=error)])
            await executions.complete([Failed(held.id, held.claim, failure, None)])
            await OrchestratorService(engine).leave(owner)
            return str(held.id)
        finally:
            await engine.dispose()

    made = asyncio.run(failed())
    done = command("retry", made).succeeds()
    assert done.out == f"{made} available\n"
    assert 'kept: the error of "it\'s a step"' in done.err
    assert """--from-step 'it'"'"'s a step'""" in done.err
    command("cancel", made).succeeds()
    assert command("retry", made, "--from-step", "it's a step").succeeds().err == ""


@pytest.mark.parametrize(("option", "state"), [([], "cancelled"), (["--keep-children"], "waiting")])
def test_children_are_cancelled_unless_kept(
    command: Command, database_url: str, order: tuple[str, str], option: list[str], state: str
) -> None:
    made, packing = order
    with connect(database_url) as connection:
        connection.execute(
            "UPDATE pgconductor.executions SET state = 'waiting', finished_at = NULL,"
            " finished_by = NULL, finished_claim = NULL WHERE id = %s",
            (packing,),
        )
    assert command("cancel", made, *option).succeeds().out == f"{made} cancelled\n"
    found = command("show", packing, "--json").json
    assert found["state"] == state
    assert (found["cancel_reason"] is None) is (state == "waiting")


def test_emit(command: Command, database_url: str) -> None:
    made = command("emit", "payment/paid", '{"order": 1}').succeeds().out.strip()
    again = command("emit", "paid", "--json").succeeds().json["id"]
    piped = command("emit", "paid", "-", stdin='["ä"]').succeeds().out.strip()
    with connect(database_url) as connection:
        rows = connection.execute("SELECT id, name, payload, matched FROM pgconductor.events")
        found = {str(row[0]): row[1:] for row in rows}
    assert found == {
        made: ("payment/paid", {"order": 1}, False),
        again: ("paid", None, False),
        piped: ("paid", ["ä"], False),
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("1st",), ("event", "'1st'")),
        (("a b",), ("event",)),
        (("paid", "{"), ("no JSON",)),
        (("paid", '"\\u0000"'), ("payload", "NUL")),
        (("paid", "[1e999]"), ("payload", "non-finite")),
        (("paid", json.dumps("x" * 300_000)), ("payload", "limit")),
    ],
)
def test_what_cannot_be_emitted(
    command: Command, database_url: str, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    command("emit", *arguments).fails(ExitCode.USAGE, *words)
    with connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM pgconductor.events").fetchone() == (0,)
