"""Parents and children: cancelled together, retried by themselves, kept until their end is told."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest

from pgconductor.domain.claims import Fetched, Registration
from pgconductor.domain.ids import new_id
from pgconductor.domain.retention import Retention
from pgconductor.domain.steps import ChildSpec, StepKind, StepRecord
from pgconductor.exceptions import ExecutionNotFound, StepNotFound
from pgconductor.types import ExecutionState
from tests.contracts.harness import FAILURE, Harness
from tests.contracts.waits import (
    HOUR,
    begin,
    begin_child,
    cancel_alone,
    emit,
    ended,
    event,
    history,
    parent_and_child,
    retry_from,
    settle,
    sleep,
    start,
    suspend,
)

SECOND = timedelta(seconds=1)
AVAILABLE, RUNNING = ExecutionState.AVAILABLE, ExecutionState.RUNNING
CANCELLED, FAILED = ExecutionState.CANCELLED, ExecutionState.FAILED
WAITING, COMPLETED = ExecutionState.WAITING, ExecutionState.COMPLETED


async def states(db: Harness, *executions: UUID) -> list[ExecutionState]:
    return [(await db.get(one)).state for one in executions]


async def cancel_child(db: Harness, child: UUID, parent: UUID) -> bool:
    async with db.begin() as repositories:
        return await repositories.executions.cancel(child, parent_id=parent)


# --- cancel --------------------------------------------------------------------------------------


async def generations(db: Harness) -> tuple[Registration, list[Fetched]]:
    """Three generations, all of them suspended but the last, which is running."""
    owner, first = await db.running()
    line = [first]
    for _ in range(2):
        await begin_child(db, line[-1])
        (made,) = await db.fetch(owner, queue="children")
        await suspend(db, line[-1])
        line.append(made)
    return owner, line


async def test_children_are_cancelled_with_their_parent(db: Harness) -> None:
    """And theirs; a handler that is running is asked to end."""
    owner, (first, second, third) = await generations(db)
    async with db.notifications() as sent:
        assert await db.executions.cancel(first.id, reason="enough")
    assert set(sent) == {
        ("pgconductor_finished", str(second.id)),
        ("pgconductor_control", str(owner.orchestrator_id)),
        ("pgconductor_waits", ""),
    }
    assert await states(db, first.id, second.id, third.id) == [CANCELLED, CANCELLED, RUNNING]
    assert (await db.orchestrators.heartbeat(owner)).cancellations == {third.id}
    reasons = [(await db.get(one.id)).cancel_reason for one in (first, second, third)]
    assert reasons == ["enough", "its parent was cancelled", "its parent was cancelled"]
    assert (await db.complete(third)).state is CANCELLED


async def test_children_may_be_left_alone(db: Harness) -> None:
    _, (first, second, third) = await generations(db)
    assert await cancel_alone(db, second.id)
    assert await states(db, first.id, second.id, third.id) == [WAITING, CANCELLED, RUNNING]
    await db.complete(third)
    await db.steps.settle_due()
    assert await states(db, first.id, second.id, third.id) == [AVAILABLE, CANCELLED, COMPLETED]


async def test_a_parent_is_not_cancelled_with_its_child(db: Harness) -> None:
    _, (first, second, third) = await generations(db)
    async with db.notifications() as sent:
        assert await db.executions.cancel(second.id)
    assert ("pgconductor_waits", "") in sent
    assert await states(db, first.id, second.id, third.id) == [WAITING, CANCELLED, RUNNING]
    await db.steps.settle_due()
    assert (await db.get(first.id)).state is AVAILABLE
    assert (await history(db, first))["child"].error_type == "(cancelled)"


async def test_what_is_not_waited_for_is_not_cancelled(db: Harness) -> None:
    owner, parent = await db.running()
    spec = ChildSpec(new_id(), "spawned")
    await begin(db, start(parent, "s", StepKind.SPAWN, detail="work", child=spec))
    done = await begin_child(db, parent, "done")
    (made,) = await db.fetch(owner, queue="children")
    await db.complete(made)
    waiting = await begin_child(db, parent, "waiting")
    await db.executions.cancel(parent.id)
    assert await states(db, spec.id, done, waiting) == [AVAILABLE, COMPLETED, CANCELLED]


async def test_what_has_finished_takes_no_children_with_it(db: Harness) -> None:
    """I7: a cancellation that comes too late changes nothing at all."""
    parent, made = await parent_and_child(db)
    await db.complete(parent)
    assert not await db.executions.cancel(parent.id)
    found = await db.get(made.id)
    assert (found.state, found.cancel_requested_at) == (RUNNING, None)


async def test_children_of_what_is_already_asked_to_end(db: Harness) -> None:
    """The second time with its children."""
    parent, made = await parent_and_child(db)
    assert await cancel_alone(db, parent.id)
    assert (await db.get(made.id)).cancel_requested_at is None
    assert await db.executions.cancel(parent.id)
    assert (await db.get(made.id)).cancel_requested_at is not None


# --- retry ---------------------------------------------------------------------------------------


async def test_what_can_only_fail_again_is_dropped(db: Harness) -> None:
    owner, held = await db.running()
    for key in ("completed", "failed", "pending"):
        await begin_child(db, held, key)
    good, bad, pending = await db.fetch(owner, queue="children")
    await db.complete(good, 1)
    await settle(db, held)
    await db.steps.record_many([StepRecord(held.id, held.claim, "step", "2")])
    db.advance(SECOND)
    await begin(
        db,
        start(held, "try", StepKind.TRY, delay=HOUR, failure=FAILURE),
        sleep(held),
        event(held),
        event(held, "timed out", detail="other", delay=timedelta(0)),
    )
    await db.steps.record_many([StepRecord(held.id, held.claim, "broken", failure=FAILURE)])
    await db.fail(bad)
    await settle(db, held)
    # Its parent is not told any more.
    await db.fail(pending)
    await db.fail(held)
    assert len(await history(db, held)) == 9
    assert await db.executions.retry(held.id)
    found = await history(db, held)
    assert {key: one.pending for key, one in found.items()} == {
        "completed": False, "step": False, "sleep": True, "event": True,
    }  # fmt: skip
    assert await db.results(held.id) == {
        "completed": "1", "step": "2", "sleep": None, "event": None,
    }  # fmt: skip


async def test_what_was_dealt_with_is_kept(db: Harness) -> None:
    """A handler that has caught an error and gone on goes on from there, for instance undoing."""
    _, held = await db.running()
    await db.steps.record_many([StepRecord(held.id, held.claim, "broken", failure=FAILURE)])
    await begin(db, event(held, "timed out", detail="other", delay=timedelta(0)))
    await settle(db, held)
    db.advance(SECOND)
    await db.steps.record_many([StepRecord(held.id, held.claim, "undo", "2")])
    db.advance(SECOND)
    await db.steps.record_many([StepRecord(held.id, held.claim, "stuck", failure=FAILURE)])
    await db.fail(held)
    assert await db.executions.retry(held.id)
    assert set(await history(db, held)) == {"broken", "timed out", "undo"}


async def test_a_child_that_is_still_under_way_is_waited_for_again(db: Harness) -> None:
    parent, made = await parent_and_child(db)
    await db.fail(parent)
    await db.executions.retry(parent.id)
    (again,) = await db.fetch(await db.register())
    assert await begin_child(db, again) == made.id
    await db.complete(made, 1)
    assert (await ended(db, again))["child"].result == "1"


async def test_a_child_that_was_cancelled_is_invoked_anew(db: Harness) -> None:
    """It was cancelled with its parent, and their retry is the parent's."""
    owner, parent = await db.running()
    first = await begin_child(db, parent)
    await suspend(db, parent)
    await db.executions.cancel(parent.id)
    assert await db.executions.retry(parent.id)
    assert await history(db, parent) == {}
    (again,) = await db.fetch(owner)
    second = await begin_child(db, again)
    assert second != first
    await db.steps.settle_due()
    assert (await history(db, parent))["child"].pending


