"""What has finished is removed when it has been kept for as long as its task says."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import pytest

from pgconductor.domain.invocations import DedupeScope, Invocation
from pgconductor.domain.outcomes import Disposition
from pgconductor.domain.retention import Removal, Retention
from pgconductor.domain.steps import StepRecord
from pgconductor.domain.tasks import TaskOptions
from pgconductor.exceptions import ExecutionNotFound, InvalidInput, OwnershipLost
from pgconductor.types import ExecutionState
from tests.contracts.harness import Harness

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
FINISHED = [state for state in ExecutionState if state.finished]
UNFINISHED = [state for state in ExecutionState if not state.finished]
COMPLETED = ExecutionState.COMPLETED
SHORT = Retention(2 * HOUR, 2 * HOUR)


async def there(db: Harness) -> set[UUID]:
    return {one.id for one in (await db.executions.list(limit=1_000)).items}


async def completed(db: Harness, number: int = 1) -> list[UUID]:
    """Executions that have just completed, the oldest id first."""
    owner = await db.register()
    made = await db.invoke_several(number)
    for held in await db.fetch(owner):
        await db.complete(held)
    return sorted(made)


# --- how long ------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", FINISHED)
async def test_what_has_finished_is_kept_for_its_time(db: Harness, state: ExecutionState) -> None:
    one = await db.in_state(state)
    kept = timedelta(days=7 if state is COMPLETED else 30)
    db.advance(kept - HOUR)
    assert await db.walk() == 0
    assert await there(db) == {one}
    db.advance(2 * HOUR)
    assert await db.walk() == 1
    assert await there(db) == set()


@pytest.mark.parametrize("state", UNFINISHED)
async def test_what_has_not_finished_is_never_removed(db: Harness, state: ExecutionState) -> None:
    one = await db.in_state(state)
    db.advance(3_000 * DAY)
    assert await db.walk(SHORT) == 0
    assert (await db.get(one)).state is state


async def test_a_step_goes_with_its_execution(db: Harness) -> None:
    held = {}
    for task in ("old", "young"):
        _, held[task] = await db.running(task_key=task)
        async with db.begin() as repositories:
            await repositories.steps.record(StepRecord(held[task].id, held[task].claim, "a", "1"))
    await db.complete(held["old"])
    db.advance(8 * DAY)
    assert await db.walk() == 1
    assert await db.results(held["old"].id) == {}
    assert await db.results(held["young"].id) == {"a": "1"}


@pytest.mark.parametrize("state", FINISHED)
async def test_a_task_says_how_long_its_executions_are_kept(
    db: Harness, state: ExecutionState
) -> None:
    says = {
        "short": Retention(DAY, 2 * DAY),
        "long": Retention(90 * DAY, 100 * DAY),
        "forever": Retention(None, None),
    }
    tasks = [TaskOptions(name, retention=kept) for name, kept in says.items()]
    await db.orchestrators.declare(tasks, [])
    made = {name: await db.in_state(state, task_key=name) for name in (*says, "undeclared")}
    left = set(made)
    first = "short" if state is COMPLETED else ""
    for days, gone in [(1, first), (2, "short"), (29, "undeclared"), (70, "long"), (3_000, "")]:
        db.advance(days * DAY + HOUR)
        await db.walk(Retention(20 * DAY, 20 * DAY))
        left -= {gone}
        assert {name for name, one in made.items() if one in await there(db)} == left, days


async def test_a_task_that_changes_its_mind(db: Harness) -> None:
    one = await db.in_state(COMPLETED)
    for kept, removed in [(None, 0), (9 * DAY, 0), (3 * DAY, 1)]:
        await db.orchestrators.declare([TaskOptions("greet", retention=Retention(kept))], [])
        db.advance(2 * DAY)
        assert await db.walk() == removed
    assert one not in await there(db)


async def test_everything_may_be_kept_for_ever(db: Harness) -> None:
    made = [await db.in_state(state) for state in FINISHED]
    db.advance(3_000 * DAY)
    assert await db.walk(Retention(None, None)) == 0
    assert await there(db) == set(made)


async def test_it_counts_from_the_end_not_from_the_beginning(db: Harness) -> None:
    """Invoked for next year: its id is old when it finishes."""
    owner = await db.register()
    one = await db.invoke(delay=400 * DAY)
    db.advance(401 * DAY)
    (held,) = await db.fetch(owner)
    await db.complete(held)
    db.advance(6 * DAY)
    assert await db.walk() == 0
    assert await there(db) == {one}
    db.advance(2 * DAY)
    assert await db.walk() == 1


async def test_a_clock_that_is_set_back_removes_nothing(db: Harness) -> None:
    await completed(db)
    db.advance(8 * DAY)
    db.advance(-8 * DAY)
    assert await db.walk() == 0
    db.advance(8 * DAY)
    assert await db.walk() == 1


async def test_a_retried_one_counts_anew(db: Harness) -> None:
    one = await db.in_state(ExecutionState.FAILED)
    db.advance(29 * DAY)
    assert await db.executions.retry(one)
    db.advance(2 * DAY)
    assert await db.walk() == 0
    await db.executions.cancel(one)
    db.advance(29 * DAY)
    assert await db.walk() == 0
    db.advance(2 * DAY)
    assert await db.walk() == 1


# --- a piece at a time ---------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 7, 8])
async def test_a_walk_goes_in_pieces(db: Harness, limit: int) -> None:
    gone = await completed(db, 7)
    db.advance(8 * DAY)
    left = await completed(db, 2)
    assert await db.walk(limit=limit) == 7
    assert await there(db) == set(left)
    assert not set(gone) & set(left)


async def test_a_piece_goes_on_where_the_last_one_was(db: Harness) -> None:
    made = await completed(db, 5)
    db.advance(8 * DAY)
    assert await db.retention.remove_expired(limit=2) == Removal(2, 2, ended=False)
    assert await there(db) == set(made[2:])
    assert await db.retention.remove_expired(limit=2) == Removal(2, 2, ended=False)
    assert await db.retention.remove_expired(limit=2) == Removal(1, 1, ended=True)


async def test_a_piece_that_rolls_back_was_never_done(db: Harness) -> None:
    made = await completed(db, 3)
    db.advance(8 * DAY)
    async with db.rolled_back() as repositories:
        removal = await repositories.retention.remove_expired(Retention(), limit=2)
        assert removal == Removal(2, 2, ended=False)
    assert await there(db) == set(made)
    assert await db.walk() == 3


async def test_the_next_walk_comes_an_hour_later(db: Harness) -> None:
    assert await db.walk() == 0
    assert await db.retention.remove_expired() is None
    db.advance(HOUR - timedelta(minutes=1))
    assert await db.retention.remove_expired() is None
    db.advance(timedelta(minutes=2))
    assert await db.walk() == 0


async def test_what_is_kept_shortly_is_looked_for_oftener(db: Harness) -> None:
    shortly = TaskOptions("greet", retention=Retention(timedelta(minutes=12)))
    await db.orchestrators.declare([shortly], [])
    assert await db.walk() == 0
    assert await db.retention.remove_expired() is None
    db.advance(timedelta(minutes=2))
    assert await db.walk() == 0


async def test_a_long_walk_is_followed_by_a_long_rest(db: Harness) -> None:
    await completed(db, 3)
    assert await db.retention.remove_expired(limit=2) == Removal(2, 0, ended=False)
    db.advance(3 * HOUR)
    assert await db.walk(limit=2) == 0
    db.advance(2 * HOUR)
    assert await db.retention.remove_expired() is None
    db.advance(2 * HOUR)
    assert await db.walk() == 0


async def test_a_walk_that_stood_still_is_followed_by_no_endless_rest(db: Harness) -> None:
    await completed(db, 3)
    assert await db.retention.remove_expired(limit=2) == Removal(2, 0, ended=False)
    db.advance(6 * DAY)
    assert await db.walk(limit=2) == 0
    db.advance(5 * HOUR)
    assert await db.retention.remove_expired() is None
    db.advance(2 * HOUR)
    assert await db.walk() == 0


async def test_a_walk_ends_where_everything_is_younger(db: Harness) -> None:
    await db.walk()
    await completed(db, 3)
    db.advance(DAY)
    assert await db.retention.remove_expired() == Removal(0, 0, ended=True)


async def test_an_id_that_tells_no_time_is_found_by_a_later_walk(db: Harness) -> None:
    """A caller may have made it by a clock that was wrong, or by chance."""
    await db.walk()
    owner = await db.register()
    ahead = UUID("ffffffff-0000-4000-8000-000000000000")
    await db.executions.invoke_many([Invocation(task_key="greet", id=ahead)])
    (held,) = await db.fetch(owner)
    await db.complete(held)
    db.advance(8 * DAY)
    removed: Sequence[int] = [await walk_later(db) for _ in range(24)]
    assert sorted(removed) == [0] * 23 + [1]


async def walk_later(db: Harness) -> int:
    db.advance(2 * HOUR)
    return await db.walk()


@pytest.mark.parametrize("limit", [0, -1, 100_001, True])
async def test_a_limit_out_of_range_is_refused(db: Harness, limit: int) -> None:
    with pytest.raises(InvalidInput, match="limit"):
        await db.retention.remove_expired(limit=limit)


# --- what others see -----------------------------------------------------------------------------


async def test_a_late_write_about_what_is_gone_is_lost(db: Harness) -> None:
    """I7: nothing comes back, and nothing breaks."""
    _, held = await db.running()
    await db.complete(held)
    db.advance(8 * DAY)
    assert await db.walk() == 1
    assert (await db.complete(held)).disposition is Disposition.LOST
    assert (await db.fail(held)).disposition is Disposition.LOST
    assert (await db.release(held)).disposition is Disposition.LOST
    with pytest.raises(OwnershipLost):
        async with db.begin() as repositories:
            await repositories.steps.record(StepRecord(held.id, held.claim, "a", "1"))
    with pytest.raises(ExecutionNotFound):
        await db.get(held.id)
    with pytest.raises(ExecutionNotFound):
        await db.executions.retry(held.id)
    assert not await db.executions.cancel(held.id)
    assert await there(db) == set()


async def test_a_dedupe_key_is_retained_for_as_long_as_its_execution(db: Harness) -> None:
    once = {"dedupe_key": "k", "dedupe_scope": DedupeScope.RETAINED}
    first = await db.in_state(COMPLETED, **once)
    db.advance(6 * DAY)
    await db.walk()
    assert await db.invoke(**once) == first
    db.advance(2 * DAY)
    await db.walk()
    assert await db.invoke(**once) != first


async def test_time_is_the_databases(db: Harness) -> None:
    """I6: what finished is told by its clock, whatever that says."""
    db.advance(3_000 * DAY)
    one = await db.in_state(COMPLETED)
    finished = (await db.get(one)).finished_at
    assert isinstance(finished, datetime)
    assert await db.now() - finished < HOUR
    db.advance(7 * DAY - HOUR)
    assert await db.walk() == 0
    assert await there(db) == {one}
    db.advance(2 * HOUR)
    assert await db.walk() == 1
