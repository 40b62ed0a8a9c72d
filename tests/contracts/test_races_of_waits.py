"""Races on PostgreSQL around waits: no wake-up is lost, and nobody waits in a circle."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from pgconductor.domain.claims import Fetched
from pgconductor.domain.orchestrators import Recovery
from pgconductor.domain.outcomes import Completed, Disposition, Failed, Suspended
from pgconductor.domain.steps import ChildSpec, Due, Started, StepRecord, StepStart
from pgconductor.exceptions import OwnershipLost
from pgconductor.repositories import Repositories, sql_repositories
from pgconductor.types import ExecutionState
from tests.contracts.harness import FAILURE, PostgresHarness
from tests.contracts.waits import (
    HOUR,
    begin,
    begin_child,
    child,
    emit,
    ended,
    event,
    fetched_again,
    history,
    parent_and_child,
    settle,
    sleep,
    suspend,
)

AVAILABLE, RUNNING = ExecutionState.AVAILABLE, ExecutionState.RUNNING
WAITING, COMPLETED = ExecutionState.WAITING, ExecutionState.COMPLETED
CANCELLED, FAILED = ExecutionState.CANCELLED, ExecutionState.FAILED


async def report_suspended(repositories: Repositories, held: Fetched) -> None:
    await repositories.executions.complete([Suspended(held.id, held.claim, 0)])


async def due(db: PostgresHarness) -> Due:
    async with db.begin() as repositories:
        return await repositories.steps.due(limit=9)


async def settle_unowned(db: PostgresHarness, *ids: UUID) -> None:
    await db.steps.settle(dict.fromkeys(ids))


async def left_out(db: PostgresHarness, execution: UUID) -> bool:
    """Whether settling passes it over, and does not wait for its lock."""
    async with db.impatient() as repositories:
        return await repositories.steps.settle({execution: None}) == []


async def record_in(repositories: Repositories, held: Fetched) -> None:
    await repositories.steps.record_many([StepRecord(held.id, held.claim, "step", "1")])


async def start_many(db: PostgresHarness, *starts: StepStart) -> list[Started]:
    return await db.steps.start_many(starts)


async def record_many(db: PostgresHarness, held: Fetched) -> Sequence[Any]:
    return await db.steps.record_many([StepRecord(held.id, held.claim, "late", "1")])


async def state(db: PostgresHarness, execution: UUID) -> ExecutionState:
    return (await db.get(execution)).state


# --- suspending while something comes ------------------------------------------------------------


async def test_settling_leaves_out_a_suspension_and_comes_again(postgres: PostgresHarness) -> None:
    """B2: the child has ended, and its parent is not waiting yet. It stays due."""
    parent, made = await parent_and_child(postgres)
    await postgres.complete(made)
    async with postgres.begin() as suspending:
        await report_suspended(suspending, parent)
        assert await left_out(postgres, parent.id)
    assert await state(postgres, parent.id) is WAITING
    assert (await due(postgres)).execution_ids == (parent.id,)
    await postgres.steps.settle_due()
    assert await state(postgres, parent.id) is AVAILABLE


async def test_a_suspension_waits_for_settling_and_is_none(postgres: PostgresHarness) -> None:
    """B2: what the handler has not seen keeps it available."""
    parent, made = await parent_and_child(postgres)
    await postgres.complete(made)
    async with postgres.begin() as settling:
        await settling.steps.settle({parent.id: None})
        suspending = await postgres.blocked(suspend(postgres, parent))
    assert (await suspending).state is AVAILABLE
    assert (await postgres.steps.histories([parent.id]))[parent.id].wakes == 1


async def test_a_suspension_whose_settling_rolls_back_waits(postgres: PostgresHarness) -> None:
    parent, made = await parent_and_child(postgres)
    await postgres.complete(made)
    async with postgres.rolled_back() as settling:
        await settling.steps.settle({parent.id: None})
        suspending = await postgres.blocked(suspend(postgres, parent))
    assert (await suspending).state is WAITING
    await postgres.steps.settle_due()
    assert await state(postgres, parent.id) is AVAILABLE


async def test_a_child_that_commits_after_its_parent_is_suspended(
    postgres: PostgresHarness,
) -> None:
    """Nobody could see its end when the parent's waits were looked at last."""
    parent, made = await parent_and_child(postgres)
    async with postgres.begin() as completing:
        await completing.executions.complete([Completed(made.id, made.claim, "1")])
        assert (await settle(postgres, parent)).ended == ()
        assert (await suspend(postgres, parent)).state is WAITING
        assert await due(postgres) == Due()
    assert await due(postgres) == Due((parent.id,))
    await postgres.steps.settle_due()
    assert await state(postgres, parent.id) is AVAILABLE
    assert await postgres.results(parent.id) == {"child": "1"}


