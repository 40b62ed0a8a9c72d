"""The journal of steps: what shares a batch, what goes wrong in one, and who waits for what."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import cast
from uuid import UUID, uuid4

import pytest

from pgconductor.domain.claims import Claim
from pgconductor.domain.sqlstates import Cause, cause_of
from pgconductor.domain.steps import History, Recorded, StepRecord
from pgconductor.exceptions import OwnershipLost
from pgconductor.runtime.journal import Journal
from pgconductor.services.backend import Backend
from tests.unit.test_sqlstates import EXPECTED

CLAIM = Claim(uuid4(), 1)
BEFORE = History({"before": Recorded(key="before", result="1")}, 2)


class Lost(ConnectionError):
    """The database is out of reach."""


class Steps:
    """Records in memory; waits to be let go, and raises what it is told to."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.may_go = asyncio.Event()
        self.may_go.set()
        self.errors: list[Exception] = []
        self.refused: set[str] = set()
        self.refusal: Exception = ValueError("it cannot be stored")
        self.stolen: set[str] = set()
        self.most = 500

    async def record_many(self, steps: Sequence[StepRecord]) -> list[Recorded | OwnershipLost]:
        self.batches.append([one.key for one in steps])
        await self.may_go.wait()
        if self.errors:
            raise self.errors.pop(0)
        if len(steps) > self.most:
            raise TimeoutError
        if self.refused & {one.key for one in steps}:
            raise self.refusal
        return [
            OwnershipLost(one.execution_id)
            if one.key in self.stolen
            else Recorded(key=one.key, result=one.result)
            for one in steps
        ]

    async def histories(self, execution_ids: Collection[UUID]) -> Mapping[UUID, History]:
        if self.errors:
            raise self.errors.pop(0)
        return dict.fromkeys(execution_ids, BEFORE)


class Completing:
    """Cancels in memory; raises what it is told to."""

    def __init__(self) -> None:
        self.cancelled: list[UUID] = []
        self.errors: list[Exception] = []

    async def cancel(self, execution_id: UUID, *, reason: str, parent_id: UUID) -> bool:
        if self.errors:
            raise self.errors.pop(0)
        self.cancelled.append(execution_id)
        return True


class Somewhere:
    cause = staticmethod(Backend.cause)
    is_transient = staticmethod(Backend.is_transient)

    def __init__(self) -> None:
        self.steps = Steps()
        self.completing = Completing()


@pytest.fixture
def somewhere() -> Somewhere:
    return Somewhere()


@pytest.fixture
def journal(somewhere: Somewhere) -> Journal:
    return Journal(cast("Backend", somewhere))


def step(key: str) -> StepRecord:
    return StepRecord(uuid4(), CLAIM, key, f'"{key}"')


async def recorded(journal: Journal, key: str) -> str | None:
    return (await journal.record(step(key))).result


async def begun(journal: Journal, *keys: str) -> list[asyncio.Task[str | None]]:
    tasks = [asyncio.create_task(recorded(journal, key)) for key in keys]
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks


async def test_what_gathers_meanwhile_is_one_batch(journal: Journal, somewhere: Somewhere) -> None:
    somewhere.steps.may_go.clear()
    first = await begun(journal, "alone")
    others = await begun(journal, "a", "b", "c")
    somewhere.steps.may_go.set()
    assert await asyncio.gather(*first, *others) == ['"alone"', '"a"', '"b"', '"c"']
    assert somewhere.steps.batches == [["alone"], ["a", "b", "c"]]


async def test_a_batch_is_bounded_by_its_size_too(journal: Journal, somewhere: Somewhere) -> None:
    somewhere.steps.may_go.clear()
    large = [StepRecord(uuid4(), CLAIM, str(n), '"' + "x" * 1024 * 1024 + '"') for n in range(20)]
    tasks = [asyncio.create_task(journal.record(one)) for one in large]
    somewhere.steps.may_go.set()
    await asyncio.wait_for(asyncio.gather(*tasks), 20)
    assert [len(batch) for batch in somewhere.steps.batches] == [8, 8, 4]


async def test_a_batch_that_takes_too_long_comes_again_in_parts(
    journal: Journal, somewhere: Somewhere
) -> None:
    somewhere.steps.most = 5
    tasks = await begun(journal, *map(str, range(40)))
    assert len(await asyncio.wait_for(asyncio.gather(*tasks), 30)) == 40


async def test_one_that_cannot_be_stored_is_the_only_one_to_fail(
    journal: Journal, somewhere: Somewhere
) -> None:
    somewhere.steps.refused.add("bad")
    somewhere.steps.stolen.add("late")
    good, bad, late = await begun(journal, "good", "bad", "late")
    assert await good == '"good"'
    with pytest.raises(ValueError, match="cannot be stored"):
        await bad
    with pytest.raises(OwnershipLost):
        await late


