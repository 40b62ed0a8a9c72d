"""failed, cancelled -> available, by an operator."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest

from pgconductor.domain.claims import Fetched
from pgconductor.domain.ids import new_id
from pgconductor.domain.outcomes import Disposition, Failure
from pgconductor.domain.steps import StepRecord
from pgconductor.exceptions import DedupeConflict, ExecutionNotFound
from pgconductor.types import ExecutionState
from tests.contracts.harness import FAILURE, Harness, empty

HOUR = timedelta(hours=1)
RETRIABLE = [ExecutionState.FAILED, ExecutionState.CANCELLED]


@pytest.mark.parametrize("state", RETRIABLE)
async def test_a_retried_execution_starts_anew(db: Harness, state: ExecutionState) -> None:
    there = await db.in_state(state, payload=[1], priority=2)
    before = await db.get(there)
    db.advance(HOUR)
    now = await db.now()
    assert await db.executions.retry(there)
    found = await db.get(there)
    assert found.state is ExecutionState.AVAILABLE
    assert (found.attempts, found.crashes) == (0, 0)
    assert empty(found, "finished_at", "finished_by", "cancel_requested_at", "cancel_reason")
    assert now <= found.run_at <= await db.now()
    # What it was invoked with stays, and so does what an operator wants to know.
    assert (found.payload, found.priority) == ([1], 2)
    assert (found.last_error, found.created_at) == (before.last_error, before.created_at)
    (fetched,) = await db.fetch(await db.register())
    assert (fetched.id, fetched.attempt) == (there, 1)
    await db.complete(fetched, "at last")
    assert (await db.get(there)).result == "at last"


async def test_attempts_and_crashes_are_counted_anew(db: Harness) -> None:
    owner, fetched = await db.running(max_crashes=1)
    await db.crash(owner)
    assert (await db.get(fetched.id)).state is ExecutionState.FAILED
    assert await db.executions.retry(fetched.id)
    (again,) = await db.fetch(await db.register())
    assert (again.id, again.crashes, again.alone) == (fetched.id, 0, False)


async def test_a_cancelled_one_that_is_retried_is_not_cancelled_again(db: Harness) -> None:
    """The request went with the row that it ended."""
    owner, fetched = await db.running()
    await db.executions.cancel(fetched.id)
    await db.release(fetched)
    assert await db.executions.retry(fetched.id)
    (again,) = await db.fetch(owner)
    assert (await db.orchestrators.heartbeat(owner)).cancellations == frozenset()
    assert (await db.complete(again)).state is ExecutionState.COMPLETED


@pytest.mark.parametrize("state", [one for one in ExecutionState if one not in RETRIABLE])
async def test_nothing_else_can_be_retried(db: Harness, state: ExecutionState) -> None:
    """I7: what has completed is final for good."""
    there = await db.in_state(state)
    before = await db.get(there)
    assert not await db.executions.retry(there)
    assert await db.get(there) == before


async def test_what_never_was_cannot_be_retried(db: Harness) -> None:
    with pytest.raises(ExecutionNotFound):
        await db.executions.retry(new_id())
    async with db.begin() as repositories:
        assert not await repositories.executions.retry(new_id())


@pytest.mark.parametrize("rival", [one for one in ExecutionState if not one.finished])
async def test_a_rival_of_the_same_key_forbids_it(db: Harness, rival: ExecutionState) -> None:
    """I8."""
    there = await db.in_state(ExecutionState.FAILED, dedupe_key="k")
    other = await db.in_state(rival, dedupe_key="k")
    before = await db.get(there), await db.get(other)
    with pytest.raises(DedupeConflict) as caught:
        await db.executions.retry(there, from_scratch=True)
    assert caught.value.execution_id == there
    assert (await db.get(there), await db.get(other)) == before


async def test_what_only_looks_like_a_rival_does_not(db: Harness) -> None:
    there = await db.in_state(ExecutionState.FAILED, dedupe_key="k")
    await db.invoke(dedupe_key="k", queue="other")
    await db.invoke("other", dedupe_key="k")
    await db.invoke(dedupe_key="other")
    await db.invoke()
    assert await db.executions.retry(there)


async def test_a_finished_one_of_the_same_key_is_no_rival(db: Harness) -> None:
    there = await db.in_state(ExecutionState.FAILED, dedupe_key="k")
    await db.in_state(ExecutionState.COMPLETED, dedupe_key="k")
    assert await db.executions.retry(there)


@pytest.mark.parametrize("from_scratch", [False, True])
async def test_steps_are_kept_or_dropped(db: Harness, from_scratch: bool) -> None:
    """I5: resume behind them, or start from scratch."""
    _, fetched = await db.running()
    _, other = await db.running()
    async with db.begin() as repositories:
        for one in (fetched, other):
            await repositories.steps.record(StepRecord(one.id, one.claim, "charge", '"paid"'))
    await db.fail(fetched)
    assert await db.executions.retry(fetched.id, from_scratch=from_scratch)
    kept = await db.results(fetched.id)
    untouched = await db.results(other.id)
    assert kept == ({} if from_scratch else {"charge": '"paid"'})
    assert untouched == {"charge": '"paid"'}


async def recorded(db: Harness, held: Fetched, key: str, began: float, *, fails: bool) -> None:
    failure = Failure("ValueError", "no", "stack") if fails else None
    step = StepRecord(held.id, held.claim, key, failure=failure, began=began)
    async with db.begin() as repositories:
        await repositories.steps.record_many([step])


async def test_what_began_before_an_error_has_not_dealt_with_it(db: Harness) -> None:
    """Of two branches one fails while the other is at work: that comes to its end, no more."""
    _, fetched = await db.running()
    # Long before: what is on its way to the server makes a beginning seem later.
    began = time.monotonic() - 60
    await recorded(db, fetched, "before", began, fails=False)
    await recorded(db, fetched, "bad", time.monotonic(), fails=True)
    await recorded(db, fetched, "beside", began, fails=False)
    await db.fail(fetched)
    assert await db.executions.retry(fetched.id)
    assert set(await db.results(fetched.id)) == {"before", "beside"}


async def test_an_error_after_which_something_began_is_kept(db: Harness) -> None:
    """A handler that undoes goes on undoing."""
    _, fetched = await db.running()
    for key, fails in (("bad", True), ("undo", False)):
        await recorded(db, fetched, key, time.monotonic(), fails=fails)
    await db.fail(fetched)
    assert await db.executions.retry(fetched.id)
    assert set(await db.results(fetched.id)) == {"bad", "undo"}


async def test_numbers_go_before_the_clock(db: Harness) -> None:
    """Two clocks do not run at the same rate: a long step may seem to begin before the last end."""
    _, fetched = await db.running()
    now = time.monotonic()
    order = (("reserve", now - 9, False), ("charge", now - 8, True), ("undo", now - 30, False))
    async with db.begin() as repositories:
        for place, (key, began, fails) in enumerate(order, start=1):
            failure = Failure("ValueError", "no", "stack") if fails else None
            step = StepRecord(
                *(fetched.id, fetched.claim, key), place=place, failure=failure, began=began
            )
            await repositories.steps.record_many([step])
    await db.fail(fetched)
    fork = await db.executions.fork(fetched.id, from_step="undo")
    assert set(await db.results(fork)) == {"reserve", "charge"}
    assert await db.executions.retry(fetched.id)
    assert set(await db.results(fetched.id)) == {"reserve", "charge", "undo"}


async def test_what_is_dropped_has_not_dealt_with_an_error(db: Harness) -> None:
    _, fetched = await db.running()
    for key, fails in (("a", False), ("bad", True), ("undo", False), ("more", False)):
        await recorded(db, fetched, key, time.monotonic(), fails=fails)
    await db.fail(fetched)
    assert await db.executions.retry(fetched.id, from_step="undo")
    assert set(await db.results(fetched.id)) == {"a"}


async def test_a_step_is_begun_at_again_while_no_clock_moves(db: Harness) -> None:
    """In memory, the clock stands between two steps."""
    _, fetched = await db.running()
    for key in "abc":
        await recorded(db, fetched, key, time.monotonic(), fails=False)
    await db.fail(fetched)
    fork = await db.executions.fork(fetched.id, from_step="c")
    assert set(await db.results(fork)) == {"a", "b"}
    assert await db.executions.retry(fetched.id, from_step="b")
    assert set(await db.results(fetched.id)) == {"a"}


async def test_a_conflict_drops_no_steps(db: Harness) -> None:
    _, fetched = await db.running(dedupe_key="k")
    async with db.begin() as repositories:
        await repositories.steps.record(StepRecord(fetched.id, fetched.claim, "charge", "1"))
    await db.fail(fetched)
    await db.invoke(dedupe_key="k")
    with pytest.raises(DedupeConflict):
        await db.executions.retry(fetched.id, from_scratch=True)
    assert await db.results(fetched.id) == {"charge": "1"}


async def test_whoever_finished_it_before_owns_it_no_more(db: Harness) -> None:
    """I1, I7: nor does a lost acknowledgement pass for a completion of the new try."""
    owner, fetched = await db.running()
    await db.fail(fetched)
    await db.executions.retry(fetched.id)
    assert (await db.complete(fetched)).disposition is Disposition.LOST
    (again,) = await db.fetch(owner)
    assert (await db.fail(fetched)).disposition is Disposition.LOST
    assert (await db.complete(again)).disposition is Disposition.RECORDED


async def test_a_retry_wakes_its_queue(db: Harness) -> None:
    there = await db.in_state(ExecutionState.FAILED, queue="default")
    async with db.notifications() as sent:
        await db.executions.retry(there)
        await db.executions.retry(there)
    assert sent == [("pgconductor_available", "default")]


async def test_the_last_error_stays_until_the_next(db: Harness) -> None:
    there = await db.in_state(ExecutionState.FAILED)
    await db.executions.retry(there)
    assert (await db.get(there)).last_error == FAILURE.message