async def test_a_child_ends_while_its_parent_is_being_settled(postgres: PostgresHarness) -> None:
    """Its end was not seen: it must not pass for told."""
    parent, made = await parent_and_child(postgres)
    await begin(postgres, sleep(parent))
    postgres.advance(HOUR)
    async with postgres.engine.begin() as holder:
        # Settling knows by then what has come, and waits to write it down.
        await holder.execute(text("SELECT FROM pgconductor.steps WHERE key = 'sleep' FOR SHARE"))
        settling = await postgres.blocked(settle_unowned(postgres, parent.id))
        await postgres.complete(made, 1)
    await settling
    assert await due(postgres) == Due((parent.id,))
    await postgres.steps.settle_due()
    assert (await ended(postgres, parent))["child"].result == "1"


async def test_two_settle_at_once(postgres: PostgresHarness) -> None:
    _, held = await postgres.running()
    await begin(postgres, sleep(held))
    await suspend(postgres, held)
    postgres.advance(HOUR)
    async with postgres.notifications() as sent, postgres.begin() as first:
        await first.steps.settle({held.id: None})
        assert await left_out(postgres, held.id)
    assert (await postgres.steps.histories([held.id]))[held.id].wakes == 1
    assert sent == [("pgconductor_available", "default")]


async def test_a_fetch_passes_over_what_is_being_settled(postgres: PostgresHarness) -> None:
    owner, held = await postgres.running()
    await begin(postgres, sleep(held))
    await suspend(postgres, held)
    postgres.advance(HOUR)
    await settle_unowned(postgres, held.id)
    async with postgres.begin() as settling:
        await settling.steps.settle({held.id: None})
        async with postgres.impatient() as fetching:
            assert await fetching.executions.fetch(owner.next_claim(), "default", limit=1) == []
    await fetched_again(postgres, owner, held)


# --- events --------------------------------------------------------------------------------------


async def test_an_event_commits_after_the_wait_was_looked_at(postgres: PostgresHarness) -> None:
    _, held = await postgres.running()
    async with postgres.begin() as emitting:
        await emitting.steps.emit("paid", "1")
        await begin(postgres, event(held))
        assert (await settle(postgres, held)).ended == ()
        await suspend(postgres, held)
        await postgres.steps.settle_due()
        assert await state(postgres, held.id) is WAITING
    await postgres.steps.settle_due()
    assert await state(postgres, held.id) is AVAILABLE
    assert await postgres.results(held.id) == {"event": "1"}


async def test_a_wait_commits_after_the_event_was_looked_at(postgres: PostgresHarness) -> None:
    """Its owner looks once the wait is committed, and finds what everybody is done with."""
    _, held = await postgres.running()
    async with postgres.begin() as starting:
        await starting.steps.start_many([event(held)])
        await emit(postgres, "paid", "1")
        await postgres.steps.settle_due()
        assert await due(postgres) == Due()
    assert (await ended(postgres, held))["event"].result == "1"


# --- cancelling families -------------------------------------------------------------------------


async def test_a_cancellation_waits_for_the_end_of_a_parent(postgres: PostgresHarness) -> None:
    """I7: it comes too late, for the children as well."""
    parent, made = await parent_and_child(postgres)
    async with postgres.begin() as completing:
        await completing.executions.complete([Completed(parent.id, parent.claim, "1")])
        cancel = await postgres.blocked(postgres.executions.cancel(parent.id))
    assert await cancel is False
    assert (await postgres.get(made.id)).cancel_requested_at is None
    assert (await postgres.complete(made)).state is COMPLETED


