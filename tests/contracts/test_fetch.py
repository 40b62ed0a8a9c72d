"""available -> running: who may fetch, what, and in which order."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pgconductor.domain.claims import Claim, Position, Registration
from pgconductor.domain.ids import new_id
from pgconductor.domain.invocations import Invocation
from pgconductor.exceptions import InvalidInput
from pgconductor.types import ExecutionState
from tests.contracts.harness import Harness

HOUR = timedelta(hours=1)


async def test_a_fetched_execution_has_an_owner(db: Harness) -> None:
    """I1: the pair of orchestrator and claim number."""
    owner = await db.register()
    invoked = await db.invoke(
        "mail", {"to": "x"}, queue="out", priority=3, max_attempts=5, max_crashes=4
    )
    (fetched,) = await db.fetch(owner, queue="out")
    found = await db.get(invoked)
    assert found.state is ExecutionState.RUNNING
    assert found.locked_by == owner.orchestrator_id == fetched.claim.orchestrator_id
    assert found.claim_number == fetched.claim.number == 1
    assert found.locked_at is not None
    assert found.created_at <= found.locked_at <= await db.now()
    assert (fetched.id, fetched.task_key, fetched.queue) == (invoked, "mail", "out")
    assert (fetched.attempt, fetched.max_attempts) == (found.attempts, 5) == (1, 5)
    assert (fetched.crashes, fetched.max_crashes, fetched.priority) == (0, 4, 3)
    assert (fetched.run_at, fetched.created_at) == (found.run_at, found.created_at)
    assert not fetched.alone


async def test_no_claim_is_issued_twice(db: Harness) -> None:
    owner, fetched = await db.running()
    await db.release(fetched)
    (again,) = await db.fetch(owner)
    assert (again.id, again.claim.number) == (fetched.id, 2)
    assert await db.fetch(owner) == []
    assert owner.next_claim().number == 4


async def test_a_claim_can_be_made_beforehand(db: Harness) -> None:
    owner = await db.register()
    await db.invoke()
    claim = owner.next_claim()
    (fetched,) = await db.fetch(owner, claim=claim)
    assert fetched.claim == claim
    assert await db.executions.held(owner) == {fetched.id: claim}


async def test_the_order_is_priority_then_run_at_then_id(db: Harness) -> None:
    """B13: a higher priority is sooner."""
    now = await db.now()
    low = await db.invoke(priority=-1, run_at=now - 5 * HOUR)
    second, first, third = [await db.invoke(run_at=now - hours * HOUR) for hours in (2, 3, 1)]
    ids = sorted(new_id() for _ in range(3))
    ties = [Invocation(task_key="greet", id=one, priority=7, run_at=now) for one in reversed(ids)]
    await db.executions.invoke_many(ties)
    high = await db.invoke(priority=9)
    expected = [high, *ids, first, second, third, low]
    owner = await db.register()
    assert await db.fetch_ids(owner, limit=3) == expected[:3]
    assert await db.fetch_ids(owner, limit=1) == expected[3:4]
    assert await db.fetch_ids(owner) == expected[4:]
    assert await db.fetch_ids(owner) == []


async def test_only_this_queue_is_served(db: Harness) -> None:
    """B12: names that differ in a sign are different queues."""
    owner = await db.register()
    dash, underscore = await db.invoke(queue="a-b"), await db.invoke(queue="a_b")
    assert await db.fetch_ids(owner, queue="a-b") == [dash]
    assert await db.fetch_ids(owner, queue="a_b") == [underscore]
    with pytest.raises(InvalidInput):
        await db.fetch(owner, queue="A B")


async def test_tasks_that_are_not_known_here_are_left_for_others(db: Harness) -> None:
    """They burn no attempts, and block nobody."""
    owner, other = await db.register(), await db.register()
    new = await db.invoke("new", priority=9)
    old = await db.invoke("old")
    assert await db.fetch_ids(owner, task_keys=[]) == []
    assert await db.fetch_ids(owner, task_keys=["old", "older"], limit=1) == [old]
    assert (await db.get(new)).attempts == 0
    assert await db.fetch_ids(other, task_keys=["new"]) == [new]


@pytest.mark.parametrize("state", [one for one in ExecutionState if one != "available"])
async def test_only_available_ones_are_fetched(db: Harness, state: ExecutionState) -> None:
    there = await db.in_state(state)
    before = await db.get(there)
    assert await db.fetch(await db.register()) == []
    assert await db.get(there) == before


@pytest.mark.parametrize("limit", [0, -1, 10_001, True])
async def test_a_limit_out_of_range_is_refused(db: Harness, limit: int) -> None:
    owner = await db.register()
    with pytest.raises(InvalidInput, match="limit"):
        await db.fetch(owner, limit)


# --- who may fetch -------------------------------------------------------------------------------


async def assert_gets_nothing(db: Harness, owner: Registration) -> None:
    there = await db.invoke()
    assert await db.fetch(owner) == []
    found = await db.get(there)
    assert (found.state, found.attempts) == (ExecutionState.AVAILABLE, 0)


async def test_who_never_registered_gets_nothing(db: Harness) -> None:
    """I2, A3."""
    await assert_gets_nothing(db, Registration(new_id(), 1))


async def test_a_registration_that_rolled_back_gets_nothing(db: Harness) -> None:
    """I2: registered means committed."""
    owner = Registration(new_id(), 1)
    async with db.rolled_back() as repositories:
        assert await repositories.orchestrators.add(
            owner.orchestrator_id,
            version="1",
            schema_version=1,
            schema_required=1,
            hostname="h",
            pid=1,
        )
    await assert_gets_nothing(db, owner)


async def test_who_has_left_gets_nothing(db: Harness) -> None:
    """I2."""
    owner = await db.register()
    await db.orchestrators.leave(owner)
    await assert_gets_nothing(db, owner)


async def test_who_was_removed_as_stale_gets_nothing(db: Harness) -> None:
    """I2."""
    owner = await db.register()
    await db.crash(owner)
    await assert_gets_nothing(db, owner)


async def test_who_is_asked_to_stop_gets_nothing(db: Harness) -> None:
    """I2."""
    owner = await db.register()
    assert await db.orchestrators.request_shutdown(owner.orchestrator_id, reason="deploy")
    await assert_gets_nothing(db, owner)


async def test_who_is_below_the_floor_gets_nothing(db: Harness) -> None:
    """I2, A6: a breaking revision shuts out those that do not know it."""
    old, new = await db.register(), await db.register(schema_version=2)
    await db.set_schema(installed=2, floor=2)
    await assert_gets_nothing(db, old)
    assert len(await db.fetch(new)) == 1


# --- attempts and crashes ------------------------------------------------------------------------


async def test_attempts_used_up_by_errors(db: Harness) -> None:
    """A2: it ends as failed, and is never fetched again."""
    owner = await db.register()
    there = await db.invoke(max_attempts=2)
    for attempt in (1, 2):
        (fetched,) = await db.fetch(owner)
        assert fetched.attempt == attempt
        await db.fail(fetched, retry_after=timedelta(0))
    found = await db.get(there)
    assert (found.state, found.attempts) == (ExecutionState.FAILED, 2)
    assert await db.fetch(owner) == []


async def test_attempts_used_up_by_crashes(db: Harness) -> None:
    """A2: it ends as failed with an error that says so, and is never fetched again."""
    there = await db.invoke(max_crashes=3)
    for crashes in range(3):
        owner = await db.register()
        (fetched,) = await db.fetch(owner)
        assert (fetched.attempt, fetched.crashes) == (1, crashes)
        await db.crash(owner)
    found = await db.get(there)
    assert (found.state, found.attempts, found.crashes) == (ExecutionState.FAILED, 0, 3)
    assert found.last_error == "crashed its process 3 times"
    assert found.last_error_type == "ProcessCrashed"
    assert await db.fetch(await db.register()) == []


async def test_the_fetch_itself_passes_over_what_is_used_up(db: Harness) -> None:
    """A2: even if something else had left such rows available."""
    for values in ({"attempts": 3}, {"crashes": 3}):
        await db.set_columns(await db.invoke(priority=9), **values)
    good = await db.invoke()
    assert await db.fetch_ids(await db.register(), limit=1) == [good]


# --- suspects ------------------------------------------------------------------------------------


async def test_a_suspect_that_comes_first_is_fetched_alone(db: Harness) -> None:
    suspect = await db.invoke(priority=1)
    neighbours = await db.invoke_several(2)
    await db.set_columns(suspect, crashes=2)
    owner = await db.register()
    (first,) = await db.fetch(owner)
    assert (first.id, first.alone) == (suspect, True)
    assert await db.fetch_ids(owner) == neighbours


async def test_a_suspect_that_does_not_come_first_waits(db: Harness) -> None:
    neighbours = await db.invoke_several(2, priority=1)
    suspects = await db.invoke_several(2)
    for suspect in suspects:
        await db.set_columns(suspect, crashes=2)
    owner = await db.register()
    assert await db.fetch_ids(owner) == neighbours
    assert [(await db.get(one)).attempts for one in suspects] == [0, 0]
    assert await db.fetch_ids(owner) == suspects[:1]
    assert await db.fetch_ids(owner) == suspects[1:]


@pytest.mark.parametrize(
    ("crashes", "max_crashes", "alone"),
    [(0, 1, False), (0, 2, False), (1, 2, True), (1, 3, False), (2, 3, True), (8, 9, True)],
)
async def test_one_crash_short_of_the_limit_makes_a_suspect(
    db: Harness, crashes: int, max_crashes: int, alone: bool
) -> None:
    """A fresh execution is none, not even one that may not crash at all."""
    await db.set_columns(await db.invoke(priority=1, max_crashes=max_crashes), crashes=crashes)
    await db.invoke()
    fetched = await db.fetch(await db.register())
    assert fetched[0].alone is alone
    assert len(fetched) == (1 if alone else 2)


async def test_neighbours_of_a_poison_task_are_not_condemned(db: Harness) -> None:
    """Poison kills its process each time: it ends as failed, its neighbours all complete."""
    poison = await db.invoke("poison")
    neighbours = set(await db.invoke_several(5))
    for _ in range(20):
        owner = await db.register()
        batch = await db.fetch(owner)
        if not batch:
            break
        if any(one.id == poison for one in batch):
            await db.crash(owner)
        else:
            for one in batch:
                await db.complete(one)
            await db.orchestrators.leave(owner)
    assert (await db.get(poison)).state is ExecutionState.FAILED
    states = {(await db.get(one)).state for one in neighbours}
    assert states == {ExecutionState.COMPLETED}


async def test_held_lists_what_an_orchestrator_holds(db: Harness) -> None:
    """A claim whose answer was lost is found by it, and given back."""
    owner, other = await db.register(), await db.register()
    first, second, third = await db.invoke_several(3)
    (one,) = await db.fetch(owner, 1)
    (two,) = await db.fetch(owner, 1)
    (three,) = await db.fetch(other)
    assert [one.id, two.id, three.id] == [first, second, third]
    assert await db.executions.held(owner) == {
        first: Claim(owner.orchestrator_id, 1),
        second: Claim(owner.orchestrator_id, 2),
    }
    await db.complete(one)
    await db.release(two)
    assert await db.executions.held(owner) == {}
    assert set(await db.executions.held(other)) == {third}


async def test_a_fetch_may_begin_at_a_place(db: Harness) -> None:
    """A hint that leads past what was taken before; what stands ahead of it is not seen."""
    owner = await db.register()
    now = await db.now()
    urgent = await db.invoke(priority=5, run_at=now - timedelta(hours=1))
    early = await db.invoke(run_at=now - timedelta(hours=3))
    late = await db.invoke(run_at=now - timedelta(hours=2))
    (first,) = await db.fetch(owner, 1)
    assert first.id == urgent
    place = Position.of(first)
    assert place == (-5, first.run_at, urgent)
    ahead = await db.invoke(priority=9)
    assert await db.fetch_ids(owner, after=place) == [early, late]
    assert await db.fetch_ids(owner, after=place) == []
    assert await db.fetch_ids(owner) == [ahead]


async def test_the_place_itself_is_seen(db: Harness) -> None:
    owner = await db.register()
    there = await db.invoke()
    (first,) = await db.fetch(owner)
    await db.release(first)
    assert await db.fetch_ids(owner, after=Position.of(first)) == [there]


async def test_a_place_does_not_lead_into_another_queue(db: Harness) -> None:
    owner = await db.register()
    here = await db.invoke(queue="b")
    (first,) = await db.fetch(owner, queue="b")
    for queue in ("a", "c", "b-"):
        await db.invoke(queue=queue)
    assert first.id == here
    assert await db.fetch_ids(owner, queue="b", after=Position.of(first)) == []
