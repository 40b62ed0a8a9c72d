"""running -> available, failed or cancelled, for what its orchestrator will not end itself."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pgconductor.domain.claims import Fetched, Registration
from pgconductor.domain.ids import new_id
from pgconductor.domain.orchestrators import Beat, Recovery, StaleObserver
from pgconductor.exceptions import NotRegistered
from pgconductor.types import ExecutionState
from tests.contracts.harness import FAILURE, STALE_AFTER, Harness, empty

AVAILABLE, FAILED = ExecutionState.AVAILABLE, ExecutionState.FAILED


async def take_back(db: Harness, owner: Registration, *, crashed: bool, limit: int = 9) -> Recovery:
    async with db.begin() as repositories:
        return await repositories.executions.take_back(
            owner.orchestrator_id, limit=limit, crashed=crashed
        )


async def recover(db: Harness, own: Registration | None = None) -> Recovery:
    """What a sweep of somebody who has watched for long enough takes back."""
    observer = await db.watched_long_enough(own.orchestrator_id if own else None)
    return await db.orchestrators.recover_stale(observer, registration=own)


# --- taking back ---------------------------------------------------------------------------------


@pytest.mark.parametrize("crashed", [False, True])
async def test_the_attempt_is_given_back(db: Harness, crashed: bool) -> None:
    """A crash is counted apart, for a prefetched neighbour did nothing wrong."""
    owner, fetched = await db.running(max_attempts=1)
    before = await db.get(fetched.id)
    assert await take_back(db, owner, crashed=crashed) == Recovery(available=1)
    found = await db.get(fetched.id)
    assert (found.state, found.attempts) == (AVAILABLE, 0)
    assert found.crashes == (1 if crashed else 0)
    assert found.run_at == before.run_at
    assert empty(found, "locked_by", "locked_at", "claim_number", "finished_at", "last_error")
    (again,) = await db.fetch(await db.register())
    assert (again.id, again.attempt) == (fetched.id, 1)


async def test_the_last_crash_ends_it(db: Harness) -> None:
    """A2."""
    owner, fetched = await db.running(max_crashes=2)
    await take_back(db, owner, crashed=True)
    (again,) = await db.fetch(owner)
    async with db.notifications() as sent:
        await db.executions.mark_awaited(fetched.id)
        assert await take_back(db, owner, crashed=True) == Recovery(failed=1)
    assert sent == [("pgconductor_finished", str(fetched.id))]
    found = await db.get(again.id)
    assert (found.state, found.attempts, found.crashes) == (FAILED, 0, 2)
    assert (found.last_error, found.last_error_type) == (
        "crashed its process 2 times",
        "ProcessCrashed",
    )
    assert empty(found, "last_error_traceback", "finished_by", "locked_by")
    assert found.finished_at is not None


async def test_at_most_once_ends_at_the_first_crash(db: Harness) -> None:
    owner, fetched = await db.running(max_crashes=1)
    assert await take_back(db, owner, crashed=True) == Recovery(failed=1)
    assert (await db.get(fetched.id)).state is FAILED
    assert await db.fetch(owner) == []


async def test_at_most_once_survives_an_orderly_stop(db: Harness) -> None:
    owner, fetched = await db.running(max_crashes=1)
    assert await take_back(db, owner, crashed=False) == Recovery(available=1)
    assert (await db.get(fetched.id)).crashes == 0


async def test_an_earlier_error_is_kept_unless_the_crash_ends_it(db: Harness) -> None:
    owner, fetched = await db.running(max_crashes=2)
    await db.fail(fetched, retry_after=timedelta(0))
    for expected in (FAILURE.message, "crashed its process 2 times"):
        await db.fetch(owner)
        await take_back(db, owner, crashed=True)
        assert (await db.get(fetched.id)).last_error == expected


async def test_taking_back_is_bounded_and_in_order(db: Harness) -> None:
    """I9."""
    owner = await db.register()
    ids = await db.invoke_several(5)
    await db.fetch(owner)
    for taken in (2, 4, 5):
        recovery = await take_back(db, owner, crashed=True, limit=2)
        assert recovery.executions == taken - (taken - 1) // 2 * 2
        states = [(await db.get(one)).state for one in ids]
        assert states == [AVAILABLE] * taken + [ExecutionState.RUNNING] * (5 - taken)
    assert await take_back(db, owner, crashed=True) == Recovery()


async def test_only_the_named_orchestrators_are_taken(db: Harness) -> None:
    owner, mine = await db.running()
    _, others = await db.running()
    before = await db.get(others.id)
    assert await take_back(db, owner, crashed=True) == Recovery(available=1)
    assert await db.get(others.id) == before
    assert await take_back(db, Registration(new_id(), 1), crashed=True) == Recovery()
    assert (await db.get(mine.id)).state is AVAILABLE


async def test_what_is_taken_back_wakes_its_queues(db: Harness) -> None:
    owner = await db.register()
    for queue in ("a", "a", "b"):
        await db.invoke(queue=queue)
        await db.fetch(owner, queue=queue)
    async with db.notifications() as sent:
        await take_back(db, owner, crashed=True)
    assert sorted(sent) == [("pgconductor_available", "a"), ("pgconductor_available", "b")]


# --- the stale -----------------------------------------------------------------------------------


async def test_a_stale_orchestrator_is_recovered_and_removed(db: Harness) -> None:
    """I3, A3, B1: also one that never beat after it registered."""
    dead, fetched = await db.running()
    alive, kept = await db.running()
    db.advance(STALE_AFTER * 2)
    observer = await db.watched_long_enough()
    await db.orchestrators.heartbeat(alive)
    recovery = await db.orchestrators.recover_stale(observer)
    assert recovery == Recovery(frozenset({dead.orchestrator_id}), available=1)
    found = await db.get(fetched.id)
    assert (found.state, found.crashes) == (AVAILABLE, 1)
    assert (await db.get(kept.id)).state is ExecutionState.RUNNING
    assert [one.id for one in await db.orchestrators.list()] == [alive.orchestrator_id]
    with pytest.raises(NotRegistered):
        await db.orchestrators.heartbeat(dead)
    assert [one.id for one in await db.orchestrators.list()] == [alive.orchestrator_id]


async def test_a_fresh_observer_declares_nobody_dead(db: Harness) -> None:
    """After an outage of the database every heartbeat is old, and the fleet is healthy."""
    owner, fetched = await db.running()
    db.advance(timedelta(days=1))
    observer = StaleObserver(STALE_AFTER)
    for _ in range(3):
        assert await db.orchestrators.recover_stale(observer) == Recovery()
    assert (await db.get(fetched.id)).locked_by == owner.orchestrator_id
    assert (await db.orchestrators.heartbeat(owner)).number == 1


async def test_who_is_late_by_the_observer_only_is_not_dead(db: Harness) -> None:
    """I6: the database's clock has to agree."""
    owner, _ = await db.running()
    assert await recover(db) == Recovery()
    assert (await db.orchestrators.heartbeat(owner)).number == 1