async def test_a_parent_ends_while_it_is_being_cancelled(postgres: PostgresHarness) -> None:
    parent, made = await parent_and_child(postgres)
    async with postgres.begin() as cancelling:
        assert await cancelling.executions.cancel(parent.id)
        first = await postgres.blocked(postgres.complete(parent, 1))
        second = await postgres.blocked(postgres.complete(made, 1))
    assert [(await first).state, (await second).state] == [CANCELLED, CANCELLED]


async def test_a_cancellation_waits_for_the_end_of_a_child(postgres: PostgresHarness) -> None:
    parent, made = await parent_and_child(postgres)
    async with postgres.begin() as completing:
        await completing.executions.complete([Completed(made.id, made.claim, "1")])
        cancel = await postgres.blocked(postgres.executions.cancel(parent.id))
    assert await cancel is True
    found = await postgres.get(made.id)
    assert (found.state, found.result, found.cancel_requested_at) == (COMPLETED, 1, None)


async def test_a_cancellation_waits_for_a_child_that_is_being_invoked(
    postgres: PostgresHarness,
) -> None:
    _, parent = await postgres.running()
    async with postgres.begin() as starting:
        (started,) = await starting.steps.start_many([child(parent)])
        cancel = await postgres.blocked(postgres.executions.cancel(parent.id))
    assert await cancel is True
    assert started.recorded is not None
    assert started.recorded.child_id is not None
    assert await state(postgres, started.recorded.child_id) is CANCELLED


async def test_a_child_of_what_is_being_cancelled_is_not_invoked(
    postgres: PostgresHarness,
) -> None:
    _, parent = await postgres.running()
    async with postgres.begin() as cancelling:
        assert await cancelling.executions.cancel(parent.id)
        starting = await postgres.blocked(start_many(postgres, child(parent), sleep(parent)))
    refused, begun = await starting
    assert refused == Started(True, None)
    assert begun.recorded is not None
    assert set(await history(postgres, parent)) == {"sleep"}
    assert len((await postgres.executions.list()).items) == 1


async def test_settling_leaves_out_a_cancellation(postgres: PostgresHarness) -> None:
    """I7: it has ended for good."""
    _, held = await postgres.running()
    await begin(postgres, sleep(held))
    await suspend(postgres, held)
    postgres.advance(HOUR)
    async with postgres.begin() as cancelling:
        assert await cancelling.executions.cancel(held.id)
        assert await left_out(postgres, held.id)
    await postgres.steps.settle_due()
    assert await state(postgres, held.id) is CANCELLED


# --- recovery ------------------------------------------------------------------------------------


async def test_recovery_passes_over_what_is_beginning(postgres: PostgresHarness) -> None:
    owner, held = await postgres.running()
    async with postgres.begin() as starting:
        await starting.steps.start_many([child(held)])
        async with postgres.impatient() as recovery:
            taken = await recovery.executions.take_back(
                owner.orchestrator_id, limit=9, crashed=True
            )
    assert taken == Recovery()
    assert set(await history(postgres, held)) == {"child"}


async def test_what_begins_too_late_waits_for_recovery_and_is_refused(
    postgres: PostgresHarness,
) -> None:
    """I1."""
    owner, held = await postgres.running()
    async with postgres.begin() as recovery:
        await recovery.executions.take_back(owner.orchestrator_id, limit=9, crashed=True)
        starting = await postgres.blocked(start_many(postgres, child(held), event(held)))
    assert await starting == [Started(False, None)] * 2
    assert await history(postgres, held) == {}
    assert len((await postgres.executions.list()).items) == 1


async def test_what_is_recorded_too_late_waits_for_recovery_and_is_refused(
    postgres: PostgresHarness,
) -> None:
    """I1."""
    owner, held = await postgres.running()
    async with postgres.begin() as recovery:
        await recovery.executions.take_back(owner.orchestrator_id, limit=9, crashed=True)
        recording = await postgres.blocked(record_many(postgres, held))
    (lost,) = await recording
    assert isinstance(lost, OwnershipLost)
    assert await history(postgres, held) == {}


