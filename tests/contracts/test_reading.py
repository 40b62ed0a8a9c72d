"""Get, list, count: pages newest first, by filters that all must hold."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from pgconductor.domain.ids import new_id
from pgconductor.domain.snapshots import ExecutionFilter, Page, Progress
from pgconductor.exceptions import ExecutionNotFound, InvalidInput
from pgconductor.types import ExecutionState
from tests.contracts.harness import Harness

HOUR = timedelta(hours=1)
# What is available would be fetched on the way to the other states.
BUSY_FIRST = list(reversed(ExecutionState))


async def ids(db: Harness, **where: Any) -> list[UUID]:
    return [one.id for one in (await db.executions.list(ExecutionFilter(**where))).items]


async def test_one_that_is_not_there(db: Harness) -> None:
    missing = new_id()
    with pytest.raises(ExecutionNotFound) as caught:
        await db.get(missing)
    assert caught.value.execution_id == missing
    async with db.begin() as repositories:
        assert await repositories.executions.get_one_or_none(missing) is None


@pytest.mark.parametrize("state", ExecutionState)
async def test_progress_is_a_part_of_the_snapshot(db: Harness, state: ExecutionState) -> None:
    execution = await db.in_state(state, payload={"of": "no concern"})
    await db.executions.cancel(execution, reason="why")
    found, whole = await db.executions.progress(execution), await db.get(execution)
    assert found == Progress(
        state=whole.state,
        result=whole.result,
        last_error=whole.last_error,
        last_error_type=whole.last_error_type,
        cancel_reason=whole.cancel_reason,
    )


async def test_there_is_no_progress_of_what_is_not_there(db: Harness) -> None:
    with pytest.raises(ExecutionNotFound):
        await db.executions.progress(new_id())


async def test_pages_are_newest_first_and_complete(db: Harness) -> None:
    expected = list(reversed(await db.invoke_several(7)))
    found: list[UUID] = []
    sizes: list[int] = []
    after: UUID | None = None
    while True:
        page = await db.executions.list(limit=3, after=after)
        found += [one.id for one in page.items]
        sizes.append(len(page.items))
        if page.next is None:
            break
        assert page.next == page.items[-1].id
        after = page.next
    assert (found, sizes) == (expected, [3, 3, 1])


async def test_a_page_that_just_fits_is_the_last(db: Harness) -> None:
    await db.invoke_several(3)
    page = await db.executions.list(limit=3)
    assert (len(page.items), page.next) == (3, None)
    assert await db.executions.list(after=page.items[-1].id) == Page([], None)


async def test_pages_are_stable_while_others_invoke(db: Harness) -> None:
    first = await db.invoke_several(4)
    page = await db.executions.list(limit=2)
    await db.invoke_several(3)
    rest = await db.executions.list(limit=2, after=page.next)
    assert [one.id for one in [*page.items, *rest.items]] == list(reversed(first))


@pytest.mark.parametrize("limit", [0, 1_001, True])
async def test_a_size_out_of_range_is_refused(db: Harness, limit: int) -> None:
    with pytest.raises(InvalidInput, match="limit"):
        await db.executions.list(limit=limit)


async def test_a_listed_execution_is_the_one_that_is_got(db: Harness) -> None:
    there = await db.in_state(ExecutionState.FAILED, payload={"a": [1]})
    (listed,) = (await db.executions.list()).items
    assert listed == await db.get(there)


async def test_filters_by_state_task_queue_and_time(db: Harness) -> None:
    by_state = {state: await db.in_state(state) for state in BUSY_FIRST}
    db.advance(HOUR)
    middle = await db.now()
    other_task = await db.invoke("other")
    other_queue = await db.invoke(queue="other")
    db.advance(HOUR)
    later = await db.invoke()
    old = list(by_state.values())
    for state, one in by_state.items():
        assert (await ids(db, states=(state,)))[-1] == one
    finished = tuple(state for state in ExecutionState if state.finished)
    assert len(await ids(db, states=finished)) == 3
    assert await ids(db, task_key="other") == [other_task]
    assert await ids(db, queue="other") == [other_queue]
    assert await ids(db, task_key="other", queue="other") == []
    assert await ids(db, created_before=middle) == list(reversed(old))
    assert await ids(db, created_after=middle) == [later, other_queue, other_task]
    assert await ids(db, created_after=middle, created_before=middle + HOUR / 2) == [
        other_queue,
        other_task,
    ]
    exactly = (await db.get(later)).created_at
    assert await ids(db, created_after=exactly) == [later]
    assert later not in await ids(db, created_before=exactly)


async def test_filters_and_pages_go_together(db: Harness) -> None:
    mine = []
    for _ in range(3):
        mine.append(await db.invoke("mine"))
        await db.invoke("theirs")
    where = ExecutionFilter(task_key="mine")
    page = await db.executions.list(where, limit=2)
    assert [one.id for one in page.items] == [mine[2], mine[1]]
    page = await db.executions.list(where, limit=2, after=page.next)
    assert ([one.id for one in page.items], page.next) == ([mine[0]], None)


@pytest.mark.parametrize(
    "where",
    [{"states": ("paused",)}, {"task_key": "no spaces"}, {"queue": "Upper"},
     {"created_after": "yesterday"}, {"created_before": 0}],
    ids=repr,
)  # fmt: skip
def test_a_filter_that_cannot_match_is_refused(where: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each names another field
        ExecutionFilter(**where)


async def test_counts_name_every_state(db: Harness) -> None:
    assert await db.executions.count() == dict.fromkeys(ExecutionState, 0)
    for state in BUSY_FIRST:
        await db.in_state(state, task_key="counted")
    await db.invoke_several(2, queue="other")
    expected = dict.fromkeys(ExecutionState, 1)
    assert await db.executions.count(ExecutionFilter(task_key="counted")) == expected
    assert await db.executions.count() == expected | {ExecutionState.AVAILABLE: 3}
    assert (await db.executions.count(ExecutionFilter(queue="none")))[ExecutionState.AVAILABLE] == 0
