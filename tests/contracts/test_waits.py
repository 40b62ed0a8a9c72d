"""Waits: begun by the owner only, ended once, when their time or their child has come."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from pgconductor.domain.claims import Claim, Fetched
from pgconductor.domain.ids import new_id
from pgconductor.domain.steps import ChildSpec, Recorded, Started, StepKind, StepRecord
from pgconductor.domain.tasks import TaskOptions
from pgconductor.types import ExecutionState
from tests.contracts.harness import FAILURE, Harness
from tests.contracts.waits import (
    HOUR,
    begin,
    begin_child,
    child,
    ended,
    event,
    history,
    parent_and_child,
    settle,
    sleep,
    start,
)

TIMEOUT: dict[str, Any] = {"error_type": "(timeout)", "error": "it did not come in time"}
CHILD: dict[str, Any] = {"key": "child", "kind": StepKind.CHILD, "detail": "work"}


# --- timers --------------------------------------------------------------------------------------


async def test_a_sleep_ends_when_its_time_has_come(db: Harness) -> None:
    _, held = await db.running()
    (begun,) = await begin(db, start(held, "a", StepKind.SLEEP, delay=HOUR, place=3))
    assert begun.pending
    assert begun.remaining is not None
    assert timedelta(minutes=59) < begun.remaining <= HOUR
    assert (await settle(db, held)).ended == ()
    db.advance(HOUR)
    found = await settle(db, held)
    assert (found.wakes, found.ended) == (1, (Recorded(key="a", kind=StepKind.SLEEP),))
    (there,) = (await history(db, held)).values()
    assert (there.pending, there.place, there.result, there.error) == (False, 3, None, None)


async def test_a_sleep_may_end_at_an_instant(db: Harness) -> None:
    _, held = await db.running()
    now = await db.now()
    await begin(
        db,
        start(held, "past", StepKind.SLEEP, until=now - HOUR),
        start(held, "soon", StepKind.SLEEP, until=now + HOUR),
    )
    assert set(await ended(db, held)) == {"past"}
    db.advance(HOUR)
    assert set(await ended(db, held)) == {"past", "soon"}


async def test_what_has_begun_is_not_begun_again(db: Harness) -> None:
    """The answer was lost, or the handler is executed again: the time goes on."""
    _, held = await db.running()
    await begin(db, sleep(held))
    db.advance(HOUR / 2)
    (again,) = await begin(db, sleep(held))
    assert again.pending
    assert again.remaining is not None
    assert again.remaining <= HOUR / 2
    db.advance(HOUR / 2)
    await settle(db, held)
    (over,) = await begin(db, sleep(held))
    assert not over.pending


async def test_a_failed_try_waits_and_keeps_its_error(db: Harness) -> None:
    _, held = await db.running()
    begun = start(held, "charge#1", StepKind.TRY, delay=HOUR, failure=FAILURE)
    error = Recorded(
        key="charge#1", kind=StepKind.TRY, error_type=FAILURE.type, error=FAILURE.message
    )
    (there,) = await begin(db, begun)
    assert replace(there, remaining=None) == replace(error, pending=True)
    assert await ended(db, held) == {}
    db.advance(HOUR)
    assert await ended(db, held) == {"charge#1": error}
    assert replace((await history(db, held))["charge#1"], remaining=None) == error


async def test_what_is_on_record_is_told_apart(db: Harness) -> None:
    """A key that was a step is none that waits, and the other way round."""
    _, held = await db.running()
    await db.steps.record_many([StepRecord(held.id, held.claim, "a", "1")])
    (found,) = await begin(db, sleep(held, "a"))
    assert found == Recorded(key="a", result="1")
    await begin(db, sleep(held, "b"))
    (there,) = await db.steps.record_many([StepRecord(held.id, held.claim, "b", "1")])
    assert there == Recorded(key="b", kind=StepKind.SLEEP)


# --- children ------------------------------------------------------------------------------------


async def test_a_child_is_invoked_as_its_parent_says(db: Harness) -> None:
    await db.orchestrators.declare([TaskOptions("declared", max_attempts=7, max_crashes=2)], [])
    owner, held = await db.running()
    first = ChildSpec(new_id(), "children", 2, 5, 4)
    second = ChildSpec(new_id(), "children")
    async with db.notifications() as sent:
        await begin(
            db,
            child(held, "a", child=first, text="[1]"),
            # How long it is waited for says nothing about when it is due.
            child(held, "b", child=second, detail="declared", delay=HOUR),
        )
    assert sent == [("pgconductor_available", "children")]
    one, two = await db.fetch(owner, queue="children")
    assert (one.id, one.task_key, one.payload, one.priority) == (first.id, "work", "[1]", 2)
    assert (one.max_attempts, one.max_crashes) == (5, 4)
    assert (two.id, two.task_key, two.payload, two.priority) == (second.id, "declared", None, 0)
    assert (two.max_attempts, two.max_crashes) == (7, 2)
    assert one.parent_id == two.parent_id == held.id
    assert held.parent_id is None
    found = await db.get(first.id)
    assert (found.parent_id, found.parent_key) == (held.id, "a")


async def test_a_child_is_invoked_once(db: Harness) -> None:
    owner, held = await db.running()
    made = await begin_child(db, held)
    assert await begin_child(db, held) == made
    assert await db.fetch_ids(owner, queue="children") == [made]


async def test_a_child_of_the_same_key_twice_in_one_call(db: Harness) -> None:
    """The second is not invoked, and hears of the first."""
    owner, held = await db.running()
    one, two = await begin(db, child(held), child(held))
    assert one.child_id == two.child_id
    assert await db.fetch_ids(owner, queue="children") == [one.child_id]


async def test_a_child_that_completes(db: Harness) -> None:
    parent, made = await parent_and_child(db)
    assert await ended(db, parent) == {}
    async with db.notifications() as sent:
        await db.complete(made, {"a": 1})
    assert sent == [("pgconductor_finished", str(made.id))]
    assert await ended(db, parent) == {
        "child": Recorded(**CHILD, child_id=made.id, result='{"a": 1}')
    }
    assert await db.results(parent.id) == {"child": '{"a": 1}'}


async def test_a_child_without_a_result(db: Harness) -> None:
    parent, made = await parent_and_child(db)
    await db.complete(made)
    assert await ended(db, parent) == {"child": Recorded(**CHILD, child_id=made.id)}


async def test_a_child_that_fails(db: Harness) -> None:
    parent, made = await parent_and_child(db)
    await db.fail(made, retry_after=timedelta(0))
    assert await ended(db, parent) == {}, "it is tried again"
    (again,) = await db.fetch(await db.register(), queue="children")
    await db.fail(again)
    error: dict[str, Any] = {"error_type": FAILURE.type, "error": FAILURE.message}
    assert await ended(db, parent) == {"child": Recorded(**CHILD, child_id=made.id, **error)}


@pytest.mark.parametrize("reason", ["enough", None])
async def test_a_child_that_is_cancelled(db: Harness, reason: str | None) -> None:
    parent, made = await parent_and_child(db)
    await db.executions.cancel(made.id, reason=reason)
    assert await ended(db, parent) == {}, "its handler is still to end"
    await db.release(made)
    error: dict[str, Any] = {"error_type": "(cancelled)", "error": reason or ""}
    assert await ended(db, parent) == {"child": Recorded(**CHILD, child_id=made.id, **error)}


async def test_a_child_that_crashes_its_process(db: Harness) -> None:
    owner, parent = await db.running()
    other = await db.register()
    made = await begin_child(db, parent, child=ChildSpec(new_id(), "children", max_crashes=1))
    assert await db.fetch_ids(other, queue="children") == [made]
    await db.crash(other, owner)
    (again,) = await db.fetch(await db.register())
    (found,) = (await settle(db, again)).ended
    assert (found.key, found.error_type) == ("child", "ProcessCrashed")


async def test_a_child_that_does_not_end_in_time(db: Harness) -> None:
    """It goes on by itself; its parent has been told, and is told nothing else."""
    owner, parent = await db.running()
    made = await begin_child(db, parent, delay=HOUR)
    db.advance(HOUR)
    late = {"child": Recorded(**CHILD, child_id=made, **TIMEOUT)}
    assert await ended(db, parent) == late
    (fetched,) = await db.fetch(owner, queue="children")
    assert (await db.complete(fetched, 1)).state is ExecutionState.COMPLETED
    found = await settle(db, parent)
    assert (found.wakes, {one.key: one for one in found.ended}) == (1, late)
    assert (await db.steps.settle({parent.id: 1}))[0].ended == ()


async def test_a_child_that_ends_at_the_last_moment_is_not_late(db: Harness) -> None:
    owner, parent = await db.running()
    await begin_child(db, parent, delay=HOUR)
    (made,) = await db.fetch(owner, queue="children")
    await db.complete(made, 1)
    db.advance(HOUR)
    assert (await ended(db, parent))["child"].result == "1"


# --- what is not waited for ----------------------------------------------------------------------


async def test_a_spawned_execution_goes_its_own_way(db: Harness) -> None:
    owner, held = await db.running()
    spec = ChildSpec(new_id(), "children")
    spawned = start(held, "s", StepKind.SPAWN, detail="work", child=spec, delay=HOUR)
    async with db.notifications() as sent:
        (found,) = await begin(db, spawned)
    assert (found, sent) == (
        Recorded(key="s", kind=StepKind.SPAWN, detail="work", child_id=spec.id), [],
    )  # fmt: skip
    assert await begin(db, spawned) == [found]
    assert await db.fetch(owner, queue="children") == []
    db.advance(HOUR)
    (fetched,) = await db.fetch(owner, queue="children")
    assert (fetched.id, fetched.parent_id) == (spec.id, None)
    await db.complete(fetched)
    async with db.begin() as repositories:
        assert (await repositories.steps.due(limit=9)).execution_ids == ()
    there = await db.get(spec.id)
    assert (there.parent_id, there.parent_key) == (held.id, None)


async def test_an_event_is_emitted_once(db: Harness) -> None:
    _, held = await db.running()
    _, other = await db.running(task_key="other")
    await begin(db, event(other, "first"), event(other, "second"))
    emitted = start(held, "e", StepKind.EMIT, detail="paid", text="7")
    async with db.notifications() as sent:
        for _ in range(2):
            (found,) = await begin(db, emitted)
            assert found == Recorded(key="e", kind=StepKind.EMIT, detail="paid")
    assert sent == [("pgconductor_waits", "")]
    assert {key: one.result for key, one in (await ended(db, other)).items()} == {"first": "7"}


# --- who may -------------------------------------------------------------------------------------


def everything(held: Fetched) -> list[Any]:
    spawn = start(held, "d", StepKind.SPAWN, detail="w", child=ChildSpec(new_id(), "children"))
    emit = start(held, "e", StepKind.EMIT, detail="paid")
    return [sleep(held, "a"), child(held, "b"), event(held, "c"), spawn, emit]


@pytest.mark.parametrize("how", ["completed", "recovered", "other claim", "other orchestrator"])
async def test_nobody_else_begins_anything(db: Harness, how: str) -> None:
    """I1: no wait, no child, no event."""
    owner, held = await db.running()
    claim = held.claim
    match how:
        case "completed":
            await db.complete(held)
        case "recovered":
            await db.crash(owner)
        case "other claim":
            claim = Claim(claim.orchestrator_id, claim.number + 1)
        case _:
            claim = (await db.register()).next_claim()
    starts = [replace(one, claim=claim) for one in everything(held)]
    async with db.notifications() as sent:
        assert await db.steps.start_many(starts) == [Started(False, None)] * len(starts)
    assert sent == []
    assert await history(db, held) == {}
    async with db.begin() as repositories:
        assert (await repositories.steps.due(limit=9)).event_ids == ()
    assert len((await db.executions.list()).items) == 1


async def test_of_many_only_the_owners_begin(db: Harness) -> None:
    owner = await db.register()
    await db.invoke_several(2)
    one, two = await db.fetch(owner)
    stale = Claim(one.claim.orchestrator_id, one.claim.number + 1)
    lost, kept = await db.steps.start_many([replace(sleep(one), claim=stale), sleep(two)])
    assert lost == Started(False, None)
    assert kept.held
    assert (await history(db, one), set(await history(db, two))) == ({}, {"sleep"})


async def test_what_is_to_be_cancelled_begins_no_child(db: Harness) -> None:
    """Whoever cancels it has cancelled its children by then."""
    owner, held = await db.running()
    made = await begin_child(db, held, "b")
    await db.executions.cancel(held.id)
    a, b, c, d, e = await db.steps.start_many(everything(held))
    assert (a.held, c.held, e.held) == (True, True, True)
    assert None not in (a.recorded, c.recorded, e.recorded)
    assert d == Started(True, None)
    assert b.recorded is not None
    assert b.recorded.child_id == made, "that one was there before"
    assert set(await history(db, held)) == {"a", "b", "c", "e"}
    assert await db.fetch(owner, queue="children") == []


async def test_histories_are_in_the_order_of_beginning(db: Harness) -> None:
    _, held = await db.running()
    for key in ("z", "a", "m"):
        await begin(db, sleep(held, key))
        db.advance(timedelta(seconds=1))
    assert list(await history(db, held)) == ["z", "a", "m"]
    found = await db.steps.histories([new_id(), held.id])
    assert set(found) == {held.id}