async def test_recovery_passes_over_what_is_being_suspended(postgres: PostgresHarness) -> None:
    owner, held = await postgres.running()
    async with postgres.begin() as suspending:
        await report_suspended(suspending, held)
        async with postgres.impatient() as recovery:
            taken = await recovery.executions.take_back(
                owner.orchestrator_id, limit=9, crashed=True
            )
    assert taken == Recovery()
    found = await postgres.get(held.id)
    assert (found.state, found.crashes) == (WAITING, 0)


async def test_a_suspension_waits_for_recovery_and_is_refused(postgres: PostgresHarness) -> None:
    """I1."""
    owner, held = await postgres.running()
    async with postgres.begin() as recovery:
        await recovery.executions.take_back(owner.orchestrator_id, limit=9, crashed=True)
        suspending = await postgres.blocked(suspend(postgres, held))
    assert (await suspending).disposition is Disposition.LOST
    assert await state(postgres, held.id) is AVAILABLE


# --- retrying ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
async def test_a_child_ends_while_its_parent_is_being_retried(
    postgres: PostgresHarness, fails: bool
) -> None:
    """The retry does not see it yet: the parent goes on waiting, and is told like any other."""
    owner = await postgres.register()
    parent, made = await parent_and_child(postgres)
    await postgres.fail(parent)
    end = Failed(made.id, made.claim, FAILURE) if fails else Completed(made.id, made.claim, "1")
    async with postgres.begin() as ending:
        await ending.executions.complete([end])
        assert await postgres.executions.retry(parent.id)
    again = await fetched_again(postgres, owner, parent)
    await postgres.steps.settle_due()
    found = (await ended(postgres, again))["child"]
    assert (found.result, found.error) == ((None, FAILURE.message) if fails else ("1", None))


async def test_a_retry_waits_for_settling_and_drops_what_that_has_ended(
    postgres: PostgresHarness,
) -> None:
    parent, made = await parent_and_child(postgres)
    await begin(postgres, event(parent, delay=HOUR))
    await postgres.fail(parent)
    await postgres.fail(made)
    postgres.advance(HOUR)
    async with postgres.begin() as settling:
        await settling.steps.settle({parent.id: None})
        retry = await postgres.blocked(postgres.executions.retry(parent.id))
    assert await retry is True
    assert await history(postgres, parent) == {}


async def test_settling_leaves_out_a_retry(postgres: PostgresHarness) -> None:
    """What that has dropped does not come back."""
    parent, made = await parent_and_child(postgres)
    await postgres.fail(parent)
    await postgres.fail(made)
    async with postgres.begin() as retrying:
        assert await retrying.executions.retry(parent.id)
        assert await left_out(postgres, parent.id)
    await postgres.steps.settle_due()
    found = (await postgres.steps.histories([parent.id]))[parent.id]
    assert (found.records, found.wakes) == ({}, 0)
    assert await due(postgres) == Due()


async def test_a_retry_of_a_child_whose_parent_is_being_told(postgres: PostgresHarness) -> None:
    """Whichever comes first, the child is neither waited for without end nor kept for ever."""
    owner = await postgres.register()
    parent, made = await parent_and_child(postgres)
    await postgres.fail(made)
    async with postgres.begin() as settling:
        await settling.steps.settle({parent.id: None})
        retry = await postgres.blocked(postgres.executions.retry(made.id))
    assert await retry is True
    (again,) = await postgres.fetch(owner, queue="children")
    await postgres.complete(again)
    await postgres.steps.settle_due()
    assert await due(postgres) == Due()
    assert (await ended(postgres, parent))["child"].error == FAILURE.message


# --- the order of locks --------------------------------------------------------------------------


async def two_running(db: PostgresHarness) -> tuple[Fetched, Fetched]:
    """A parent, and its child of a smaller id: a clock somewhere is slow."""
    owner, parent = await db.running()
    made = await begin_child(db, parent, child=ChildSpec(UUID(int=7), "children"))
    (fetched,) = await db.fetch(owner, queue="children")
    assert fetched.id == made < parent.id
    return fetched, parent