async def test_a_taken_event_is_kept_and_a_dropped_wait_gives_it_back(db: Harness) -> None:
    owner, held = await db.running()
    await begin(db, event(held, "a"))
    db.advance(SECOND)
    await begin(db, event(held, "b"))
    for payload in ("1", "2"):
        await emit(db, "paid", payload)
        db.advance(SECOND)
    await settle(db, held)
    await db.fail(held)
    await retry_from(db, held.id, "b")
    (again,) = await db.fetch(owner)
    await begin(db, event(again, "c"))
    await settle(db, again)
    assert await db.results(held.id) == {"a": "1", "c": "2"}


@pytest.mark.parametrize(
    ("first", "kept"), [("a", []), ("b", ["a"]), ("wait", ["a", "b"]), ("d", ["a", "b", "wait"])]
)
async def test_a_retry_may_go_back_to_a_step(db: Harness, first: str, kept: list[str]) -> None:
    """To what was recorded with it, too: they are of one time."""
    _, held = await db.running()
    for keys in (["a"], ["b", "c"], [], ["d"]):
        steps = [StepRecord(held.id, held.claim, key, "1") for key in keys]
        if steps:
            await db.steps.record_many(steps)
        else:
            await begin(db, sleep(held, "wait"))
        db.advance(SECOND)
    await db.fail(held)
    assert await retry_from(db, held.id, first)
    expected = set(kept) | ({"c"} if "b" in kept else set())
    assert set(await history(db, held)) == expected


