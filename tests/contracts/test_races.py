"""Races on PostgreSQL, made deterministic: the first transaction is held open by the test, the
second is seen to wait for its lock, or shown not to wait for any.
"""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text

from pgconductor import sql
from pgconductor.domain.ids import new_id
from pgconductor.domain.orchestrators import Recovery
from pgconductor.domain.outcomes import Completed, Disposition, Verdict
from pgconductor.domain.steps import StepRecord
from pgconductor.exceptions import NotRegistered, OwnershipLost, SchemaTooNew
from pgconductor.types import ExecutionState
from tests.contracts.harness import STALE_AFTER, PostgresHarness

COMPLETED, CANCELLED = ExecutionState.COMPLETED, ExecutionState.CANCELLED


# --- fetch ---------------------------------------------------------------------------------------


async def test_fetchers_neither_block_one_another_nor_share(postgres: PostgresHarness) -> None:
    """I1, C: the second passes over what the first has locked, at once."""
    one, two = await postgres.register(), await postgres.register()
    ids = await postgres.invoke_several(5)
    async with postgres.begin() as first:
        taken = await first.executions.fetch(one.next_claim(), "default", limit=2)
        async with postgres.impatient() as second:
            rest = await second.executions.fetch(two.next_claim(), "default", limit=9)
    assert [held.id for held in taken] == ids[:2]
    assert [held.id for held in rest] == ids[2:]
    assert set(await postgres.executions.held(one)) == set(ids[:2])


async def test_many_fetchers_share_everything_exactly_once(postgres: PostgresHarness) -> None:
    ids = await postgres.invoke_several(60)
    owners = [await postgres.register() for _ in range(6)]
    batches = await asyncio.gather(*(postgres.fetch_ids(owner, 7) for owner in owners * 3))
    fetched = [one for batch in batches for one in batch]
    fetched += await postgres.fetch_ids(owners[0])
    assert sorted(fetched) == ids


async def test_a_fetch_waits_for_the_removal_of_its_orchestrator(postgres: PostgresHarness) -> None:
    """I2: and then gets nothing."""
    owner, held = await postgres.running()
    waiting = await postgres.invoke()
    postgres.advance(STALE_AFTER * 2)
    async with postgres.begin() as recovery:
        (beat,) = await recovery.orchestrators.beats(None, stale_after=STALE_AFTER)
        assert await recovery.orchestrators.lock_stale(beat, stale_after=STALE_AFTER)
        fetch = await postgres.blocked(postgres.fetch(owner))
        await recovery.executions.take_back(owner.orchestrator_id, limit=9, crashed=True)
        assert await recovery.orchestrators.remove(owner.orchestrator_id)
    assert await fetch == []
    for one in (held.id, waiting):
        assert (await postgres.get(one)).state is ExecutionState.AVAILABLE


async def test_a_fetch_goes_on_if_its_orchestrator_stays_after_all(
    postgres: PostgresHarness,
) -> None:
    owner = await postgres.register()
    there = await postgres.invoke()
    async with postgres.rolled_back() as leaving:
        assert await leaving.orchestrators.lock(owner.orchestrator_id)
        fetch = await postgres.blocked(postgres.fetch_ids(owner))
        assert await leaving.orchestrators.remove(owner.orchestrator_id)
    assert await fetch == [there]


async def test_an_orchestrator_that_is_fetching_is_not_stale(postgres: PostgresHarness) -> None:
    """I2: its lock is passed over, at once."""
    owner = await postgres.register()
    await postgres.invoke()
    postgres.advance(STALE_AFTER * 2)
    async with postgres.begin() as fetching:
        await fetching.executions.fetch(owner.next_claim(), "default", limit=1)
        async with postgres.impatient() as recovery:
            (beat,) = await recovery.orchestrators.beats(None, stale_after=STALE_AFTER)
            assert beat.late
            assert not await recovery.orchestrators.lock_stale(beat, stale_after=STALE_AFTER)


async def test_leaving_waits_for_a_fetch_and_gives_back_what_it_took(
    postgres: PostgresHarness,
) -> None:
    """I2, I3: a fetch whose answer is lost may still be under way."""
    owner = await postgres.register()
    there = await postgres.invoke()
    async with postgres.begin() as fetching:
        await fetching.executions.fetch(owner.next_claim(), "default", limit=1)
        leave = await postgres.blocked(postgres.orchestrators.leave(owner))
    assert await leave == Recovery(frozenset({owner.orchestrator_id}), available=1)
    assert (await postgres.get(there)).state is ExecutionState.AVAILABLE


