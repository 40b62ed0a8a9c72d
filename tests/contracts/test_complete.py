"""running -> completed, failed or available: by the owner only (I1), and once (I7)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from pgconductor.domain.claims import Claim, Fetched
from pgconductor.domain.ids import new_id
from pgconductor.domain.outcomes import (
    Completed,
    Disposition,
    Failed,
    Outcome,
    Released,
    Verdict,
)
from pgconductor.exceptions import InvalidInput
from pgconductor.types import ExecutionState
from tests.contracts.harness import FAILURE, Harness, empty

HOUR = timedelta(hours=1)
OUTCOMES: dict[str, Callable[[Fetched], Outcome]] = {
    "complete": lambda one: Completed(one.id, one.claim, '{"late": true}'),
    "fail": lambda one: Failed(one.id, one.claim, FAILURE),
    "fail and retry": lambda one: Failed(one.id, one.claim, FAILURE, timedelta(0)),
    "release": lambda one: Released(one.id, one.claim),
}
each_outcome = pytest.mark.parametrize("outcome", OUTCOMES.values(), ids=OUTCOMES.keys())


async def test_a_completion_keeps_the_result_and_who_finished(db: Harness) -> None:
    owner, fetched = await db.running()
    verdict = await db.complete(fetched, {"sum": [1, 2.5, None]})
    assert verdict == Verdict(fetched.id, Disposition.RECORDED, ExecutionState.COMPLETED)
    assert verdict.accepted
    found = await db.get(fetched.id)
    assert found.state is ExecutionState.COMPLETED
    assert found.result == {"sum": [1, 2.5, None]}
    assert found.finished_by == owner.orchestrator_id
    assert found.finished_at is not None
    assert found.created_at <= found.finished_at <= await db.now()
    assert empty(found, "locked_by", "locked_at", "claim_number", "last_error")
    assert found.attempts == 1


async def test_a_completion_without_a_result(db: Harness) -> None:
    _, fetched = await db.running()
    await db.complete(fetched)
    found = await db.get(fetched.id)
    assert (found.state, found.result) == (ExecutionState.COMPLETED, None)


async def test_a_final_failure(db: Harness) -> None:
    """B4: it is marked as failed, whatever attempts are left."""
    owner, fetched = await db.running()
    verdict = await db.fail(fetched, retry_after=None)
    assert verdict == Verdict(fetched.id, Disposition.RECORDED, ExecutionState.FAILED)
    found = await db.get(fetched.id)
    assert (found.state, found.finished_by) == (ExecutionState.FAILED, owner.orchestrator_id)
    assert found.finished_at is not None
    assert (found.last_error, found.last_error_type) == (FAILURE.message, FAILURE.type)
    assert found.last_error_traceback == FAILURE.traceback
    assert (found.result, found.locked_by) == (None, None)
    assert await db.fetch(await db.register()) == []


async def test_a_failure_with_attempts_left_is_tried_again_later(db: Harness) -> None:
    """I6: later by the database's clock; the error is kept."""
    owner, fetched = await db.running()
    before = await db.now()
    verdict = await db.fail(fetched, retry_after=HOUR)
    assert verdict.state is ExecutionState.AVAILABLE
    found = await db.get(fetched.id)
    assert before + HOUR <= found.run_at <= await db.now() + HOUR
    assert (found.last_error, found.attempts, found.finished_at) == (FAILURE.message, 1, None)
    assert empty(found, "locked_by", "finished_by")
    assert await db.fetch(owner) == []
    db.advance(HOUR)
    (again,) = await db.fetch(owner)
    assert (again.id, again.attempt) == (fetched.id, 2)
    await db.complete(again)
    # An operator may want to know what went wrong before it went well.
    assert (await db.get(fetched.id)).last_error == FAILURE.message


async def test_the_last_attempts_failure_is_final(db: Harness) -> None:
    """A2, B4."""
    _, fetched = await db.running(max_attempts=1)
    verdict = await db.fail(fetched, retry_after=HOUR)
    assert verdict.state is ExecutionState.FAILED
    assert (await db.get(fetched.id)).finished_at is not None


async def test_a_release_gives_the_attempt_back(db: Harness) -> None:
    owner, fetched = await db.running(max_attempts=1, priority=4)
    before = await db.get(fetched.id)
    verdict = await db.release(fetched)
    assert verdict == Verdict(fetched.id, Disposition.RECORDED, ExecutionState.AVAILABLE)
    found = await db.get(fetched.id)
    assert (found.attempts, found.crashes, found.run_at) == (0, 0, before.run_at)
    assert empty(found, "locked_by", "finished_at", "last_error")
    (again,) = await db.fetch(owner)
    assert (again.id, again.attempt) == (fetched.id, 1)