async def test_who_has_beaten_since_it_was_observed_is_spared(db: Harness) -> None:
    """The lock checks it again, in its own statement."""
    owner, _ = await db.running()
    db.advance(STALE_AFTER * 2)
    async with db.begin() as repositories:
        (beat,) = await repositories.orchestrators.beats(None, stale_after=STALE_AFTER)
    assert beat == Beat(owner.orchestrator_id, 0, late=True)
    await db.orchestrators.heartbeat(owner)
    db.advance(STALE_AFTER * 2)
    async with db.begin() as repositories:
        assert not await repositories.orchestrators.lock_stale(beat, stale_after=STALE_AFTER)
        (again,) = await repositories.orchestrators.beats(None, stale_after=STALE_AFTER)
        assert again == Beat(owner.orchestrator_id, 1, late=True)
        assert await repositories.orchestrators.lock_stale(again, stale_after=STALE_AFTER)
    (left,) = await db.orchestrators.list()
    assert left.shutdown_reason == "found stale"
    assert left.shutdown_requested_at is not None


@pytest.mark.parametrize(("seconds", "late"), [(15, True), (25, False)])
async def test_lateness_is_measured_by_the_threshold(db: Harness, seconds: int, late: bool) -> None:
    owner = await db.register()
    threshold = timedelta(seconds=seconds)
    db.advance(timedelta(seconds=20))
    async with db.begin() as repositories:
        orchestrators = repositories.orchestrators
        (beat,) = await orchestrators.beats(None, stale_after=threshold)
        assert beat.late is late
        assert await orchestrators.lock_stale(beat, stale_after=threshold) is late
        assert await orchestrators.beats(owner.orchestrator_id, stale_after=threshold) == []


