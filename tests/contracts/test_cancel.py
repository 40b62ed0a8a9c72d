"""Cancel: at once what nobody holds, at the next boundary what somebody holds; it wins."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from pgconductor.domain.claims import Fetched
from pgconductor.domain.ids import new_id
from pgconductor.domain.outcomes import Completed, Disposition, Failed, Outcome, Released
from pgconductor.types import ExecutionState
from tests.contracts.harness import FAILURE, Harness, empty

CANCELLED = ExecutionState.CANCELLED
REPORTS: dict[str, Callable[[Fetched], Outcome]] = {
    "complete": lambda one: Completed(one.id, one.claim, "1"),
    "fail": lambda one: Failed(one.id, one.claim, FAILURE),
    "fail and retry": lambda one: Failed(one.id, one.claim, FAILURE, timedelta(0)),
    "release": lambda one: Released(one.id, one.claim),
}


@pytest.mark.parametrize("state", [ExecutionState.AVAILABLE, ExecutionState.WAITING])
async def test_what_nobody_holds_ends_at_once(db: Harness, state: ExecutionState) -> None:
    there = await db.in_state(state)
    before = await db.now()
    assert await db.executions.cancel(there, reason="changed my mind")
    found = await db.get(there)
    assert (found.state, found.cancel_reason) == (CANCELLED, "changed my mind")
    assert found.finished_at is not None
    assert found.cancel_requested_at is not None
    assert before <= found.finished_at <= await db.now()
    assert (found.finished_by, found.result, found.attempts) == (None, None, 0)
    assert await db.fetch(await db.register()) == []


async def test_what_somebody_holds_is_asked_to_end(db: Harness) -> None:
    owner, fetched = await db.running()
    other, _ = await db.running()
    before = await db.get(fetched.id)
    assert await db.executions.cancel(fetched.id, reason="first")
    found = await db.get(fetched.id)
    assert (found.state, found.locked_by) == (ExecutionState.RUNNING, owner.orchestrator_id)
    assert (found.finished_at, found.attempts) == (None, before.attempts)
    asked_at = found.cancel_requested_at
    assert asked_at is not None
    # A level: told at every beat, to its owner only.
    for _ in range(2):
        assert (await db.orchestrators.heartbeat(owner)).cancellations == {fetched.id}
    assert (await db.orchestrators.heartbeat(other)).cancellations == frozenset()
    db.advance(timedelta(minutes=1))
    assert await db.executions.cancel(fetched.id, reason="second")
    found = await db.get(fetched.id)
    assert (found.cancel_reason, found.cancel_requested_at) == ("first", asked_at)


async def test_a_reason_may_come_later(db: Harness) -> None:
    _, fetched = await db.running()
    assert await db.executions.cancel(fetched.id)
    assert await db.executions.cancel(fetched.id, reason="late")
    assert (await db.get(fetched.id)).cancel_reason == "late"


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS.keys())
async def test_a_cancellation_wins_over_what_the_handler_did(
    db: Harness, report: Callable[[Fetched], Outcome]
) -> None:
    """B4: also over the retry of a failure; even a handler that swallows it ends as cancelled."""
    owner, fetched = await db.running()
    await db.executions.cancel(fetched.id)
    verdict = await db.report(report(fetched))
    assert (verdict.disposition, verdict.state) == (Disposition.RECORDED, CANCELLED)
    found = await db.get(fetched.id)
    assert (found.state, found.result) == (CANCELLED, None)
    assert found.finished_by == owner.orchestrator_id
    assert found.finished_at is not None
    assert empty(found, "locked_by", "claim_number")
    assert (await db.orchestrators.heartbeat(owner)).cancellations == frozenset()
    assert await db.fetch(owner) == []


async def test_a_cancelled_failure_keeps_its_error(db: Harness) -> None:
    _, fetched = await db.running()
    await db.executions.cancel(fetched.id)
    await db.fail(fetched, retry_after=timedelta(0))
    assert (await db.get(fetched.id)).last_error == FAILURE.message


async def test_a_cancellation_wins_over_a_crash(db: Harness) -> None:
    """Also over the last one."""
    owner, fetched = await db.running(max_crashes=1)
    await db.executions.cancel(fetched.id)
    await db.crash(owner)
    found = await db.get(fetched.id)
    assert (found.state, found.finished_by) == (CANCELLED, None)
    assert (found.crashes, found.attempts, found.last_error) == (1, 0, None)


async def test_a_cancellation_wins_over_leaving(db: Harness) -> None:
    owner, fetched = await db.running()
    await db.executions.cancel(fetched.id)
    recovery = await db.orchestrators.leave(owner)
    assert (recovery.cancelled, recovery.available) == (1, 0)
    found = await db.get(fetched.id)
    assert (found.state, found.crashes) == (CANCELLED, 0)


@pytest.mark.parametrize("state", [one for one in ExecutionState if one.finished])
async def test_what_has_finished_cannot_be_cancelled(db: Harness, state: ExecutionState) -> None:
    """I7."""
    there = await db.in_state(state)
    before = await db.get(there)
    assert not await db.executions.cancel(there, reason="too late")
    assert await db.get(there) == before


async def test_what_never_was_cannot_be_cancelled(db: Harness) -> None:
    assert not await db.executions.cancel(new_id())


@pytest.mark.parametrize("reason", ["nul \x00", "\ud800"])
async def test_a_reason_that_cannot_be_stored_is_refused(db: Harness, reason: str) -> None:
    there = await db.invoke()
    with pytest.raises(ValueError, match="reason"):
        await db.executions.cancel(there, reason=reason)
    assert (await db.get(there)).state is ExecutionState.AVAILABLE


async def test_owner_and_waiters_are_told(db: Harness) -> None:
    owner, fetched = await db.running()
    awaited, ignored = await db.invoke_several(2)
    await db.executions.mark_awaited(awaited)
    async with db.notifications() as sent:
        await db.executions.cancel(fetched.id)
        await db.executions.cancel(awaited)
        await db.executions.cancel(ignored)
    assert sent == [
        ("pgconductor_control", str(owner.orchestrator_id)),
        ("pgconductor_finished", str(awaited)),
    ]