async def test_a_retry_from_an_unknown_step_changes_nothing(db: Harness) -> None:
    _, held = await db.running()
    await db.steps.record_many([StepRecord(held.id, held.claim, "a", failure=FAILURE)])
    await db.fail(held)
    before = await db.get(held.id)
    # Nothing has to be rolled back.
    async with db.begin() as repositories:
        with pytest.raises(StepNotFound) as caught:
            await repositories.executions.retry(held.id, from_step="b")
    assert caught.value.execution_id == held.id
    assert (await db.get(held.id), set(await history(db, held))) == (before, {"a"})
    # It is not failed any more: no step is looked for.
    assert await db.executions.retry(held.id)
    assert not await retry_from(db, held.id, "b")


async def test_a_parent_hears_of_the_retry_that_it_has_not_missed(db: Harness) -> None:
    """Its child has failed and is retried before anybody has told it."""
    owner, parent = await db.running()
    made = await begin_child(db, parent)
    (fetched,) = await db.fetch(owner, queue="children")
    await db.fail(fetched)
    assert await db.executions.retry(made)
    assert await ended(db, parent) == {}
    (again,) = await db.fetch(owner, queue="children")
    await db.complete(again, 1)
    await db.steps.settle_due()
    assert await db.results(parent.id) == {"child": "1"}


async def test_a_parent_that_was_told_is_not_told_again(db: Harness) -> None:
    owner, parent = await db.running()
    made = await begin_child(db, parent)
    (fetched,) = await db.fetch(owner, queue="children")
    await db.fail(fetched)
    await settle(db, parent)
    await db.executions.retry(made)
    async with db.notifications() as sent:
        (again,) = await db.fetch(owner, queue="children")
        await db.complete(again, 1)
        await db.steps.settle_due()
    assert sent == []
    assert (await ended(db, parent))["child"].error_type == FAILURE.type


async def test_a_child_that_is_waited_for_in_vain(db: Harness) -> None:
    """Whoever waited for it cancels it when it is late; nobody else, and not once it is retried."""
    owner, parent = await db.running()
    made = await begin_child(db, parent)
    _, other = await db.running()
    assert not await cancel_child(db, made, other.id)
    assert not await cancel_child(db, new_id(), parent.id)
    assert not await cancel_child(db, parent.id, other.id)
    assert await states(db, made, parent.id) == [AVAILABLE, RUNNING]
    assert await cancel_child(db, made, parent.id)
    assert not await cancel_child(db, made, parent.id)
    await settle(db, parent)
    await db.executions.retry(made)
    assert not await cancel_child(db, made, parent.id)
    assert await states(db, made) == [AVAILABLE]
    # Nor is it cancelled with whom it was a child of.
    assert await db.executions.cancel(parent.id)
    assert await db.fetch(owner, queue="children")


async def test_going_on_after_a_retry_counts_on(db: Harness) -> None:
    """Ends of waits that were seen before it are not seen as new."""
    owner, held = await db.running()
    await begin(db, sleep(held))
    db.advance(HOUR)
    await settle(db, held)
    await db.fail(held)
    await db.executions.retry(held.id, from_scratch=True)
    (again,) = await db.fetch(owner)
    found = (await db.steps.histories([held.id]))[held.id]
    assert (found.records, found.wakes) == ({}, 1)
    await begin(db, sleep(again))
    assert (await suspend(db, again, wakes=1)).state is WAITING


# --- retention -----------------------------------------------------------------------------------


@pytest.mark.parametrize("completes", [True, False])
async def test_a_child_is_kept_until_its_parent_is_told(db: Harness, completes: bool) -> None:
    parent, made = await parent_and_child(db)
    await (db.complete(made) if completes else db.fail(made))
    db.advance(100 * 24 * HOUR)
    assert await db.walk(Retention(HOUR, HOUR)) == 0
    assert set(await ended(db, parent)) == {"child"}
    db.advance(6 * HOUR)
    assert await db.walk(Retention(HOUR, HOUR)) == 1
    with pytest.raises(ExecutionNotFound):
        await db.get(made.id)
    assert set(await history(db, parent)) == {"child"}


async def test_a_child_may_outlive_its_parent(db: Harness) -> None:
    parent, made = await parent_and_child(db)
    await db.fail(parent)
    db.advance(100 * 24 * HOUR)
    assert await db.walk(Retention(HOUR, HOUR)) == 1
    await db.complete(made)
    await db.steps.settle_due()
    db.advance(10 * HOUR)
    assert await db.walk(Retention(HOUR, HOUR)) == 1


async def test_what_others_wait_for_is_kept_no_longer(db: Harness) -> None:
    _, held = await db.running()
    await db.executions.mark_awaited(held.id)
    await db.complete(held)
    db.advance(10 * HOUR)
    assert await db.walk(Retention(HOUR, HOUR)) == 1
