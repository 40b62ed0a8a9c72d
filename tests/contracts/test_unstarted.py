"""The dedupe scope "unstarted": one more after the one at work, and no lost update."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from pgconductor.domain.invocations import DedupeScope, Invocation, Invoked
from pgconductor.domain.outcomes import Suspended
from pgconductor.exceptions import InvalidInput
from pgconductor.types import ExecutionState
from tests.contracts.harness import Harness

HOUR = timedelta(hours=1)
UNSTARTED = DedupeScope.UNSTARTED


async def invoke(db: Harness, payload: Any = None, key: str = "k", **options: Any) -> Invoked:
    return await db.executions.invoke(
        "greet", payload, dedupe_key=key, dedupe_scope=UNSTARTED, **options
    )


def keyed(key: str, payload: str | None = None, **options: Any) -> Invocation:
    return Invocation(
        task_key="greet", dedupe_key=key, dedupe_scope=UNSTARTED, payload=payload, **options
    )


async def test_what_has_not_begun_stands_for_the_invocation(db: Harness) -> None:
    first = await invoke(db, 1)
    before = await db.get(first.id)
    assert first.created
    for _ in range(3):
        assert await invoke(db, 2, priority=9) == Invoked(first.id, created=False)
    assert await db.get(first.id) == before


@pytest.mark.parametrize(
    "state", [state for state in ExecutionState if state is not ExecutionState.AVAILABLE]
)
async def test_what_has_begun_gets_exactly_one_successor(
    db: Harness, state: ExecutionState
) -> None:
    there = await db.in_state(state, dedupe_key="k", dedupe_scope=UNSTARTED)
    before = await db.get(there)
    answers = [await invoke(db) for _ in range(3)]
    assert [one.created for one in answers] == [True, False, False]
    assert {one.id for one in answers} == {answers[0].id} != {there}
    assert await db.get(there) == before


async def test_the_successor_has_a_successor(db: Harness) -> None:
    """It may start while the one before is at work."""
    owner = await db.register()
    begun: list[UUID] = []
    for _ in range(4):
        answer = await invoke(db)
        assert answer.created
        begun += await db.fetch_ids(owner)
    assert len(set(begun)) == 4


@pytest.mark.parametrize("way", ["released", "retried", "woken", "recovered"])
async def test_what_was_given_back_counts_as_started(db: Harness, way: str) -> None:
    """One execution too many is safe, and nothing fails because there are two."""
    owner, held = await db.running(dedupe_key="k", dedupe_scope=UNSTARTED)
    successor = await invoke(db)
    assert successor.created
    match way:
        case "released":
            await db.release(held)
        case "retried":
            await db.fail(held, timedelta(0))
        case "woken":
            await db.report(Suspended(held.id, held.claim, 0))
            await db.set_columns(held.id, state=ExecutionState.AVAILABLE)
        case _:
            await db.crash(owner)
    assert (await db.get(held.id)).state is ExecutionState.AVAILABLE
    assert await invoke(db) == Invoked(successor.id, created=False)
    other = await db.register()
    taken = await db.fetch_ids(other, limit=1) + await db.fetch_ids(other)
    assert sorted(taken) == sorted([held.id, successor.id])


@pytest.mark.parametrize("begun", [True, False])
async def test_an_operators_retry_never_conflicts(db: Harness, begun: bool) -> None:
    """Whatever was cancelled before it began, or has failed, comes back beside the others."""
    state = ExecutionState.FAILED if begun else ExecutionState.AVAILABLE
    there = await db.in_state(state, dedupe_key="k", dedupe_scope=UNSTARTED)
    if not begun:
        assert await db.executions.cancel(there)
    successor = await invoke(db)
    assert successor.created
    assert await db.executions.retry(there)
    assert await invoke(db) == Invoked(successor.id, created=False)
    assert sorted(await db.fetch_ids(await db.register())) == sorted([there, successor.id])


@pytest.mark.parametrize("scope", [DedupeScope.UNFINISHED, DedupeScope.RETAINED])
@pytest.mark.parametrize("state", ExecutionState)
async def test_its_keys_are_its_own(db: Harness, scope: DedupeScope, state: ExecutionState) -> None:
    """They are not compared with what was invoked with another scope, in either direction."""
    there = await db.in_state(state, dedupe_key="k", dedupe_scope=UNSTARTED)
    other = await db.executions.invoke("greet", dedupe_key="k", dedupe_scope=scope)
    assert other.created
    third = await invoke(db)
    assert third.created is (state is not ExecutionState.AVAILABLE)
    assert third.id != other.id
    again = await db.executions.invoke("greet", dedupe_key="k", dedupe_scope=scope)
    assert again == Invoked(other.id, created=False)
    assert there != other.id


async def test_task_queue_and_key_make_the_identity(db: Harness) -> None:
    different: list[dict[str, Any]] = [
        {"dedupe_key": "k"},
        {"dedupe_key": "K"},
        {"dedupe_key": "k", "queue": "other"},
        {"dedupe_key": "k", "task_key": "other"},
    ]
    ids = [await db.invoke(dedupe_scope=UNSTARTED, **options) for options in different]
    assert len(set(ids)) == len(different)


async def test_without_a_key_the_scope_means_nothing(db: Harness) -> None:
    ids = [await db.invoke(dedupe_scope=UNSTARTED) for _ in range(2)]
    assert len(set(ids)) == 2
    assert await db.fetch_ids(await db.register()) == ids


async def test_a_replacement_is_due_no_later_and_no_less_urgent(db: Harness) -> None:
    first = await invoke(db, "old", delay=2 * HOUR, priority=5)
    due = (await db.get(first.id)).run_at
    for payload, delay, priority in (("later", 3 * HOUR, 1), ("sooner", HOUR, 7)):
        answer = await invoke(db, payload, dedupe_replace=True, delay=delay, priority=priority)
        assert answer == Invoked(first.id, created=False)
        found = await db.get(first.id)
        assert found.payload == payload
        if payload == "later":
            assert (found.run_at, found.priority) == (due, 5)
        else:
            assert found.run_at < due
            assert found.priority == 7


async def test_a_replacement_that_is_due_now_wakes_a_worker(db: Harness) -> None:
    first = await invoke(db, 1, delay=HOUR)
    async with db.notifications() as sent:
        await invoke(db, 2, dedupe_replace=True)
    assert ("pgconductor_available", "default") in sent
    (fetched,) = await db.fetch(await db.register())
    assert (fetched.id, fetched.payload) == (first.id, "2")


async def test_whoever_joins_what_is_due_wakes_a_worker(db: Harness) -> None:
    """One that looked while the transaction was open has left it where it was."""
    await invoke(db)
    async with db.notifications() as sent:
        await invoke(db)
    assert sent == [("pgconductor_available", "default")]
    await invoke(db, key="later", delay=HOUR)
    async with db.notifications() as sent:
        await invoke(db, key="later", delay=HOUR)
    assert sent == []


async def test_what_is_at_work_keeps_its_payload(db: Harness) -> None:
    there = await db.in_state(
        ExecutionState.RUNNING, dedupe_key="k", dedupe_scope=UNSTARTED, payload="old"
    )
    successor = await invoke(db, "new", dedupe_replace=True)
    assert successor.created
    assert (await db.get(there)).payload == "old"
    assert (await db.get(successor.id)).payload == "new"


async def test_a_payload_may_be_replaced_by_none(db: Harness) -> None:
    first = await invoke(db, {"a": 1})
    await invoke(db, None, dedupe_replace=True)
    assert (await db.get(first.id)).payload is None


async def test_duplicates_inside_a_batch(db: Harness) -> None:
    """The first makes the execution, the last that replaces has the payload."""
    begun = await db.in_state(ExecutionState.RUNNING, dedupe_key="w", dedupe_scope=UNSTARTED)
    there = await invoke(db, "there", key="old")
    batch = [
        keyed("n", '"1"'),
        keyed("old", '"2"'),
        keyed("n", '"3"', dedupe_replace=True, priority=4),
        keyed("w", '"4"'),
        keyed("n", '"5"', priority=9),
        keyed("old", '"6"', dedupe_replace=True),
        keyed("old", '"7"', dedupe_replace=True, priority=2),
        keyed("w", '"8"'),
        Invocation(task_key="greet", dedupe_key="n"),
        Invocation(task_key="greet"),
    ]
    answers = await db.executions.invoke_many(batch)
    n, w = batch[0].id, batch[3].id
    assert [one.id for one in answers] == [
        *(n, there.id, n, w, n, there.id, there.id, w),
        *(batch[8].id, batch[9].id),
    ]
    assert [one.created for one in answers] == [
        *(True, False, False, True, False, False, False, False),
        *(True, True),
    ]
    assert begun not in {one.id for one in answers}
    found = {one: await db.get(one) for one in (n, there.id, w)}
    assert {one: it.payload for one, it in found.items()} == {n: "3", there.id: "7", w: "4"}
    assert (found[n].priority, found[there.id].priority, found[w].priority) == (4, 2, 0)


async def test_what_was_rolled_back_holds_no_key_and_replaces_nothing(db: Harness) -> None:
    async with db.rolled_back() as repositories:
        await repositories.executions.add_many([keyed("k")])
    first = await invoke(db, 1)
    assert first.created
    async with db.rolled_back() as repositories:
        await repositories.executions.add_many([keyed("k", "2", dedupe_replace=True)])
    assert (await db.get(first.id)).payload == 1


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"dedupe_key": "k"}, "unstarted"),
        ({"dedupe_scope": UNSTARTED}, "dedupe_key"),
        ({"dedupe_key": "k", "dedupe_scope": DedupeScope.RETAINED}, "unstarted"),
    ],
)
async def test_only_what_has_not_begun_can_be_replaced(
    db: Harness, options: dict[str, Any], why: str
) -> None:
    with pytest.raises(InvalidInput, match=why):
        await db.executions.invoke("greet", dedupe_replace=True, **options)
    wrong: Any = "yes"
    with pytest.raises(InvalidInput, match="neither True nor False"):
        await invoke(db, dedupe_replace=wrong)
    assert not sum((await db.executions.count()).values())