async def test_giving_back_for_later_costs_no_attempt(db: Harness) -> None:
    """Whom others have ended does not run into them again at once."""
    owner = await db.register()
    await db.invoke_several(1)
    (fetched,) = await db.fetch(owner)
    delay = timedelta(minutes=5)
    (verdict,) = await db.executions.complete([Released(fetched.id, fetched.claim, delay)])
    assert verdict == Verdict(fetched.id, Disposition.RECORDED, ExecutionState.AVAILABLE)
    found = await db.get(fetched.id)
    assert (found.attempts, found.last_error) == (0, None)
    assert await db.fetch(owner) == []
    db.advance(delay)
    (again,) = await db.fetch(owner)
    assert (again.id, again.attempt) == (fetched.id, 1)


async def test_a_batch_is_answered_in_its_order(db: Harness) -> None:
    """B3, B15: one lost outcome neither spoils the others nor leaves them locked."""
    owner = await db.register()
    ids = await db.invoke_several(5)
    a, b, c, d, e = await db.fetch(owner)
    await db.executions.cancel(d.id)
    stale = Claim(owner.orchestrator_id, 99)
    nobody = new_id()
    verdicts = await db.executions.complete(
        [
            Released(c.id, c.claim),
            Completed(nobody, a.claim),
            Completed(a.id, a.claim, "1"),
            Completed(e.id, stale, "2"),
            Failed(b.id, b.claim, FAILURE),
            Completed(d.id, d.claim, "3"),
        ]
    )
    assert verdicts == [
        Verdict(c.id, Disposition.RECORDED, ExecutionState.AVAILABLE),
        Verdict(nobody, Disposition.LOST, None),
        Verdict(a.id, Disposition.RECORDED, ExecutionState.COMPLETED),
        Verdict(e.id, Disposition.LOST, None),
        Verdict(b.id, Disposition.RECORDED, ExecutionState.FAILED),
        Verdict(d.id, Disposition.RECORDED, ExecutionState.CANCELLED),
    ]
    states = [(await db.get(one)).state.value for one in ids]
    assert states == ["completed", "failed", "available", "cancelled", "running"]


async def test_bad_batches_are_refused_and_write_nothing(db: Harness) -> None:
    _, fetched = await db.running()
    once = Completed(fetched.id, fetched.claim)
    with pytest.raises(InvalidInput, match="same execution"):
        await db.executions.complete([once, Released(fetched.id, fetched.claim)])
    many = [Completed(new_id(), fetched.claim) for _ in range(10_001)]
    with pytest.raises(InvalidInput, match="10000"):
        await db.executions.complete(many)
    assert (await db.get(fetched.id)).state is ExecutionState.RUNNING
    assert await db.executions.complete([]) == []
    async with db.begin() as repositories:
        assert await repositories.executions.complete([]) == []


# --- stale owners --------------------------------------------------------------------------------


async def another_claim(db: Harness, held: Fetched) -> None:
    """Nothing happens: the writer shows a number that it never had."""


async def released(db: Harness, held: Fetched) -> None:
    await db.release(held)


async def fetched_again_by_the_same(db: Harness, held: Fetched) -> None:
    """The same orchestrator holds it, by a later claim."""
    await db.release(held)
    async with db.begin() as repositories:
        later = Claim(held.claim.orchestrator_id, 2)
        (again,) = await repositories.executions.fetch(later, "default", limit=1)
    assert again.id == held.id


async def recovered(db: Harness, held: Fetched) -> None:
    db.advance(HOUR)
    await db.orchestrators.recover_stale(await db.watched_long_enough())
    assert (await db.get(held.id)).state is ExecutionState.AVAILABLE


async def recovered_and_fetched_by_another(db: Harness, held: Fetched) -> None:
    await recovered(db, held)
    (again,) = await db.fetch(await db.register())
    assert again.id == held.id


async def completed_by_another(db: Harness, held: Fetched) -> None:
    await recovered(db, held)
    (again,) = await db.fetch(await db.register())
    await db.complete(again, "the other's")


async def failed_by_another(db: Harness, held: Fetched) -> None:
    await recovered(db, held)
    (again,) = await db.fetch(await db.register())
    await db.fail(again)


async def cancelled_after_recovery(db: Harness, held: Fetched) -> None:
    await recovered(db, held)
    await db.executions.cancel(held.id)


