"""What operators see and do of executions that remember and wait: trees, forks, waits."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from pgconductor.domain.claims import Fetched
from pgconductor.domain.ids import new_id
from pgconductor.domain.outcomes import Failure, Suspended
from pgconductor.domain.steps import ChildSpec, StepKind, StepRecord, StepStart
from pgconductor.domain.trees import MAX_FAMILY, Branch
from pgconductor.domain.waiting import WaitingPlace
from pgconductor.exceptions import ExecutionNotFound, InvalidInput, InvalidName, StepNotFound
from pgconductor.types import ExecutionState
from tests.contracts.harness import Harness

SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)
NOBODY = new_id()


async def record(
    db: Harness,
    held: Fetched,
    key: str,
    result: str | None = None,
    *,
    error: str | None = None,
    kind: StepKind = StepKind.STEP,
) -> None:
    failure = None if error is None else Failure("ValueError", error, "stack")
    step = StepRecord(held.id, held.claim, key, result, kind=kind, failure=failure)
    async with db.begin() as repositories:
        await repositories.steps.record_many([step])
    db.advance(SECOND)


async def start(db: Harness, held: Fetched, key: str, kind: StepKind, **more: Any) -> None:
    begun = StepStart(execution_id=held.id, claim=held.claim, key=key, kind=kind, **more)
    async with db.begin() as repositories:
        await repositories.steps.start_many([begun])
    db.advance(SECOND)


async def child(db: Harness, held: Fetched, key: str, kind: StepKind = StepKind.CHILD) -> Any:
    spec = ChildSpec(new_id(), "children")
    await start(db, held, key, kind, detail="pack", child=spec)
    return spec.id


async def suspended(db: Harness, held: Fetched) -> None:
    verdict = await db.report(Suspended(held.id, held.claim, 0))
    assert verdict.state is ExecutionState.WAITING


def shape(branches: tuple[Branch, ...]) -> list[Any]:
    return [
        (one.key, one.execution.state.value, [wait.key for wait in one.waits], shape(one.children))
        for one in branches
    ]


# --- trees ---------------------------------------------------------------------------------------


async def test_a_tree_has_steps_waits_and_generations(db: Harness) -> None:
    owner, held = await db.running()
    await record(db, held, "charge", '{"id": 1}')
    await record(db, held, "refuse", error="no")
    await start(db, held, "paid", StepKind.EVENT, detail="payment/paid", delay=DAY)
    packed = await child(db, held, "pack")
    await child(db, held, "tell", StepKind.SPAWN)
    await suspended(db, held)
    (first, second) = await db.fetch(owner, queue="children")
    assert first.id == packed
    await start(db, first, "nap", StepKind.SLEEP, delay=DAY)
    await child(db, first, "box")
    await suspended(db, first)
    await db.complete(second)

    tree = await db.executions.tree(held.id)
    assert tree.execution == await db.get(held.id)
    charge, refuse, paid, pack, tell = tree.steps
    assert (charge.key, charge.kind, charge.result) == ("charge", StepKind.STEP, {"id": 1})
    assert (refuse.error_type, refuse.error, refuse.pending) == ("ValueError", "no", False)
    assert (paid.pending, paid.detail) == (True, "payment/paid")
    assert paid.wake_at == paid.created_at + DAY
    assert (pack.pending, pack.child_id, pack.detail) == (True, packed, "pack")
    assert (tell.pending, tell.child_id) == (False, second.id)
    # What has not finished comes first.
    assert shape(tree.children) == [
        ("pack", "waiting", ["nap", "box"], [("box", "available", [], [])]),
        ("tell", "completed", [], []),
    ]
    assert tree.hidden == 0


async def test_a_tree_is_cut_off_and_says_so(db: Harness) -> None:
    owner, held = await db.running()
    await child(db, held, "a")
    (inner,) = await db.fetch(owner, queue="children")
    await child(db, inner, "b")
    none = await db.executions.tree(held.id, depth=0)
    assert (none.children, none.hidden) == ((), 1)
    (only,) = (await db.executions.tree(held.id, depth=1)).children
    assert (only.children, only.hidden) == ((), 1)
    many = [
        StepStart(
            execution_id=held.id,
            claim=held.claim,
            key=f"many {number}",
            kind=StepKind.SPAWN,
            detail="pack",
            child=ChildSpec(new_id(), "children"),
        )
        for number in range(MAX_FAMILY + 9)
    ]
    async with db.begin() as repositories:
        await repositories.steps.start_many(many)
    tree = await db.executions.tree(held.id)
    # The execution itself counts.
    assert len(tree.children) == MAX_FAMILY - 1
    assert tree.hidden == MAX_FAMILY + 1 - len(tree.children)


async def test_no_tree_of_what_is_not_there(db: Harness) -> None:
    with pytest.raises(ExecutionNotFound):
        await db.executions.tree(NOBODY)
    for depth in (-1, 21):
        with pytest.raises(InvalidInput, match="depth"):
            await db.executions.tree(NOBODY, depth=depth)


# --- forks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["running", "waiting", "failed", "completed", "cancelled"])
async def test_a_fork_remembers_what_came_before(db: Harness, end: str) -> None:
    """Whatever state the other is in, which stays as it is."""
    _, held = await db.running(payload={"a": 1}, priority=7, max_attempts=5, dedupe_key="k")
    await record(db, held, "one", "1")
    await record(db, held, "refused", error="no")
    await record(db, held, "two#1", error="no", kind=StepKind.TRY)
    await start(db, held, "nap", StepKind.SLEEP, delay=DAY)
    await record(db, held, "two", "2")
    await record(db, held, "three", "3")
    match end:
        case "waiting":
            await suspended(db, held)
        case "failed":
            await db.fail(held)
        case "completed":
            await db.complete(held)
        case "cancelled":
            await db.release(held)
            await db.executions.cancel(held.id)
    before = await db.executions.tree(held.id)

    made = await db.get(await db.executions.fork(held.id, from_step="two"))
    assert (made.state, made.attempts, made.crashes) == (ExecutionState.AVAILABLE, 0, 0)
    assert (made.task_key, made.queue, made.payload) == ("greet", "default", {"a": 1})
    assert (made.priority, made.max_attempts, made.dedupe_key) == (7, 5, None)
    tree = await db.executions.tree(made.id)
    # Neither the wait, which begins anew, nor a try, which may be one of the step itself.
    assert [(one.key, one.result, one.error) for one in tree.steps] == [
        ("one", 1, None),
        ("refused", None, "no"),
    ]
    assert await db.executions.tree(held.id) == before


async def test_a_fork_from_the_start_remembers_nothing(db: Harness) -> None:
    _, held = await db.running()
    await record(db, held, "one", "1")
    async with db.notifications() as sent:
        made = await db.executions.fork(held.id)
    assert ("pgconductor_available", "default") in sent
    assert (await db.executions.tree(made)).steps == ()


async def test_a_fork_goes_on_behind_what_it_remembers(db: Harness) -> None:
    owner, held = await db.running()
    await record(db, held, "one", "1")
    invoked = await child(db, held, "pack", StepKind.SPAWN)
    await record(db, held, "two", "2")
    await db.complete(held)
    made = await db.executions.fork(held.id, from_step="two")
    (again,) = await db.fetch(owner)
    assert again.id == made
    async with db.begin() as repositories:
        history = (await repositories.steps.histories([made]))[made]
    assert list(history.records) == ["one", "pack"]
    assert (history.records["pack"].child_id, history.wakes) == (invoked, 0)
    # The child stays the other's.
    assert (await db.get(invoked)).parent_id == held.id
    assert (await db.executions.tree(made)).children == ()


async def test_what_cannot_be_forked(db: Harness) -> None:
    _, held = await db.running()
    with pytest.raises(ExecutionNotFound):
        await db.executions.fork(NOBODY)
    with pytest.raises(ExecutionNotFound):
        await db.executions.fork(NOBODY, from_step="one")
    with pytest.raises(StepNotFound, match="one"):
        await db.executions.fork(held.id, from_step="one")
    with pytest.raises(InvalidName, match="from_step"):
        await db.executions.fork(held.id, from_step="")
    assert sum((await db.executions.count()).values()) == 1


# --- what is waited for --------------------------------------------------------------------------


async def test_waits_are_listed_longest_first(db: Harness) -> None:
    owner, first = await db.running(queue="default")
    await start(db, first, "paid", StepKind.EVENT, detail="payment/paid", text='{"a": [1]}')
    second = await db.invoke("other")
    (held,) = await db.fetch(owner)
    assert held.id == second
    await start(db, held, "nap", StepKind.SLEEP, delay=DAY)
    invoked = await child(db, held, "pack")
    # A handler that has not been suspended is at work, whatever it waits for.
    assert (await db.executions.waiting()).items == []
    await suspended(db, first)
    await suspended(db, held)

    page = await db.executions.waiting()
    greet, other = page.items
    (paid,) = greet.waits
    nap, pack = other.waits
    assert page.next is None
    assert [(one.key, one.kind.value, one.detail) for one in (paid, nap, pack)] == [
        ("paid", "event", "payment/paid"),
        ("nap", "sleep", None),
        ("pack", "child", "pack"),
    ]
    assert (greet.execution_id, greet.task_key, greet.queue) == (first.id, "greet", "default")
    assert (greet.count, greet.since, paid.until) == (1, paid.since, None)
    assert (other.execution_id, other.count, other.since) == (second, 2, nap.since)
    assert [one.match for one in (paid, nap, pack)] == [{"a": [1]}, None, None]
    assert (await db.executions.tree(first.id)).steps[0].match == {"a": [1]}
    assert nap.until == nap.since + DAY
    assert pack.child_id == invoked
    assert (await db.executions.waiting(limit=1)).items == [greet]
    assert (await db.executions.waiting(task_key="other")).items == [other]
    assert (await db.executions.waiting(queue="children")).items == []
    await db.executions.cancel(first.id)
    assert (await db.executions.waiting()).items == [other]


async def test_a_fan_out_hides_nobody(db: Harness) -> None:
    """It takes one place, with its first waits and the number of all."""
    owner, great = await db.running()
    await start(db, great, "first", StepKind.EVENT, detail="a")
    small = []
    for _ in range(3):
        await db.invoke()
        (held,) = await db.fetch(owner)
        await start(db, held, "nap", StepKind.SLEEP, delay=DAY)
        small.append(held)
    many = [
        StepStart(
            execution_id=great.id,
            claim=great.claim,
            key=f"wait {number:03}",
            kind=StepKind.EVENT,
            detail="b",
        )
        for number in range(120)
    ]
    async with db.begin() as repositories:
        await repositories.steps.start_many(many)
    for held in (great, *small):
        await suspended(db, held)

    page = await db.executions.waiting(limit=4, waits=2)
    assert page.next is None
    assert [one.execution_id for one in page.items] == [one.id for one in (great, *small)]
    assert [one.count for one in page.items] == [121, 1, 1, 1]
    assert [wait.key for wait in page.items[0].waits] == ["first", "wait 000"]
    assert [len(one.waits) for one in page.items] == [2, 1, 1, 1]
    (whole,) = (await db.executions.waiting(limit=1, waits=1000)).items
    assert [wait.key for wait in whole.waits] == ["first", *(one.key for one in many)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8])
async def test_page_by_page(db: Harness, size: int) -> None:
    """Everybody once, whatever the size of a page, and whoever has gone on meanwhile."""
    owner = await db.register()
    all_: list[Any] = []
    for number in range(7):
        await db.invoke()
        (held,) = await db.fetch(owner)
        # The second wait of each comes after the first waits of all others.
        begun = [
            StepStart(
                execution_id=held.id, claim=held.claim, key=key, kind=StepKind.EVENT, detail="e"
            )
            for key in "ab"
        ]
        async with db.begin() as repositories:
            await repositories.steps.start_many(begun)
        if number % 2:
            db.advance(SECOND)
        all_.append(held)
    for held in all_:
        await start(db, held, "later", StepKind.EVENT, detail="e")
    for held in all_:
        await suspended(db, held)
    expected = [one.execution_id for one in (await db.executions.waiting()).items]
    assert sorted(expected) == sorted(one.id for one in all_)

    found: list[Any] = []
    place = None
    while True:
        page = await db.executions.waiting(limit=size, after=place)
        found += [one.execution_id for one in page.items]
        if page.next is None:
            break
        assert len(page.items) == size
        place = WaitingPlace.parse(str(page.next))
        assert place == page.next
        # The place stays one, also when who had it has gone.
        await db.executions.cancel(found[-1])
    assert found == expected


@pytest.mark.parametrize(
    "text",
    [*("", "x", "2026-01-01", "2026-01-01T00Z/x"), f"2026-01-01/{UUID(int=1)}"],
)
def test_what_names_no_place(text: str) -> None:
    with pytest.raises(InvalidInput, match="after"):
        WaitingPlace.parse(text)


async def test_the_bounds_of_the_list(db: Harness) -> None:
    wrong: list[dict[str, Any]] = [
        {"limit": 0},
        {"limit": 1001},
        {"queue": "Q"},
        {"task_key": "1st"},
        {"waits": 0},
        {"waits": 1001},
        {"after": "2026"},
    ]
    for one in wrong:
        with pytest.raises(InvalidInput, match=next(iter(one))):
            await db.executions.waiting(**one)


# --- retries -------------------------------------------------------------------------------------


async def test_a_retry_from_a_step_drops_it_and_what_came_later(db: Harness) -> None:
    owner, held = await db.running()
    for key in ("one", "two", "three"):
        await record(db, held, key, f'"{key}"')
    await db.fail(held)
    with pytest.raises(StepNotFound, match="four"):
        await db.executions.retry(held.id, from_step="four")
    with pytest.raises(InvalidInput, match="not both"):
        await db.executions.retry(held.id, from_scratch=True, from_step="one")
    assert await db.executions.retry(held.id, from_step="two")
    assert [one.key for one in (await db.executions.tree(held.id)).steps] == ["one"]
    assert len(await db.fetch(owner)) == 1


async def test_a_call_that_failed_may_be_gone_back_to(db: Harness) -> None:
    """Of a step that was to be tried again nothing else is on record, and operators see its key."""
    _, held = await db.running()
    for key in ("one", "two~1", "three"):
        await record(db, held, key, f'"{key}"')
    await db.fail(held)
    made = await db.executions.fork(held.id, from_step="two~1")
    assert await db.executions.retry(held.id, from_step="two~1")
    for one in (held.id, made):
        assert [step.key for step in (await db.executions.tree(one)).steps] == ["one"]


async def test_a_cancellation_that_keeps_children(db: Harness) -> None:
    for keep in (True, False):
        _, held = await db.running()
        invoked = await child(db, held, "pack")
        await suspended(db, held)
        assert await db.executions.cancel(held.id, children=not keep)
        expected = ExecutionState.AVAILABLE if keep else ExecutionState.CANCELLED
        assert (await db.get(invoked)).state is expected


# --- events --------------------------------------------------------------------------------------


async def test_old_events_are_removed_once_they_have_been_looked_at(db: Harness) -> None:
    async def looked_at() -> set[Any]:
        async with db.begin() as repositories:
            return set((await repositories.steps.due(limit=9)).event_ids)

    async with db.begin() as repositories:
        old = [(await repositories.steps.emit("paid", None)).id for _ in range(3)]
        unseen = (await repositories.steps.emit("paid", None)).id
        await repositories.steps.mark_matched(old)
    hair = timedelta(microseconds=1)
    assert await db.retention.remove_events() == 0
    db.advance(SECOND)
    assert await db.retention.remove_events(hair, limit=2) == 2
    assert await db.retention.remove_events(hair, limit=2) == 1
    assert await db.retention.remove_events(hair) == 0
    assert await looked_at() == {unseen}
    wrong: list[dict[str, Any]] = [{"retain": timedelta(0)}, {"limit": 0}]
    for one in wrong:
        with pytest.raises(InvalidInput, match=next(iter(one))):
            await db.retention.remove_events(**one)
