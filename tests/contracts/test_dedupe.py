"""I8: one unfinished execution of a (task, queue, dedupe key), however it is invoked."""

from __future__ import annotations

from typing import Any

import pytest

from pgconductor.domain.invocations import DedupeScope, Invocation, Invoked
from pgconductor.types import ExecutionState
from tests.contracts.harness import Harness

FINISHED = [ExecutionState.COMPLETED, ExecutionState.FAILED, ExecutionState.CANCELLED]
UNFINISHED = [state for state in ExecutionState if not state.finished]


async def retained(db: Harness, key: str = "k") -> Invoked:
    return await db.executions.invoke("greet", dedupe_key=key, dedupe_scope=DedupeScope.RETAINED)


def keyed(key: str | None, **options: Any) -> Invocation:
    return Invocation(task_key="greet", dedupe_key=key, **options)


@pytest.mark.parametrize("scope", [DedupeScope.UNFINISHED, DedupeScope.RETAINED])
@pytest.mark.parametrize("state", UNFINISHED)
async def test_an_unfinished_execution_stands_for_the_invocation(
    db: Harness, state: ExecutionState, scope: DedupeScope
) -> None:
    """I8, B9: invoking the key of a running one neither fails nor changes it."""
    there = await db.in_state(state, dedupe_key="k", payload=1)
    before = await db.get(there)
    again = await db.executions.invoke(
        "greet", payload=2, priority=9, dedupe_key="k", dedupe_scope=scope
    )
    assert (again.id, again.created) == (there, False)
    assert await db.get(there) == before
    assert sum((await db.executions.count()).values()) == 1


async def test_an_execution_asked_to_cancel_is_unfinished_still(db: Harness) -> None:
    there = await db.in_state(ExecutionState.RUNNING, dedupe_key="k")
    assert await db.executions.cancel(there)
    assert await db.invoke(dedupe_key="k") == there


@pytest.mark.parametrize("state", FINISHED)
async def test_a_finished_execution_makes_room_for_a_new_one(
    db: Harness, state: ExecutionState
) -> None:
    """B9: the finished row stays as it was, and the new one is executed."""
    there = await db.in_state(state, dedupe_key="k")
    before = await db.get(there)
    again = await db.executions.invoke("greet", dedupe_key="k")
    assert again.created
    assert again.id != there
    assert await db.get(there) == before
    assert await db.fetch_ids(await db.register()) == [again.id]


async def test_task_queue_and_key_make_the_identity(db: Harness) -> None:
    different: list[dict[str, Any]] = [
        {"dedupe_key": "k"},
        {"dedupe_key": "K"},
        {"dedupe_key": "k", "queue": "other"},
        {"dedupe_key": "k", "task_key": "other"},
        {},
        {},
    ]
    ids = [await db.invoke(**options) for options in different]
    assert len(set(ids)) == len(different)


@pytest.mark.parametrize("state", FINISHED)
async def test_the_retained_scope_counts_finished_ones(db: Harness, state: ExecutionState) -> None:
    there = await db.in_state(state, dedupe_key="k")
    before = await db.get(there)
    assert await retained(db) == Invoked(there, created=False)
    assert await db.get(there) == before
    assert (await retained(db, "another")).created


async def test_the_retained_scope_prefers_the_unfinished_one(db: Harness) -> None:
    """I8: while an execution of a key is unfinished, invoking the key returns that one."""
    await db.in_state(ExecutionState.COMPLETED, dedupe_key="k")
    unfinished = await db.invoke(dedupe_key="k")
    assert await retained(db) == Invoked(unfinished, created=False)


async def test_the_retained_scope_finds_the_latest(db: Harness) -> None:
    finished = [await db.in_state(state, dedupe_key="k") for state in FINISHED]
    assert await retained(db) == Invoked(finished[-1], created=False)


async def test_the_first_of_a_batch_wins(db: Harness) -> None:
    """Duplicates inside one batch resolve to one; the answers keep the order."""
    there = await db.invoke(dedupe_key="old")
    batch = [keyed("b", priority=1), keyed(None), keyed("a"), keyed("b", priority=2),
             keyed("old"), keyed("a"), keyed(None)]  # fmt: skip
    answers = await db.executions.invoke_many(batch)
    ids = [one.id for one in batch]
    assert [one.id for one in answers] == [ids[0], ids[1], ids[2], ids[0], there, ids[2], ids[6]]
    assert [one.created for one in answers] == [True, True, True, False, False, False, True]
    assert (await db.get(ids[0])).priority == 1
    assert sum((await db.executions.count()).values()) == 5


async def test_a_retained_batch_resolves_to_one_too(db: Harness) -> None:
    finished = await db.in_state(ExecutionState.COMPLETED, dedupe_key="old")
    batch = [keyed(key, dedupe_scope=DedupeScope.RETAINED) for key in ("n", "old", "n", "old")]
    answers = await db.executions.invoke_many(batch)
    assert [one.id for one in answers] == [batch[0].id, finished, batch[0].id, finished]
    assert [one.created for one in answers] == [True, False, False, False]


async def test_scopes_mix_in_a_batch(db: Harness) -> None:
    finished = await db.in_state(ExecutionState.COMPLETED, dedupe_key="k")
    batch = [keyed("k", dedupe_scope=DedupeScope.RETAINED), keyed("k"), keyed(None)]
    answers = await db.executions.invoke_many(batch)
    assert [one.id for one in answers] == [finished, batch[1].id, batch[2].id]


async def test_a_rolled_back_invocation_holds_no_key(db: Harness) -> None:
    async with db.rolled_back() as repositories:
        await repositories.executions.add_many([keyed("k")])
    assert (await db.executions.invoke("greet", dedupe_key="k")).created


async def test_a_retried_execution_holds_its_key_again(db: Harness) -> None:
    there = await db.in_state(ExecutionState.FAILED, dedupe_key="k")
    assert await db.executions.retry(there)
    assert await db.invoke(dedupe_key="k") == there


async def test_a_scope_may_be_given_by_its_value(db: Harness) -> None:
    """A string that looks right must not be taken for the default."""
    there = await db.in_state(ExecutionState.COMPLETED, dedupe_key="k")
    scope: Any = "retained"
    (answer,) = await db.executions.invoke_many([keyed("k", dedupe_scope=scope)])
    assert answer == Invoked(there, created=False)