async def retried_by_an_operator(db: Harness, held: Fetched) -> None:
    """Even who finished it owns it no more."""
    await db.fail(held)
    assert await db.executions.retry(held.id)


STALE: list[Callable[[Harness, Fetched], Awaitable[None]]] = [
    another_claim,
    released,
    fetched_again_by_the_same,
    recovered,
    recovered_and_fetched_by_another,
    completed_by_another,
    failed_by_another,
    cancelled_after_recovery,
    retried_by_an_operator,
]


@each_outcome
@pytest.mark.parametrize("lose", STALE, ids=lambda lose: lose.__name__)
async def test_a_stale_owners_write_changes_nothing(
    db: Harness,
    lose: Callable[[Harness, Fetched], Awaitable[None]],
    outcome: Callable[[Fetched], Outcome],
) -> None:
    """I1, I7, B3."""
    _, fetched = await db.running()
    await lose(db, fetched)
    before = await db.get(fetched.id)
    if lose is another_claim:
        fetched = shown_by(Claim(fetched.claim.orchestrator_id, 7), fetched)
    verdict = await db.report(outcome(fetched))
    assert verdict == Verdict(fetched.id, Disposition.LOST, None)
    assert not verdict.accepted
    assert await db.get(fetched.id) == before


def shown_by(claim: Claim, held: Fetched) -> Fetched:
    return replace(held, claim=claim)


@each_outcome
async def test_another_orchestrators_write_changes_nothing(
    db: Harness, outcome: Callable[[Fetched], Outcome]
) -> None:
    """I1: the number alone proves nothing."""
    _, fetched = await db.running()
    other = await db.register()
    before = await db.get(fetched.id)
    verdict = await db.report(outcome(shown_by(other.next_claim(), fetched)))
    assert verdict.disposition is Disposition.LOST
    assert await db.get(fetched.id) == before


# --- lost acknowledgements -----------------------------------------------------------------------


@each_outcome
@pytest.mark.parametrize("first", ["complete", "fail"])
async def test_a_finish_whose_acknowledgement_was_lost_is_recognised(
    db: Harness, first: str, outcome: Callable[[Fetched], Outcome]
) -> None:
    """I1, I7: whatever is reported the second time, what was written stays."""
    _, fetched = await db.running()
    verdict = await db.report(OUTCOMES[first](fetched))
    before = await db.get(fetched.id)
    again = await db.report(outcome(fetched))
    assert again == Verdict(fetched.id, Disposition.KNOWN, verdict.state)
    assert again.accepted
    assert await db.get(fetched.id) == before


async def test_a_cancelled_end_is_recognised_too(db: Harness) -> None:
    _, fetched = await db.running()
    await db.executions.cancel(fetched.id)
    await db.complete(fetched)
    again = await db.complete(fetched)
    assert again == Verdict(fetched.id, Disposition.KNOWN, ExecutionState.CANCELLED)


async def test_a_second_report_of_what_did_not_finish_changes_nothing(db: Harness) -> None:
    """Nothing tells it from a stale write, and nothing needs to: the attempt is over."""
    _, fetched = await db.running()
    await db.fail(fetched, retry_after=HOUR)
    before = await db.get(fetched.id)
    assert (await db.fail(fetched, retry_after=HOUR)).disposition is Disposition.LOST
    assert await db.get(fetched.id) == before


# --- notifications -------------------------------------------------------------------------------


async def test_whoever_waits_is_told_of_the_end(db: Harness) -> None:
    owner = await db.register()
    awaited, ignored, failing, again, given_back = await db.invoke_several(5)
    for one in (awaited, failing, again):
        await db.executions.mark_awaited(one)
    batch = {one.id: one for one in await db.fetch(owner)}
    async with db.notifications() as sent:
        await db.complete(batch[awaited])
        await db.complete(batch[ignored])
        await db.fail(batch[failing])
        await db.fail(batch[again], retry_after=HOUR)
        await db.release(batch[given_back])
    assert sent == [
        ("pgconductor_finished", str(awaited)),
        ("pgconductor_finished", str(failing)),
        ("pgconductor_available", "default"),
    ]


async def test_awaiting_what_has_finished_or_never_was_does_nothing(db: Harness) -> None:
    there = await db.in_state(ExecutionState.FAILED)
    await db.executions.mark_awaited(there)
    await db.executions.mark_awaited(new_id())
    assert await db.executions.retry(there)
    (fetched,) = await db.fetch(await db.register())
    async with db.notifications() as sent:
        await db.complete(fetched)
    assert sent == []
