"""Races on PostgreSQL between operators, callers and owners: one outcome, never a mixture."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from pgconductor.domain.invocations import DedupeScope, Invocation, Invoked
from pgconductor.domain.orchestrators import Recovery
from pgconductor.domain.outcomes import Completed, Failed
from pgconductor.exceptions import DedupeConflict
from pgconductor.services import unit_of_work
from pgconductor.types import ExecutionState
from tests.contracts.harness import FAILURE, PostgresHarness

AVAILABLE, RUNNING = ExecutionState.AVAILABLE, ExecutionState.RUNNING
COMPLETED, CANCELLED = ExecutionState.COMPLETED, ExecutionState.CANCELLED


def keyed(scope: DedupeScope = DedupeScope.UNFINISHED) -> Invocation:
    return Invocation(task_key="greet", dedupe_key="k", dedupe_scope=scope)


async def invoke(db: PostgresHarness, invocation: Invocation) -> Invoked:
    (answer,) = await db.executions.invoke_many([invocation])
    return answer


# --- cancel --------------------------------------------------------------------------------------


async def test_a_completion_waits_for_a_cancellation_which_wins(postgres: PostgresHarness) -> None:
    _, held = await postgres.running()
    async with postgres.begin() as canceller:
        assert await canceller.executions.cancel(held.id, "stop")
        complete = await postgres.blocked(postgres.complete(held, "done"))
    assert (await complete).state is CANCELLED
    found = await postgres.get(held.id)
    assert (found.state, found.result, found.cancel_reason) == (CANCELLED, None, "stop")


async def test_a_cancellation_waits_for_a_completion_which_wins(postgres: PostgresHarness) -> None:
    """I7."""
    _, held = await postgres.running()
    async with postgres.begin() as completing:
        await completing.executions.complete([Completed(held.id, held.claim, "1")])
        cancel = await postgres.blocked(postgres.executions.cancel(held.id))
    assert await cancel is False
    found = await postgres.get(held.id)
    assert (found.state, found.result, found.cancel_requested_at) == (COMPLETED, 1, None)


async def test_a_cancellation_that_meets_a_retry_of_the_task_ends_it(
    postgres: PostgresHarness,
) -> None:
    """The failed attempt has gone back to available: cancelled at once."""
    _, held = await postgres.running()
    async with postgres.begin() as failing:
        await failing.executions.complete([Failed(held.id, held.claim, FAILURE, timedelta(0))])
        cancel = await postgres.blocked(postgres.executions.cancel(held.id))
    assert await cancel is True
    assert (await postgres.get(held.id)).state is CANCELLED


async def test_a_cancellation_that_meets_a_fetch_asks_the_new_owner(
    postgres: PostgresHarness,
) -> None:
    owner = await postgres.register()
    there = await postgres.invoke()
    async with postgres.begin() as fetching:
        await fetching.executions.fetch(owner.next_claim(), "default", limit=1)
        cancel = await postgres.blocked(postgres.executions.cancel(there))
    assert await cancel is True
    assert (await postgres.get(there)).state is RUNNING
    assert (await postgres.orchestrators.heartbeat(owner)).cancellations == {there}


async def test_a_fetch_passes_over_what_is_being_cancelled(postgres: PostgresHarness) -> None:
    owner = await postgres.register()
    there, other = await postgres.invoke_several(2)
    async with postgres.begin() as canceller:
        await canceller.executions.cancel(there)
        async with postgres.impatient() as fetching:
            fetched = await fetching.executions.fetch(owner.next_claim(), "default", limit=2)
            assert [one.id for one in fetched] == [other]
    assert (await postgres.get(there)).state is CANCELLED


async def test_recovery_passes_over_what_is_being_cancelled(postgres: PostgresHarness) -> None:
    owner, held = await postgres.running()
    async with postgres.begin() as canceller:
        await canceller.executions.cancel(held.id)
        async with postgres.impatient() as recovery:
            assert (
                await recovery.executions.take_back(owner.orchestrator_id, limit=9, crashed=True)
                == Recovery()
            )
    async with postgres.begin() as recovery:
        assert await recovery.executions.take_back(
            owner.orchestrator_id, limit=9, crashed=True
        ) == Recovery(cancelled=1)


async def test_a_cancellation_that_meets_a_recovery_ends_it(postgres: PostgresHarness) -> None:
    owner, held = await postgres.running()
    async with postgres.begin() as recovery:
        await recovery.executions.take_back(owner.orchestrator_id, limit=9, crashed=True)
        cancel = await postgres.blocked(postgres.executions.cancel(held.id))
    assert await cancel is True
    found = await postgres.get(held.id)
    assert (found.state, found.crashes) == (CANCELLED, 1)


# --- retry ---------------------------------------------------------------------------------------


async def test_two_retries_at_once_are_one(postgres: PostgresHarness) -> None:
    there = await postgres.in_state(ExecutionState.FAILED)
    async with postgres.begin() as first:
        assert await first.executions.retry(there)
        second = await postgres.blocked(postgres.executions.retry(there))
    assert await second is False


async def test_a_cancellation_before_a_retry_commits_comes_too_early(
    postgres: PostgresHarness,
) -> None:
    """It has failed, as far as anybody can see: nothing is there to be cancelled."""
    there = await postgres.in_state(ExecutionState.FAILED)
    async with postgres.begin() as retrying:
        assert await retrying.executions.retry(there)
        async with postgres.impatient() as canceller:
            assert not await canceller.executions.cancel(there)
    assert (await postgres.get(there)).state is AVAILABLE


async def test_a_retry_waits_for_an_invocation_of_its_key(postgres: PostgresHarness) -> None:
    """I8: it is the same conflict, though nobody could see it beforehand."""
    there = await postgres.in_state(ExecutionState.FAILED, dedupe_key="k")
    async with postgres.begin() as invoking:
        await invoking.executions.add_many([keyed()])
        retry = await postgres.blocked(postgres.executions.retry(there))
    with pytest.raises(DedupeConflict):
        await retry
    assert (await postgres.get(there)).state is ExecutionState.FAILED


async def test_a_retry_goes_on_if_the_invocation_rolls_back(postgres: PostgresHarness) -> None:
    there = await postgres.in_state(ExecutionState.FAILED, dedupe_key="k")
    async with postgres.rolled_back() as invoking:
        await invoking.executions.add_many([keyed()])
        retry = await postgres.blocked(postgres.executions.retry(there))
    assert await retry is True


async def test_an_invocation_waits_for_a_retry_of_its_key(postgres: PostgresHarness) -> None:
    """I8."""
    there = await postgres.in_state(ExecutionState.FAILED, dedupe_key="k")
    async with postgres.begin() as retrying:
        assert await retrying.executions.retry(there)
        second = await postgres.blocked(invoke(postgres, keyed()))
    assert await second == Invoked(there, created=False)


# --- dedupe keys ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", [DedupeScope.UNFINISHED, DedupeScope.RETAINED])
async def test_an_invocation_waits_for_another_of_its_key(
    postgres: PostgresHarness, scope: DedupeScope
) -> None:
    """I8, in read committed."""
    async with postgres.begin() as invoking:
        (first,) = await invoking.executions.add_many([keyed()])
        second = await postgres.blocked(invoke(postgres, keyed(scope)))
    assert await second == Invoked(first.id, created=False)


@pytest.mark.parametrize("scope", [DedupeScope.UNFINISHED, DedupeScope.RETAINED])
async def test_an_invocation_goes_on_if_the_other_rolls_back(
    postgres: PostgresHarness, scope: DedupeScope
) -> None:
    async with postgres.rolled_back() as invoking:
        await invoking.executions.add_many([keyed()])
        second = await postgres.blocked(invoke(postgres, keyed(scope)))
    assert (await second).created
    assert sum((await postgres.executions.count()).values()) == 1


@pytest.mark.parametrize("commits", [True, False])
@pytest.mark.parametrize("scope", [DedupeScope.UNFINISHED, DedupeScope.RETAINED])
async def test_an_invocation_waits_for_the_end_of_the_execution_of_its_key(
    postgres: PostgresHarness, scope: DedupeScope, commits: bool
) -> None:
    """I8: it finds the execution unfinished, or finished, but never something in between."""
    _, held = await postgres.running(dedupe_key="k")
    async with postgres.begin() if commits else postgres.rolled_back() as completing:
        await completing.executions.complete([Completed(held.id, held.claim)])
        second = await postgres.blocked(invoke(postgres, keyed(scope)))
    answer = await second
    if commits and scope is DedupeScope.UNFINISHED:
        assert answer.created
        assert answer.id != held.id
    else:
        assert answer == Invoked(held.id, created=False)
    assert sum((await postgres.executions.count()).values()) == (2 if answer.created else 1)


async def test_batches_with_keys_in_opposite_orders_do_not_wait_in_a_circle(
    postgres: PostgresHarness,
) -> None:
    """I9."""

    def batch(*keys: str) -> list[Invocation]:
        return [Invocation(task_key="greet", dedupe_key=key) for key in keys]

    keys = [f"k{number}" for number in range(40)]
    answers = await asyncio.gather(
        *(
            postgres.executions.invoke_many(batch(*(keys if even else reversed(keys))))
            for even in (True, False) * 4
        )
    )
    ids = [{one.id for one in answer} for answer in answers]
    assert all(one == ids[0] for one in ids)
    assert sum(one.created for answer in answers for one in answer) == len(keys)


@pytest.mark.parametrize("scope", DedupeScope)
async def test_fifty_sessions_with_one_key(
    postgres: PostgresHarness, database_url: str, scope: DedupeScope
) -> None:
    """I8: rollbacks among them; those that commit agree on one execution."""
    engine = create_async_engine(database_url, pool_size=50)
    work = unit_of_work(engine)
    start = asyncio.Barrier(50)
    answers: list[Invoked] = []

    class RolledBackError(Exception):
        pass

    async def session(number: int) -> None:
        await start.wait()
        try:
            async with work.begin() as repositories:
                (answer,) = await repositories.executions.add_many([keyed(scope)])
                if number % 3 == 0:
                    raise RolledBackError
        except RolledBackError:
            return
        answers.append(answer)

    async with asyncio.TaskGroup() as group:
        for number in range(50):
            group.create_task(session(number))
    await engine.dispose()
    (only,) = (await postgres.executions.list()).items
    assert len(answers) == 33
    assert {one.id for one in answers} == {only.id}
    assert sum(one.created for one in answers) == 1


async def test_invoking_again_and_again_while_executions_finish(
    postgres: PostgresHarness,
) -> None:
    """I8: every answer is an execution that was unfinished at some moment of the call."""
    owner = await postgres.register()
    finished: list[UUID] = []

    async def work_off() -> None:
        while len(finished) < 15:
            for held in await postgres.fetch(owner):
                await postgres.complete(held)
                finished.append(held.id)
            await asyncio.sleep(0)

    async def keep_invoking() -> list[Invoked]:
        answers: list[Invoked] = []
        while len(finished) < 15:
            answers.append(await invoke(postgres, keyed()))
        return answers

    *several, _ = await asyncio.gather(*(keep_invoking() for _ in range(4)), work_off())
    answers = [one for some in several if some for one in some]
    created = [one.id for one in answers if one.created]
    assert len(set(created)) == len(created)
    assert {one.id for one in answers} == set(created)
    unfinished = sum(
        number
        for state, number in (await postgres.executions.count()).items()
        if not state.finished
    )
    assert unfinished <= 1
