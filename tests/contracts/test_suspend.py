"""running -> waiting -> available: suspended by the owner, woken by whoever settles its waits."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pgconductor.domain.claims import Claim
from pgconductor.domain.ids import new_id
from pgconductor.domain.outcomes import Disposition, Suspended, Verdict
from pgconductor.domain.steps import Due, Settled, StepKind
from pgconductor.types import ExecutionState
from tests.contracts.harness import Harness, empty
from tests.contracts.waits import (
    HOUR,
    begin,
    begin_child,
    emit,
    event,
    fetched_again,
    history,
    parent_and_child,
    settle,
    sleep,
    start,
    suspend,
)

WAITING, AVAILABLE = ExecutionState.WAITING, ExecutionState.AVAILABLE


async def due(db: Harness, limit: int = 9) -> Due:
    async with db.begin() as repositories:
        return await repositories.steps.due(limit=limit)


# --- suspend -------------------------------------------------------------------------------------


async def test_what_waits_is_held_by_nobody(db: Harness) -> None:
    owner, held = await db.running()
    await begin(db, sleep(held))
    async with db.notifications() as sent:
        verdict = await suspend(db, held)
    assert (verdict.disposition, verdict.state) == (Disposition.RECORDED, WAITING)
    assert sent == []
    found = await db.get(held.id)
    assert (found.state, found.attempts, found.crashes) == (WAITING, 0, 0)
    assert empty(found, "locked_by", "locked_at", "claim_number", "finished_at", "finished_by")
    assert await db.executions.held(owner) == {}
    assert await db.fetch(owner) == []


async def test_it_is_available_when_its_wait_has_ended(db: Harness) -> None:
    owner, held = await db.running()
    await begin(db, sleep(held))
    await suspend(db, held)
    db.advance(HOUR)
    now = await db.now()
    async with db.notifications() as sent:
        # Whoever settles does not own it, and is told of no ends.
        assert await db.steps.settle({held.id: None}) == [Settled(held.id, None)]
    assert sent == [("pgconductor_available", "default")]
    found = await db.get(held.id)
    assert found.state is AVAILABLE
    assert now <= found.run_at <= await db.now()
    again = await fetched_again(db, owner, held)
    assert (again.attempt, again.crashes) == (1, 0)
    assert (await db.steps.histories([held.id]))[held.id].wakes == 1


async def test_what_came_before_it_was_suspended_is_not_lost(db: Harness) -> None:
    """B2: the handler has not seen it; it is available at once."""
    owner, held = await db.running()
    await begin(db, sleep(held))
    db.advance(HOUR)
    await db.steps.settle({held.id: None})
    async with db.notifications() as sent:
        verdict = await suspend(db, held, wakes=0)
    assert (verdict.disposition, verdict.state) == (Disposition.RECORDED, AVAILABLE)
    assert sent == [("pgconductor_available", "default")]
    again = await fetched_again(db, owner, held)
    assert again.attempt == 1


async def test_what_the_handler_has_seen_does_not_keep_it(db: Harness) -> None:
    _, held = await db.running()
    await begin(db, sleep(held, "a"), sleep(held, "b", 2 * HOUR))
    db.advance(HOUR)
    assert (await settle(db, held)).wakes == 1
    assert (await suspend(db, held, wakes=1)).state is WAITING


async def test_only_the_owner_suspends(db: Harness) -> None:
    """I1."""
    _, held = await db.running()
    before = await db.get(held.id)
    for claim in (
        Claim(held.claim.orchestrator_id, held.claim.number + 1),
        (await db.register()).next_claim(),
    ):
        verdict = await db.report(Suspended(held.id, claim, 0))
        assert verdict == Verdict(held.id, Disposition.LOST, None)
    assert await db.get(held.id) == before
    await suspend(db, held)
    # It holds nothing any more, whatever became of it.
    assert (await suspend(db, held)).disposition is Disposition.LOST
    assert (await db.complete(held)).disposition is Disposition.LOST
    assert (await db.get(held.id)).state is WAITING


async def test_a_cancellation_wins_over_a_suspension(db: Harness) -> None:
    """B4."""
    owner, held = await db.running()
    await begin(db, sleep(held))
    await db.executions.cancel(held.id)
    verdict = await suspend(db, held)
    assert (verdict.disposition, verdict.state) == (
        Disposition.RECORDED,
        ExecutionState.CANCELLED,
    )
    assert (await suspend(db, held)).disposition is Disposition.KNOWN
    found = await db.get(held.id)
    assert (found.finished_by, found.attempts) == (owner.orchestrator_id, 0)
    db.advance(HOUR)
    await db.steps.settle({held.id: None})
    assert (await db.get(held.id)).state is ExecutionState.CANCELLED


async def test_waiting_does_not_use_up_attempts(db: Harness) -> None:
    owner, held = await db.running(max_attempts=1)
    for number in range(3):
        await begin(db, sleep(held, str(number)))
        await suspend(db, held, wakes=number)
        db.advance(HOUR)
        await db.steps.settle({held.id: None})
        held = await fetched_again(db, owner, held)
        assert held.attempt == 1
    assert set(await db.results(held.id)) == {"0", "1", "2"}


async def test_crashes_are_remembered_across_a_wait(db: Harness) -> None:
    owner, held = await db.running()
    await db.crash(owner)
    other = await db.register()
    (again,) = await db.fetch(other)
    await begin(db, sleep(again))
    await suspend(db, again)
    assert (await db.get(held.id)).crashes == 1


# --- settle --------------------------------------------------------------------------------------


async def test_a_wait_ends_once(db: Harness) -> None:
    _, held = await db.running()
    await begin(db, sleep(held))
    db.advance(HOUR)
    first = await settle(db, held)
    before = await history(db, held)
    db.advance(HOUR)
    assert await settle(db, held) == first
    assert {key: one.pending for key, one in before.items()} == {"sleep": False}
    assert (await db.steps.histories([held.id]))[held.id].wakes == first.wakes == 1


async def test_an_owner_is_told_what_it_has_not_seen(db: Harness) -> None:
    _, held = await db.running()
    await begin(db, sleep(held, "a"), sleep(held, "b"), sleep(held, "c", 2 * HOUR))
    db.advance(HOUR)
    # Two at once are one.
    assert (await settle(db, held)).wakes == 1
    db.advance(HOUR)
    await db.steps.settle({held.id: None})
    for seen, expected in [(0, ["a", "b", "c"]), (1, ["c"]), (2, [])]:
        found = await settle(db, held, seen)
        assert (found.wakes, [one.key for one in found.ended]) == (2, expected)


async def test_an_owner_is_told_that_somebody_else_has_settled(db: Harness) -> None:
    owner, held = await db.running()
    await begin(db, sleep(held, "a"), sleep(held, "b", 2 * HOUR))
    db.advance(HOUR)
    async with db.notifications() as sent:
        await db.steps.settle({held.id: None})
        await db.steps.settle({held.id: None})
    assert sent == [("pgconductor_control", str(owner.orchestrator_id))]
    db.advance(HOUR)
    async with db.notifications() as sent:
        await settle(db, held)
    assert sent == [], "it has asked itself"


async def test_many_are_settled_at_once(db: Harness) -> None:
    owner = await db.register()
    await db.invoke_several(3)
    one, two, three = await db.fetch(owner)
    await begin(db, sleep(one), sleep(two), sleep(three, delay=2 * HOUR))
    await suspend(db, two)
    db.advance(HOUR)
    found = await db.steps.settle({three.id: 0, one.id: 0, two.id: None, new_id(): 0})
    assert {each.execution_id: (each.wakes, len(each.ended)) for each in found} == {
        one.id: (1, 1),
        two.id: (None, 0),
        three.id: (0, 0),
    }
    assert (await db.get(two.id)).state is AVAILABLE


async def test_what_is_available_is_announced_again(db: Harness) -> None:
    """A fetch may have passed it over, because settling had locked it."""
    there = await db.invoke()
    later = await db.invoke(queue="other", delay=HOUR)
    async with db.notifications() as sent:
        await db.steps.settle({there: None, later: None})
    assert sent == [("pgconductor_available", "default")]


async def test_a_finished_execution_stays_finished(db: Harness) -> None:
    """I7: its waits end, and nothing else."""
    _, held = await db.running()
    await begin(db, sleep(held))
    await db.fail(held)
    before = await db.get(held.id)
    db.advance(HOUR)
    async with db.notifications() as sent:
        await db.steps.settle_due()
    assert (await db.get(held.id), sent) == (before, [])
    assert (await due(db)).execution_ids == ()


# --- due -----------------------------------------------------------------------------------------


async def test_timers_are_due_when_their_time_has_come(db: Harness) -> None:
    _, held = await db.running()
    assert await due(db) == Due()
    await begin(
        db,
        sleep(held, "a", 2 * HOUR),
        event(held, "b", delay=HOUR),
        # No wait: it is only invoked later.
        start(held, "c", StepKind.EMIT, detail="other"),
    )
    found = await due(db)
    assert found.execution_ids == ()
    assert found.next_in is not None
    assert timedelta(minutes=59) < found.next_in <= HOUR
    db.advance(HOUR)
    found = await due(db)
    assert found.execution_ids == (held.id,)
    assert found.next_in is not None
    assert timedelta(minutes=59) < found.next_in <= HOUR
    await settle(db, held)
    assert (await due(db)).execution_ids == ()
    db.advance(HOUR)
    found = await due(db)
    assert (found.execution_ids, found.next_in) == ((held.id,), None)


async def test_parents_are_due_until_they_are_told(db: Harness) -> None:
    parent, made = await parent_and_child(db)
    assert await due(db) == Due()
    await db.complete(made)
    for _ in range(2):
        assert await due(db) == Due((parent.id,))
    await settle(db, parent)
    assert await due(db) == Due()


async def test_a_child_whose_parent_does_not_wait_is_due_once(db: Harness) -> None:
    parent, made = await parent_and_child(db)
    await db.fail(parent)
    await db.executions.retry(parent.id, from_scratch=True)
    await db.complete(made)
    assert await due(db) == Due((parent.id,))
    await db.steps.settle({parent.id: None})
    assert await due(db) == Due()


async def test_events_are_due_until_they_are_marked(db: Harness) -> None:
    _, held = await db.running()
    _, other = await db.running()
    await begin(db, event(held, match="1"))
    await begin(db, event(other, match="2"))
    ids = [await emit(db, name, "1") for name in ("paid", "paid", "other")]
    for _ in range(2):
        found = await due(db)
        assert (found.execution_ids, sorted(found.event_ids)) == ((held.id,), sorted(ids))
    async with db.begin() as repositories:
        await repositories.steps.mark_matched(ids[:2])
    found = await due(db)
    assert (found.execution_ids, found.event_ids) == ((), (ids[2],))


async def test_what_is_due_comes_in_pieces(db: Harness) -> None:
    owner = await db.register()
    await db.invoke_several(3)
    held = await db.fetch(owner)
    for hours, one in enumerate(held, start=1):
        await begin(db, sleep(one, delay=hours * HOUR))
    db.advance(3 * HOUR)
    first, second, third = [one.id for one in held]
    assert set((await due(db, limit=2)).execution_ids) == {first, second}
    await db.steps.settle({first: None, second: None})
    assert (await due(db, limit=2)).execution_ids == (third,)


@pytest.mark.parametrize("what", ["timer", "child", "event"])
async def test_whatever_is_due_is_settled(
    db: Harness, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I3: by any orchestrator, in as many pieces as it takes."""
    monkeypatch.setattr("pgconductor.services.steps._BATCH", 2)
    owner = await db.register()
    await db.invoke_several(5)
    for held in await db.fetch(owner):
        if what == "timer":
            await begin(db, sleep(held))
        elif what == "child":
            await begin_child(db, held)
        else:
            await begin(db, event(held))
        await suspend(db, held)
    if what == "timer":
        assert await db.steps.settle_due() is not None
        db.advance(HOUR)
    elif what == "child":
        for child in await db.fetch(owner, queue="children"):
            await db.complete(child)
    else:
        for _ in range(3):
            await emit(db)
    assert await db.steps.settle_due() is None
    assert len(await db.fetch(owner)) == 5
    assert await due(db) == Due()
