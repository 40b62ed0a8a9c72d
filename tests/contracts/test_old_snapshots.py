"""Races on PostgreSQL in the narrowest gap: a statement has its snapshot, and no lock yet.

Read committed looks at the newest version of a row once it has the row's lock; what was decided
before, or computed from the version in the snapshot, must not get through.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

import pytest

from pgconductor.domain.claims import Fetched
from pgconductor.domain.orchestrators import Recovery
from pgconductor.domain.outcomes import Disposition, Verdict
from pgconductor.types import ExecutionState
from tests.contracts.harness import STALE_AFTER, PostgresHarness

AVAILABLE, RUNNING = ExecutionState.AVAILABLE, ExecutionState.RUNNING
COMPLETED, CANCELLED = ExecutionState.COMPLETED, ExecutionState.CANCELLED
FETCH, FETCH_OWNER = "e.attempts < e.max_attempts", "o.id = CAST(:orchestrator_id AS uuid)"
HELD = "e.state = 'running'"
End = Callable[[PostgresHarness, Fetched], Coroutine[Any, Any, Verdict]]
#: Results have a statement of their own; a failure stands for all other outcomes.
ENDS = pytest.mark.parametrize(
    ("name", "end"),
    [
        ("COMPLETE_RESULTS", lambda db, held: db.complete(held, "done")),
        ("COMPLETE", lambda db, held: db.fail(held)),
    ],
    ids=["completed", "failed"],
)


async def take_back(db: PostgresHarness, held: Fetched) -> Recovery:
    async with db.begin() as repositories:
        return await repositories.executions.take_back(
            held.claim.orchestrator_id, limit=9, crashed=True
        )


async def test_a_cancellation_slips_in_before_a_recovery(postgres: PostgresHarness) -> None:
    _, held = await postgres.running()
    async with postgres.paused("TAKE_BACK", HELD, take_back(postgres, held)) as recovery:
        assert await postgres.executions.cancel(held.id, reason="in the gap")
    assert await recovery == Recovery(cancelled=1)
    found = await postgres.get(held.id)
    assert (found.state, found.cancel_reason, found.crashes) == (CANCELLED, "in the gap", 1)


async def test_a_completion_slips_in_before_a_recovery(postgres: PostgresHarness) -> None:
    """I7: a rescuer never overwrites a finished row."""
    _, held = await postgres.running()
    async with postgres.paused("TAKE_BACK", HELD, take_back(postgres, held)) as recovery:
        await postgres.complete(held, "done")
    assert await recovery == Recovery()
    found = await postgres.get(held.id)
    assert (found.state, found.result, found.crashes) == (COMPLETED, "done", 0)


async def test_a_new_owner_slips_in_before_a_recovery(postgres: PostgresHarness) -> None:
    """I1: what the dead one no longer holds is left alone."""
    other = await postgres.register()
    _, held = await postgres.running()
    async with postgres.paused("TAKE_BACK", HELD, take_back(postgres, held)) as recovery:
        await postgres.release(held)
        (again,) = await postgres.fetch(other)
    assert await recovery == Recovery()
    assert (await postgres.complete(again)).disposition is Disposition.RECORDED


@ENDS
async def test_a_cancellation_slips_in_before_the_end(
    postgres: PostgresHarness, name: str, end: End
) -> None:
    _, held = await postgres.running()
    async with postgres.paused(name, HELD, end(postgres, held)) as ended:
        assert await postgres.executions.cancel(held.id, reason="in the gap")
    assert (await ended).state is CANCELLED
    found = await postgres.get(held.id)
    assert (found.state, found.result, found.cancel_reason) == (CANCELLED, None, "in the gap")


@ENDS
async def test_a_new_owner_slips_in_before_the_end(
    postgres: PostgresHarness, name: str, end: End
) -> None:
    """I1."""
    other = await postgres.register()
    _, held = await postgres.running()
    async with postgres.paused(name, HELD, end(postgres, held)) as ended:
        await take_back(postgres, held)
        (again,) = await postgres.fetch(other)
    assert (await ended).disposition is Disposition.LOST
    found = await postgres.get(held.id)
    assert (found.state, found.locked_by) == (RUNNING, other.orchestrator_id)
    assert again.id == held.id


@ENDS
async def test_somebody_waits_for_the_end_in_the_gap(
    postgres: PostgresHarness, name: str, end: End
) -> None:
    """Who asked before the row was locked is told."""
    _, held = await postgres.running()
    async with postgres.notifications() as sent:
        async with postgres.paused(name, HELD, end(postgres, held)) as ended:
            await postgres.executions.mark_awaited(held.id)
        assert (await ended).accepted
    assert sent == [("pgconductor_finished", str(held.id))]


async def test_the_row_is_removed_before_its_orchestrator_is_locked(
    postgres: PostgresHarness,
) -> None:
    """I2: the fetch has seen the orchestrator in its snapshot, and gets nothing."""
    owner = await postgres.register()
    there = await postgres.invoke()
    async with postgres.paused("FETCH", FETCH_OWNER, postgres.fetch(owner)) as fetch:
        await postgres.orchestrators.leave(owner)
    assert await fetch == []
    assert (await postgres.get(there)).state is AVAILABLE


async def test_a_shutdown_is_asked_for_before_the_orchestrator_is_locked(
    postgres: PostgresHarness,
) -> None:
    """I2: recovery in several batches relies on it."""
    owner = await postgres.register()
    there = await postgres.invoke()
    postgres.advance(STALE_AFTER * 2)
    async with (
        postgres.paused("FETCH", FETCH_OWNER, postgres.fetch(owner)) as fetch,
        postgres.begin() as recovery,
    ):
        (beat,) = await recovery.orchestrators.beats(None, stale_after=STALE_AFTER)
        assert await recovery.orchestrators.lock_stale(beat, stale_after=STALE_AFTER)
    assert await fetch == []
    assert (await postgres.get(there)).state is AVAILABLE


@pytest.mark.parametrize("gap", ["cancelled", "fetched", "completed", "postponed", "used up"])
async def test_an_execution_changes_before_it_is_fetched(
    postgres: PostgresHarness, gap: str
) -> None:
    """I1, I7, A2: the newest version of the row decides."""
    owner, other = await postgres.register(), await postgres.register()
    there = await postgres.invoke(max_attempts=2)
    async with postgres.paused("FETCH", FETCH, postgres.fetch(owner)) as fetch:
        if gap == "cancelled":
            await postgres.executions.cancel(there)
        else:
            (held,) = await postgres.fetch(other)
            if gap == "completed":
                await postgres.complete(held)
            elif gap == "postponed":
                await postgres.fail(held, retry_after=timedelta(hours=1))
            elif gap == "used up":
                await postgres.fail(held, retry_after=timedelta(0))
                (held,) = await postgres.fetch(other)
                await postgres.fail(held, retry_after=timedelta(0))
        before = await postgres.get(there)
    assert await fetch == []
    assert await postgres.get(there) == before


async def test_an_attempt_that_failed_in_the_gap_is_counted(postgres: PostgresHarness) -> None:
    owner, other = await postgres.register(), await postgres.register()
    there = await postgres.invoke(run_at=await postgres.now() - timedelta(hours=1))
    async with postgres.paused("FETCH", FETCH, postgres.fetch(owner)) as fetch:
        (held,) = await postgres.fetch(other)
        # Due again at an instant that the waiting statement takes for past.
        await postgres.fail(held, retry_after=timedelta(hours=-1))
    (again,) = await fetch
    assert (again.id, again.attempt) == (there, 2)
    assert (await postgres.get(there)).attempts == 2