async def test_leaving_does_not_wait_for_an_execution_that_is_locked(
    postgres: PostgresHarness,
) -> None:
    """I9: it fetches no more, and is recovered as stale if nothing else ends what it holds."""
    owner = await postgres.register()
    locked, free = await postgres.invoke_several(2)
    await postgres.fetch(owner)
    async with postgres.begin() as canceller:
        await canceller.executions.cancel(locked)
        there = frozenset({owner.orchestrator_id})
        assert await postgres.orchestrators.leave(owner) == Recovery(available=1, left=there)
    assert await postgres.fetch(owner) == []
    (left,) = await postgres.orchestrators.list()
    assert left.shutdown_reason == "leaving"
    assert (await postgres.get(free)).state is ExecutionState.AVAILABLE
    assert await postgres.orchestrators.leave(owner) == Recovery(
        frozenset({owner.orchestrator_id}), cancelled=1
    )


async def test_heartbeats_and_fetches_do_not_block_one_another(postgres: PostgresHarness) -> None:
    owner = await postgres.register()
    await postgres.invoke()
    async with postgres.begin() as fetching:
        await fetching.executions.fetch(owner.next_claim(), "default", limit=1)
        async with postgres.impatient() as beating:
            assert await beating.orchestrators.heartbeat(owner.orchestrator_id)
    await postgres.invoke()
    async with postgres.begin() as beating:
        await beating.orchestrators.heartbeat(owner.orchestrator_id)
        async with postgres.impatient() as fetching:
            assert await fetching.executions.fetch(owner.next_claim(), "default", limit=1)


async def test_a_heartbeat_during_the_removal_finds_no_row(postgres: PostgresHarness) -> None:
    owner, _ = await postgres.running()
    postgres.advance(STALE_AFTER * 2)
    async with postgres.begin() as recovery:
        (beat,) = await recovery.orchestrators.beats(None, stale_after=STALE_AFTER)
        assert await recovery.orchestrators.lock_stale(beat, stale_after=STALE_AFTER)
        heartbeat = await postgres.blocked(postgres.orchestrators.heartbeat(owner))
        await recovery.executions.take_back(owner.orchestrator_id, limit=9, crashed=True)
        assert await recovery.orchestrators.remove(owner.orchestrator_id)
    with pytest.raises(NotRegistered):
        await heartbeat


# --- recovery ------------------------------------------------------------------------------------


async def test_recovery_passes_over_an_owner_that_is_completing(postgres: PostgresHarness) -> None:
    """I1, I7: what it commits stays; its row goes at the next look."""
    owner, held = await postgres.running()
    postgres.advance(STALE_AFTER * 2)
    observer = await postgres.watched_long_enough()
    async with postgres.begin() as completing:
        await completing.executions.complete([Completed(held.id, held.claim, '"mine"')])
        recovery = await postgres.orchestrators.recover_stale(observer)
        assert recovery == Recovery()
    found = await postgres.get(held.id)
    assert (found.state, found.result, found.crashes) == (COMPLETED, "mine", 0)
    recovery = await postgres.orchestrators.recover_stale(observer)
    assert recovery == Recovery(frozenset({owner.orchestrator_id}))


async def test_a_completion_waits_for_recovery_and_is_refused(postgres: PostgresHarness) -> None:
    """I1."""
    owner, held = await postgres.running()
    async with postgres.begin() as recovery:
        await recovery.executions.take_back(owner.orchestrator_id, limit=9, crashed=True)
        complete = await postgres.blocked(postgres.complete(held, "late"))
    assert await complete == Verdict(held.id, Disposition.LOST, None)
    found = await postgres.get(held.id)
    assert (found.state, found.result) == (ExecutionState.AVAILABLE, None)


async def test_a_completion_whose_recovery_rolls_back_is_recorded(
    postgres: PostgresHarness,
) -> None:
    owner, held = await postgres.running()
    async with postgres.rolled_back() as recovery:
        await recovery.executions.take_back(owner.orchestrator_id, limit=9, crashed=True)
        complete = await postgres.blocked(postgres.complete(held))
    assert (await complete).disposition is Disposition.RECORDED