async def test_a_database_out_of_reach_is_waited_for(
    journal: Journal, somewhere: Somewhere
) -> None:
    somewhere.steps.errors = [Lost(), Lost()]
    (one,) = await begun(journal, "a")
    assert await asyncio.wait_for(one, 20) == '"a"'
    somewhere.steps.errors = [Lost()]
    assert await asyncio.wait_for(journal.load(uuid4()), 20) == BEFORE


async def test_a_late_child_is_cancelled_when_the_database_is_back(
    journal: Journal, somewhere: Somewhere
) -> None:
    """The handler must not be told of it: a lost connection is no failure of the attempt."""
    child, other = uuid4(), uuid4()
    somewhere.completing.errors = [Lost(), Lost()]
    await journal.cancel_child(child, uuid4(), "late")
    somewhere.completing.errors = [ValueError("a mistake")]
    with pytest.raises(ValueError, match="a mistake"):
        await journal.cancel_child(other, uuid4(), "late")
    assert somewhere.completing.cancelled == [child]


async def test_who_has_gone_is_left_out(journal: Journal, somewhere: Somewhere) -> None:
    somewhere.steps.may_go.clear()
    first = await begun(journal, "first")
    gone, stays = await begun(journal, "gone", "stays")
    gone.cancel()
    somewhere.steps.may_go.set()
    assert await asyncio.gather(*first, stays) == ['"first"', '"stays"']
    assert somewhere.steps.batches == [["first"], ["stays"]]


async def test_a_mistake_has_nobody_wait_for_ever(
    journal: Journal, somewhere: Somewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def too_few(steps: Sequence[StepRecord]) -> list[Recorded | OwnershipLost]:
        return []

    monkeypatch.setattr(somewhere.steps, "record_many", too_few)
    (one,) = await begun(journal, "a")
    with pytest.raises(ValueError, match="zip"):
        await asyncio.wait_for(one, 20)
    monkeypatch.undo()
    assert await recorded(journal, "b") == '"b"'


async def test_its_end_ends_the_waiting(journal: Journal, somewhere: Somewhere) -> None:
    somewhere.steps.may_go.clear()
    first = await begun(journal, "first")
    second = await begun(journal, "second")
    await journal.aclose()
    for task in (*first, *second):
        with pytest.raises(asyncio.CancelledError):
            await task


class ServerError(Exception):
    def __init__(self, sqlstate: str) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


@pytest.mark.parametrize("sqlstate", [code for code in EXPECTED if cause_of(code) is Cause.VALUE])
async def test_a_value_that_cannot_be_stored_is_its_own_steps_fault(
    journal: Journal, somewhere: Somewhere, sqlstate: str
) -> None:
    somewhere.steps.refused.add("bad")
    somewhere.steps.refusal = ServerError(sqlstate)
    good, bad = await begun(journal, "good", "bad")
    assert await good == '"good"'
    with pytest.raises(ServerError):
        await asyncio.wait_for(bad, 20)


async def test_no_step_fails_by_trouble_that_is_not_its_own() -> None:
    codes = [code for code in EXPECTED if cause_of(code) is not Cause.VALUE]
    assert len(codes) > 20
    # At the same time, for each waits before it tries again.
    await asyncio.gather(*(survives(code) for code in codes))


async def survives(sqlstate: str) -> None:
    somewhere = Somewhere()
    somewhere.steps.errors = [ServerError(sqlstate)] * 2
    (one,) = await begun(Journal(cast("Backend", somewhere)), "a")
    assert await asyncio.wait_for(one, 30) == '"a"', sqlstate


@pytest.mark.parametrize("sqlstate", ["23505", "42P01", "57014", "P0004"])
async def test_one_that_is_kept_holds_up_no_others(
    journal: Journal, somewhere: Somewhere, sqlstate: str
) -> None:
    somewhere.steps.refused.add("bad")
    somewhere.steps.refusal = ServerError(sqlstate)
    bad, good = await begun(journal, "bad", "good")
    assert await asyncio.wait_for(good, 20) == '"good"'
    (later,) = await begun(journal, "later")
    assert await asyncio.wait_for(later, 20) == '"later"'
    assert not bad.done()
    somewhere.steps.refused.clear()
    assert await asyncio.wait_for(bad, 20) == '"bad"'


async def test_whoever_is_kept_is_let_go_at_the_end(journal: Journal, somewhere: Somewhere) -> None:
    somewhere.steps.refused.add("bad")
    somewhere.steps.refusal = ServerError("42501")
    bad, good = await begun(journal, "bad", "good")
    assert await asyncio.wait_for(good, 20) == '"good"'
    await journal.aclose()
    await asyncio.wait([bad])
    assert bad.cancelled()
