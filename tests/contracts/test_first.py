"""Which of several was first, and what becomes of the others."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pgconductor.domain.claims import Claim, Fetched
from pgconductor.domain.steps import Decision, StepKind, StepRecord
from pgconductor.exceptions import OwnershipLost
from pgconductor.types import ExecutionState
from tests.contracts.harness import Harness
from tests.contracts.waits import (
    HOUR,
    begin,
    begin_child,
    child,
    emit,
    ended,
    event,
    history,
    parent_and_child,
    retry_from,
    settle,
    sleep,
    suspend,
)


def decision(
    held: Fetched, *lost: str, result: str = '{"first": 0}', begun: tuple[str, ...] = ()
) -> Decision:
    step = StepRecord(held.id, held.claim, "f", result, kind=StepKind.FIRST, place=3, turn=1)
    return Decision(step, lost, (*begun, *lost))


async def test_waits_that_were_not_first_end(db: Harness) -> None:
    owner, held = await db.running()
    await begin(db, event(held, "a"), event(held, "b"), sleep(held), event(held, "other"))
    made = await begin_child(db, held)
    assert await db.steps.decide(decision(held, "b", "sleep", "child")) == await db.steps.decide(
        decision(held, "a", result='{"first": 7}')
    )
    found = await history(db, held)
    assert (found["f"].kind, found["f"].place, found["f"].turn) == (StepKind.FIRST, 3, 1)
    assert {key for key, one in found.items() if one.pending} == {"a", "other"}
    assert {one.error_type for one in found.values()} == {None, "(lost)"}
    # Whatever comes for them wakes nobody.
    (fetched,) = await db.fetch(owner, queue="children")
    assert fetched.id == made
    await suspend(db, fetched)
    db.advance(2 * HOUR)
    assert (await settle(db, held)).wakes == 0
    await emit(db)
    await emit(db)
    assert set(await ended(db, held)) == {"a", "other"}


async def test_what_one_had_taken_may_be_taken_again(db: Harness) -> None:
    _, held = await db.running()
    await begin(db, event(held, "a"))
    await emit(db, payload="1")
    assert set(await ended(db, held)) == {"a"}
    await db.steps.decide(decision(held, "a", "never began"))
    found = (await history(db, held))["a"]
    assert (found.result, found.error_type) == (None, "(lost)")
    await begin(db, event(held, "b"))
    assert (await ended(db, held))["b"].result == "1"


async def test_what_is_no_wait_stays_as_it_is(db: Harness) -> None:
    _, held = await db.running()
    await db.steps.record_many([StepRecord(held.id, held.claim, "step", "1")])
    await db.steps.decide(decision(held, "step"))
    assert (await history(db, held))["step"].result == "1"


async def test_only_the_owner_decides(db: Harness) -> None:
    _, held = await db.running()
    await begin(db, event(held, "a"))
    stranger = Claim(held.claim.orchestrator_id, held.claim.number + 1)
    step = StepRecord(held.id, stranger, "f", "{}", kind=StepKind.FIRST)
    with pytest.raises(OwnershipLost):
        await db.steps.decide(Decision(step, ("a",)))
    assert (await history(db, held))["a"].pending


async def test_the_order_of_what_has_ended(db: Harness) -> None:
    """It is on record, and a fork has it, too."""
    _, held = await db.running()
    await begin(db, event(held, "a"), event(held, "b", detail="other"))
    await emit(db, "other")
    await settle(db, held)
    step = StepRecord(held.id, held.claim, "step", "1", place=1, woke=1, turn=7)
    await db.steps.record_many([step])
    await emit(db)
    assert [(one.key, one.woke) for one in (await settle(db, held, 1)).ended] == [("a", 2)]
    order = {key: (one.woke, one.turn) for key, one in (await history(db, held)).items()}
    assert order == {"a": (2, None), "b": (1, None), "step": (1, 7)}
    db.advance(timedelta(seconds=1))
    await db.steps.record_many([StepRecord(held.id, held.claim, "last", "1", place=2)])
    made = await db.executions.fork(held.id, from_step="last")
    forked = (await db.steps.histories([made]))[made]
    assert {key: (one.woke, one.turn) for key, one in forked.records.items()} == order
    assert forked.wakes == 2
    # What has ended there does not end once more.
    (settled,) = await db.steps.settle({made: 2})
    assert settled.ended == ()
    assert (await db.get(made)).state is ExecutionState.AVAILABLE


async def test_a_retry_from_a_race_drops_all_of_it(db: Harness) -> None:
    _, held = await db.running()
    await begin(db, child(held, "a"), event(held, "b"))
    await db.steps.decide(decision(held, "a", "b"))
    await db.fail(held)
    assert await retry_from(db, held.id, "f")
    assert await history(db, held) == {}


async def test_a_retry_from_a_race_drops_what_was_first_as_well(db: Harness) -> None:
    """It may have begun long before the others, and in another attempt."""
    _, held = await db.running()
    await begin(db, sleep(held, "a"))
    db.advance(2 * HOUR)
    await settle(db, held)
    await begin(db, event(held, "b"))
    await db.steps.decide(decision(held, "b", begun=("a",)))
    await db.fail(held)
    assert await retry_from(db, held.id, "f")
    assert await history(db, held) == {}


async def test_a_retry_after_the_first_has_failed_invokes_it_anew(db: Harness) -> None:
    parent, fetched = await parent_and_child(db)
    await db.fail(fetched)
    assert set(await ended(db, parent)) == {"child"}
    await db.steps.decide(decision(parent))
    await db.fail(parent)
    assert await db.executions.retry(parent.id)
    assert set(await history(db, parent)) == {"f"}