async def test_only_one_recovers_at_a_time(postgres: PostgresHarness) -> None:
    """The second does not wait: it has others to look at."""
    owner, held = await postgres.running()
    postgres.advance(STALE_AFTER * 2)
    one, two = [await postgres.watched_long_enough() for _ in range(2)]
    async with postgres.rolled_back() as first:
        (beat,) = await first.orchestrators.beats(None, stale_after=STALE_AFTER)
        assert await first.orchestrators.lock_stale(beat, stale_after=STALE_AFTER)
        assert await postgres.orchestrators.recover_stale(one) == Recovery()
    assert (await postgres.get(held.id)).state is ExecutionState.RUNNING
    recovery = await postgres.orchestrators.recover_stale(two)
    assert recovery == Recovery(frozenset({owner.orchestrator_id}), available=1)


async def test_two_recoverers_count_every_crash_once(postgres: PostgresHarness) -> None:
    """I3, B1."""
    held = [(await postgres.running())[1].id for _ in range(6)]
    dead = {one.id for one in await postgres.orchestrators.list()}
    postgres.advance(STALE_AFTER * 2)
    observers = [await postgres.watched_long_enough() for _ in range(3)]
    recoveries = await asyncio.gather(
        *(postgres.orchestrators.recover_stale(observer) for observer in observers)
    )
    assert sum(recoveries, Recovery()) == Recovery(frozenset(dead), available=6)
    assert sum(len(one.orchestrators) for one in recoveries) == len(dead)
    assert [(await postgres.get(one)).crashes for one in held] == [1] * 6


# --- steps ---------------------------------------------------------------------------------------


async def test_recovery_passes_over_a_step_that_is_committing(postgres: PostgresHarness) -> None:
    """I4: a transactional step's effects, its row and its fence commit together."""
    owner, held = await postgres.running()
    async with postgres.begin() as step:
        await step.steps.record(StepRecord(held.id, held.claim, "book", "1"))
        async with postgres.impatient() as recovery:
            taken = await recovery.executions.take_back(
                owner.orchestrator_id, limit=9, crashed=True
            )
            assert taken == Recovery()
    assert (await postgres.get(held.id)).state is ExecutionState.RUNNING


async def test_a_step_waits_for_recovery_and_is_refused(postgres: PostgresHarness) -> None:
    """I1, I4."""
    owner, held = await postgres.running()

    async def record() -> None:
        async with postgres.begin() as step:
            await step.steps.record(StepRecord(held.id, held.claim, "book", "1"))

    async with postgres.begin() as recovery:
        await recovery.executions.take_back(owner.orchestrator_id, limit=9, crashed=True)
        late = await postgres.blocked(record())
    with pytest.raises(OwnershipLost):
        await late
    assert await postgres.results(held.id) == {}


async def test_the_same_step_twice_at_once_is_recorded_once(postgres: PostgresHarness) -> None:
    """I4, I5: the second gets the first's result; it has not lost anything."""
    _, held = await postgres.running()

    async def record() -> str | None:
        async with postgres.begin() as step:
            return await step.steps.record(StepRecord(held.id, held.claim, "book", "2"))

    async with postgres.begin() as step:
        await step.steps.record(StepRecord(held.id, held.claim, "book", "1"))
        second = await postgres.blocked(record())
    assert await second == "1"


async def test_steps_of_one_execution_do_not_block_one_another(postgres: PostgresHarness) -> None:
    """I5: they are recorded in any order."""
    _, held = await postgres.running()
    async with postgres.begin() as one:
        await one.steps.record(StepRecord(held.id, held.claim, "a", "1"))
        async with postgres.impatient() as two:
            await two.steps.record(StepRecord(held.id, held.claim, "b", "2"))
    assert set(await postgres.results(held.id)) == {"a", "b"}


# --- the gate ------------------------------------------------------------------------------------


async def test_a_registration_waits_for_a_migration_and_is_refused(
    postgres: PostgresHarness,
) -> None:
    """A6: no older orchestrator slips past a migration that has just counted."""
    async with postgres.engine.begin() as migration:
        await migration.execute(text("UPDATE pgconductor.schema_gate SET installed = 2, floor = 2"))
        register = await postgres.blocked(postgres.register(schema_version=1))
    with pytest.raises(SchemaTooNew):
        await register
    assert await postgres.orchestrators.list() == []