WAITING_FOR_BOTH: dict[str, Callable[[Repositories, Fetched, Fetched], Awaitable[Any]]] = {
    "cancel": lambda all_, a, _: all_.executions.cancel(a.id),
    "complete": lambda all_, *held: all_.executions.complete(
        [Completed(one.id, one.claim) for one in held]
    ),
    "fail": lambda all_, *held: all_.executions.complete(
        [Failed(one.id, one.claim, FAILURE) for one in held]
    ),
    "complete and fail": lambda all_, a, b: all_.executions.complete(
        [Completed(a.id, a.claim), Failed(b.id, b.claim, FAILURE)]
    ),
    "suspend": lambda all_, *held: all_.executions.complete(
        [Suspended(one.id, one.claim, 0) for one in held]
    ),
    "start": lambda all_, *held: all_.steps.start_many([sleep(one) for one in held]),
    "record": lambda all_, *held: all_.steps.record_many(
        [StepRecord(one.id, one.claim, "a") for one in held]
    ),
}


@pytest.mark.parametrize("who", WAITING_FOR_BOTH)
async def test_everybody_locks_in_the_order_of_the_ids(postgres: PostgresHarness, who: str) -> None:
    """I9: whoever waits for the smaller one has not locked the greater one."""
    small, great = await two_running(postgres)
    lock = text("SELECT FROM pgconductor.executions WHERE id = :id FOR UPDATE NOWAIT")

    async def wait() -> None:
        async with postgres.engine.begin() as connection:
            # As in a table that is worth an index: results are written in the order of this.
            await connection.execute(text("SET LOCAL enable_seqscan = off"))
            await WAITING_FOR_BOTH[who](sql_repositories(connection), great, small)

    free = False
    async with postgres.engine.begin() as holder:
        await holder.execute(lock, {"id": small.id})
        task = await postgres.blocked(wait())
        with suppress(DBAPIError):
            await holder.execute(lock, {"id": great.id})
            free = True
    await task
    assert free


async def test_a_child_that_is_locked_does_not_keep_its_end_from_its_parent(
    postgres: PostgresHarness,
) -> None:
    """It is marked as told of when it is free."""
    parent, made = await parent_and_child(postgres)
    await postgres.complete(made)
    async with postgres.engine.begin() as holder:
        lock = text("SELECT FROM pgconductor.executions WHERE id = :id FOR UPDATE")
        await holder.execute(lock, {"id": made.id})
        assert not await left_out(postgres, parent.id)
        assert (await due(postgres)).execution_ids == (parent.id,)
        # It ends, though the same is due again and again.
        await postgres.steps.settle_due()
    assert set(await ended(postgres, parent)) == {"child"}
    await postgres.steps.settle_due()
    assert await due(postgres) == Due()


async def test_an_event_is_looked_at_until_all_were_told(postgres: PostgresHarness) -> None:
    """B2: also whoever was locked just then."""
    one, other = await two_running(postgres)
    await begin(postgres, event(one), event(other))
    await emit(postgres)
    async with postgres.begin() as holder:
        await record_in(holder, one)
        assert await postgres.steps.settle_due() is not None
        assert len((await due(postgres)).event_ids) == 1
        assert set(await ended(postgres, other)) == {"event"}
    await postgres.steps.settle_due()
    assert await due(postgres) == Due()
    assert set(await ended(postgres, one)) == {"event"}


async def test_a_child_that_has_ended_is_not_waited_for(postgres: PostgresHarness) -> None:
    """However long somebody looks at it."""
    parent, made = await parent_and_child(postgres)
    await postgres.complete(made)
    async with postgres.engine.begin() as reader:
        await reader.execute(
            text("SELECT FROM pgconductor.executions WHERE id = :id FOR UPDATE"), {"id": made.id}
        )
        async with postgres.impatient() as cancelling:
            assert await cancelling.executions.cancel(parent.id)