async def test_the_recoverer_does_not_look_at_itself(db: Harness) -> None:
    own, fetched = await db.running()
    db.advance(STALE_AFTER * 2)
    assert await recover(db, own) == Recovery()
    assert (await db.get(fetched.id)).locked_by == own.orchestrator_id


async def test_a_recovery_of_many_batches(db: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """I9: bounded transactions; the row goes with the last."""
    monkeypatch.setattr("pgconductor.services.orchestrators.RECOVERY_BATCH", 2)
    owner = await db.register()
    await db.invoke_several(5)
    await db.fetch(owner)
    db.advance(STALE_AFTER * 2)
    assert await recover(db) == Recovery(frozenset({owner.orchestrator_id}), available=5)
    assert await db.orchestrators.list() == []


async def test_a_fleet_that_died_as_a_whole_is_recovered(db: Harness) -> None:
    """I3: once the observer has watched twice as long."""
    dead = [(await db.running())[0].orchestrator_id for _ in range(4)]
    db.advance(STALE_AFTER * 2)
    recovery = await recover(db, await db.register())
    assert recovery == Recovery(frozenset(dead), available=4)


@pytest.mark.orphans_expected
async def test_a_held_row_without_an_orchestrator_is_taken_back(db: Harness) -> None:
    """I2, I3: a failover may lose the orchestrator's row and keep its executions."""
    owner, fetched = await db.running(max_crashes=2)
    survivor, kept = await db.running()
    await db.forget_orchestrator(owner.orchestrator_id)
    async with db.begin() as repositories:
        assert await repositories.executions.orphan_owners() == [owner.orchestrator_id]
    assert await db.orchestrators.recover_stale(StaleObserver(STALE_AFTER)) == Recovery(available=1)
    assert (await db.get(fetched.id)).crashes == 1
    assert (await db.get(kept.id)).locked_by == survivor.orchestrator_id
    async with db.begin() as repositories:
        assert await repositories.executions.orphan_owners() == []


# --- leaving -------------------------------------------------------------------------------------


async def test_who_leaves_gives_back_what_it_holds(db: Harness) -> None:
    owner = await db.register()
    ids = await db.invoke_several(3)
    first, *_ = await db.fetch(owner)
    await db.complete(first)
    assert await db.orchestrators.leave(owner) == Recovery(
        frozenset({owner.orchestrator_id}), available=2
    )
    found = [await db.get(one) for one in ids[1:]]
    assert [(one.state, one.attempts, one.crashes) for one in found] == [(AVAILABLE, 0, 0)] * 2
    assert await db.orchestrators.list() == []
    assert await db.orchestrators.leave(owner) == Recovery()


async def test_leaving_in_many_batches(db: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgconductor.services.orchestrators.RECOVERY_BATCH", 2)
    owner = await db.register()
    await db.invoke_several(5)
    await db.fetch(owner)
    recovery = await db.orchestrators.leave(owner)
    assert recovery == Recovery(frozenset({owner.orchestrator_id}), available=5)


async def test_a_row_is_removed_only_when_nothing_is_held(db: Harness) -> None:
    """I2."""
    owner, fetched = await db.running()
    async with db.begin() as repositories:
        assert await repositories.orchestrators.lock(owner.orchestrator_id)
        assert not await repositories.orchestrators.remove(owner.orchestrator_id)
    await db.complete(fetched)
    async with db.begin() as repositories:
        assert await repositories.orchestrators.remove(owner.orchestrator_id)
        assert not await repositories.orchestrators.remove(owner.orchestrator_id)
        assert not await repositories.orchestrators.lock(owner.orchestrator_id)


async def test_a_failed_recovery_leaves_everything_as_it_was(db: Harness) -> None:
    owner, fetched = await db.running()
    before = await db.get(fetched.id)
    async with db.rolled_back() as repositories:
        await repositories.executions.take_back(owner.orchestrator_id, limit=9, crashed=True)
        assert await repositories.orchestrators.remove(owner.orchestrator_id)
    assert await db.get(fetched.id) == before
    assert await still_owns(db, fetched)


async def still_owns(db: Harness, fetched: Fetched) -> bool:
    return (await db.complete(fetched)).accepted