async def test_the_statement_that_registers_waits_by_itself(postgres: PostgresHarness) -> None:
    """A6: also where an engine commits each statement, and the one before it holds nothing."""
    values = {"id": new_id(), "version": "1", "schema_version": 1, "schema_required": 1}
    autocommit = postgres.engine.execution_options(isolation_level="AUTOCOMMIT")
    async with postgres.engine.begin() as migration:
        await migration.execute(text("UPDATE pgconductor.schema_gate SET installed = 2, floor = 2"))
        async with autocommit.connect() as connection:
            register = await postgres.blocked(
                connection.execute(
                    sql.REGISTER, {**values, "hostname": "h", "pid": 1, "queues": ["q"]}
                )
            )
            await migration.commit()
            assert (await register).all() == []
    assert await postgres.orchestrators.list() == []


async def test_a_migration_waits_for_a_registration_and_sees_it(postgres: PostgresHarness) -> None:
    """A6."""
    identity = new_id()
    async with postgres.begin() as registration:
        assert await registration.orchestrators.add(
            identity, version="1", schema_version=1, schema_required=1, hostname="h", pid=1
        )
        gate = await postgres.blocked(postgres.set_schema(2, 2))
    await gate
    swept = await postgres.orchestrators.sweep(below_version=2, reason="revision 0002")
    assert [one.id for one in swept] == [identity]


async def test_registrations_do_not_block_one_another(postgres: PostgresHarness) -> None:
    async with postgres.begin() as one:
        await one.orchestrators.add(
            new_id(), version="1", schema_version=1, schema_required=1, hostname="h", pid=1
        )
        async with postgres.impatient() as two:
            assert await two.orchestrators.add(
                new_id(), version="1", schema_version=1, schema_required=1, hostname="h", pid=2
            )


# --- lost acknowledgements -----------------------------------------------------------------------


async def test_a_completion_tried_again_while_the_first_commits(postgres: PostgresHarness) -> None:
    """I1: recognised as done, though the first was not visible when the second looked."""
    _, held = await postgres.running()
    async with postgres.begin() as first:
        await first.executions.complete([Completed(held.id, held.claim, "1")])
        second = await postgres.blocked(postgres.complete(held, 2))
    assert await second == Verdict(held.id, Disposition.KNOWN, COMPLETED)
    assert (await postgres.get(held.id)).result == 1


async def test_a_completion_tried_again_after_the_first_was_rolled_back(
    postgres: PostgresHarness,
) -> None:
    _, held = await postgres.running()
    async with postgres.rolled_back() as first:
        await first.executions.complete([Completed(held.id, held.claim, "1")])
        second = await postgres.blocked(postgres.complete(held, 2))
    assert (await second).disposition is Disposition.RECORDED
    assert (await postgres.get(held.id)).result == 2


async def test_batches_that_overlap_end_every_execution_once(postgres: PostgresHarness) -> None:
    owner = await postgres.register()
    await postgres.invoke_several(20)
    held = await postgres.fetch(owner)
    outcomes = [Completed(one.id, one.claim) for one in held]
    answers = await asyncio.gather(*(postgres.executions.complete(outcomes) for _ in range(4)))
    for verdicts in zip(*answers, strict=True):
        assert sorted(one.disposition for one in verdicts) == ["known"] * 3 + ["recorded"]


async def test_a_batch_and_one_who_cancels_by_id_do_not_wait_in_a_circle(
    postgres: PostgresHarness,
) -> None:
    """Outcomes come in the order in which handlers end; rows are locked in that of their ids."""
    owner = await postgres.register()
    first, second = sorted(await postgres.invoke_several(2))
    held = {one.id: one for one in await postgres.fetch(owner)}
    outcomes = [Completed(one, held[one].claim, None) for one in (second, first)]
    async with postgres.begin() as user:
        assert await user.executions.cancel(first, None)
        batch = await postgres.blocked(postgres.executions.complete(outcomes))
        # The batch waits for the first, and must not have locked the second by then.
        assert await user.executions.cancel(second, None)
    assert {verdict.state for verdict in await batch} == {CANCELLED}
