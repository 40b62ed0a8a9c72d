"""What only the fake has: its turns, its constraints, its listeners."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import fields, replace
from datetime import timedelta
from typing import Any

import pytest

from pgconductor.domain.invocations import Invocation, Invoked
from pgconductor.domain.orchestrators import OrchestratorSnapshot
from pgconductor.domain.outcomes import Completed
from pgconductor.domain.steps import StepRecord
from pgconductor.exceptions import InvalidPayload, SchemaMissing
from pgconductor.models import Base, Event, Execution, Orchestrator, Step
from pgconductor.services import ExecutionService, OrchestratorService, UnitOfWork
from pgconductor.testing import (
    EventRow,
    ExecutionRow,
    FakeDatabase,
    FakeUnitOfWork,
    StepRow,
    VirtualClock,
)
from pgconductor.testing.turns import Turns
from pgconductor.types import ExecutionState
from tests.contracts.harness import FakeHarness


def keyed() -> Invocation:
    return Invocation(task_key="greet", dedupe_key="k")


@pytest.mark.parametrize(
    ("row", "model"),
    [
        (ExecutionRow, Execution),
        (StepRow, Step),
        (EventRow, Event),
        (OrchestratorSnapshot, Orchestrator),
    ],
)
def test_the_rows_have_the_columns_of_the_models(row: Any, model: type[Base]) -> None:
    columns = {field.name for field in fields(row) if not field.name.startswith("_")}
    # What the server keeps only to order waits, and to spare itself looks: rows are numbered here.
    assert columns | ({"looked", "ordinal"} if model is Step else set()) == set(
        model.__table__.columns.keys()
    )


async def test_it_starts_empty_and_at_its_clocks_time() -> None:
    clock = VirtualClock()
    database = FakeDatabase(clock)
    service = ExecutionService(FakeUnitOfWork(database))
    assert (dict(database.executions), dict(database.orchestrators)) == ({}, {})
    invoked = await service.invoke("greet", 1)
    await OrchestratorService(FakeUnitOfWork(database)).register()
    assert database.executions[invoked.id].created_at == clock.now()
    assert len(database.orchestrators) == 1
    assert isinstance(FakeUnitOfWork(), UnitOfWork)


async def test_without_a_schema_every_call_says_so() -> None:
    database = FakeDatabase(schema=None)
    executions = ExecutionService(FakeUnitOfWork(database))
    orchestrators = OrchestratorService(FakeUnitOfWork(database))
    with pytest.raises(SchemaMissing):
        await executions.invoke("greet")
    with pytest.raises(SchemaMissing):
        await executions.list()
    with pytest.raises(SchemaMissing):
        await orchestrators.register()
    with pytest.raises(SchemaMissing):
        await orchestrators.schema_status()


async def test_a_rows_constraints_hold() -> None:
    db = FakeHarness(FakeDatabase())
    there = await db.invoke()
    row = db.database.executions[there]
    for values in (
        {"state": ExecutionState.RUNNING},
        {"state": ExecutionState.COMPLETED},
        {"result": "1"},
        {"attempts": 4},
        {"crashes": -1},
        {"finished_at": row.created_at},
        {"state": ExecutionState.CANCELLED, "finished_at": row.created_at},
        {"state": ExecutionState.FAILED, "finished_at": row.created_at},
    ):
        with pytest.raises(ValueError, match="violates executions_"):
            replace(row, **values)


@pytest.mark.parametrize("value", ["", "{", "NaN", "[Infinity]", "nope", "'single'"])
async def test_what_is_no_json_is_refused(value: str) -> None:
    """A test must not pass on what the real column would not take."""
    db = FakeHarness(FakeDatabase())
    with pytest.raises(InvalidPayload, match="payload"):
        await db.executions.invoke_many([Invocation(task_key="greet", payload=value)])
    assert dict(db.database.executions) == {}
    _, held = await db.running()
    with pytest.raises(InvalidPayload, match="result"):
        await db.report(Completed(held.id, held.claim, value))
    async with db.begin() as repositories:
        with pytest.raises(InvalidPayload, match="result"):
            await repositories.steps.record(StepRecord(held.id, held.claim, "a", value))
    assert (await db.get(held.id)).state is ExecutionState.RUNNING
    assert dict(db.database.steps) == {}


async def test_listeners_hear_commits_until_they_stop() -> None:
    db = FakeHarness(FakeDatabase())
    heard: list[tuple[str, str]] = []
    stop = db.database.listen(lambda channel, payload: heard.append((channel, payload)))
    await db.invoke(queue="a")
    async with db.rolled_back() as repositories:
        await repositories.executions.add_many([keyed()])
    stop()
    await db.invoke(queue="b")
    assert heard == [("pgconductor_available", "a")]


# --- transactions --------------------------------------------------------------------------------


@pytest.mark.parametrize("commits", [True, False])
async def test_a_second_writer_waits_for_the_first(commits: bool) -> None:
    """I8, as PostgreSQL has it: the second sees what the first has made of it."""
    db = FakeHarness(FakeDatabase())
    wrote, finish = asyncio.Event(), asyncio.Event()

    async def first() -> Invoked:
        async with db.begin() if commits else db.rolled_back() as repositories:
            (answer,) = await repositories.executions.add_many([keyed()])
            wrote.set()
            await finish.wait()
        return answer

    async def second() -> Invoked:
        await wrote.wait()
        return await db.executions.invoke("greet", dedupe_key="k")

    async with asyncio.TaskGroup() as group:
        one, two = group.create_task(first()), group.create_task(second())
        await wrote.wait()
        # A reader does not wait.
        assert (await db.executions.list()).items == []
        assert not two.done()
        finish.set()
    made, answer = one.result(), two.result()
    assert made.created
    assert answer == Invoked(made.id, created=False) if commits else answer.created


async def test_fifty_writers_with_one_key() -> None:
    """I8: rollbacks among them."""
    db = FakeHarness(FakeDatabase())
    answers: list[Invoked] = []

    async def session(number: int) -> None:
        async with db.begin() if number % 3 else db.rolled_back() as repositories:
            (answer,) = await repositories.executions.add_many([keyed()])
            await asyncio.sleep(0)
        if number % 3:
            answers.append(answer)

    async with asyncio.TaskGroup() as group:
        for number in range(50):
            group.create_task(session(number))
    assert {one.id for one in answers} == set(db.database.executions)
    assert (len(answers), sum(one.created for one in answers)) == (33, 1)


async def test_who_would_wait_for_itself_is_told() -> None:
    """I9."""
    db = FakeHarness(FakeDatabase())
    async with db.rolled_back() as repositories:
        await repositories.executions.add_many([keyed()])
        assert (await db.executions.list()).items == []
        with pytest.raises(RuntimeError, match="this very task"):
            await db.invoke()
    assert (await db.executions.invoke("greet", dedupe_key="k")).created


async def test_a_transaction_that_only_reads_lets_others_write() -> None:
    db = FakeHarness(FakeDatabase())
    async with db.begin() as repositories:
        there = await db.invoke()
        # Read committed: it sees what has committed meanwhile.
        assert await repositories.executions.get_one_or_none(there) is not None


async def test_turns_are_bounded() -> None:
    """I9."""
    turns = Turns(timeout=0.01)
    await asyncio.create_task(turns.take())
    with pytest.raises(TimeoutError):
        await turns.take()
    turns.give()
    await turns.take()


async def test_a_waiter_that_is_cancelled_loses_its_place() -> None:
    turns = Turns()
    order: list[str] = []

    async def one(name: str) -> None:
        await turns.take()
        order.append(name)
        turns.give()

    await turns.take()
    first, second, third = [asyncio.create_task(one(name)) for name in ("a", "b", "c")]
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.sleep(0)
    turns.give()
    await asyncio.gather(first, third)
    assert (order, second.cancelled()) == (["a", "c"], True)
    await turns.take()


async def test_a_waiter_that_is_cancelled_as_its_turn_comes_hands_it_on() -> None:
    turns = Turns()
    await turns.take()
    first = asyncio.create_task(turns.take())
    second = asyncio.create_task(turns.take())
    await asyncio.sleep(0)
    turns.give()  # to the first, which has not noticed yet
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await second


async def test_turns_pass_between_event_loops() -> None:
    """An orchestrator beats in a thread of its own, with a loop of its own."""
    db = FakeHarness(FakeDatabase())
    owner = await db.register()
    beats: list[int] = []

    async def beat() -> None:
        for _ in range(50):
            answer = await db.orchestrators.heartbeat(owner)
            beats.append(answer.number)

    thread = threading.Thread(target=lambda: asyncio.run(beat()))
    thread.start()
    while thread.is_alive():
        await db.invoke()
    thread.join()
    assert beats == list(range(1, 51))


async def test_time_passes_only_by_its_clock() -> None:
    """I6."""
    clock = VirtualClock()
    service = ExecutionService(FakeUnitOfWork(FakeDatabase(clock)))
    before = clock.now()
    invoked = await service.invoke("greet", delay=timedelta(days=1))
    assert (await service.get(invoked.id)).run_at == before + timedelta(days=1)
