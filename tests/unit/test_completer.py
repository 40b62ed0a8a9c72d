"""What the completer does with errors that are not an outcome's fault."""

from __future__ import annotations

import asyncio
from typing import cast
from uuid import UUID, uuid4

import pytest

from pgconductor.domain.claims import Claim
from pgconductor.domain.outcomes import Completed, Disposition, Outcome, Verdict
from pgconductor.domain.sqlstates import Cause, cause_of
from pgconductor.runtime.completer import Completer
from pgconductor.services.backend import Backend
from pgconductor.types import ExecutionState
from tests.support.waiting import eventually
from tests.unit.test_sqlstates import EXPECTED

VALUE = Cause.VALUE


class ServerError(Exception):
    def __init__(self, sqlstate: str) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


class Failing:
    """Refuses the first two writes with an error, then takes everything."""

    cause = staticmethod(Backend.cause)
    is_transient = staticmethod(Backend.is_transient)

    def __init__(self, sqlstate: str) -> None:
        self.completing = self
        self.left = 2
        self.sqlstate = sqlstate
        self.taken: list[Outcome] = []

    async def complete(self, outcomes: list[Outcome]) -> list[Verdict]:
        if self.left:
            self.left -= 1
            raise ServerError(self.sqlstate)
        self.taken += outcomes
        state = ExecutionState.COMPLETED
        return [Verdict(one.execution_id, Disposition.RECORDED, state) for one in outcomes]


async def test_a_result_outlives_trouble_that_is_not_its_own() -> None:
    """I3: a full disk must not turn what was completed into a failure."""
    codes = [code for code in EXPECTED if cause_of(code) is not VALUE]
    assert len(codes) > 20
    # At the same time, for each waits before it tries again.
    await asyncio.gather(*(outlives(code) for code in codes))


async def outlives(sqlstate: str) -> None:
    backend = Failing(sqlstate)
    completer = Completer(cast("Backend", backend), lambda _: None)
    outcome = Completed(uuid4(), Claim(uuid4(), 1), "1")
    completer.add(outcome)
    running = asyncio.create_task(completer.run())
    await asyncio.wait_for(completer.flushed(), 20)
    running.cancel()
    assert backend.taken == [outcome], sqlstate


class Picky:
    """Refuses some, as long as it is told to, and takes the others."""

    cause = staticmethod(Backend.cause)
    is_transient = staticmethod(Backend.is_transient)

    def __init__(self, sqlstate: str, *refused: Outcome) -> None:
        self.completing = self
        self.sqlstate = sqlstate
        self.refused = {one.execution_id for one in refused}
        self.taken: dict[UUID, Outcome] = {}
        self.statements = 0

    async def complete(self, outcomes: list[Outcome]) -> list[Verdict]:
        self.statements += 1
        await asyncio.sleep(0)
        if self.refused & {one.execution_id for one in outcomes}:
            raise ServerError(self.sqlstate)
        self.taken |= {one.execution_id: one for one in outcomes}
        state = ExecutionState.COMPLETED
        return [Verdict(one.execution_id, Disposition.RECORDED, state) for one in outcomes]


def some(number: int) -> list[Outcome]:
    return [Completed(uuid4(), Claim(uuid4(), 1), "1") for _ in range(number)]


@pytest.mark.parametrize(
    "sqlstate", ["23505", "42501", "42P01", "55P03", "57014", "XX000", "P0004"]
)
async def test_one_that_is_not_taken_is_kept_apart_from_the_others(sqlstate: str) -> None:
    """Something is wrong with its row, and not with its result: the others do not wait for it."""
    bad, *good = some(200)
    backend = Picky(sqlstate, bad)
    completer = Completer(cast("Backend", backend), lambda _: None)
    for one in [*good[:70], bad, *good[70:]]:
        completer.add(one)
    running = asyncio.create_task(completer.run())
    await eventually(lambda: len(backend.taken) == len(good))
    assert completer.knows(bad.execution_id)
    assert not completer.idle
    backend.refused.clear()
    await asyncio.wait_for(completer.flushed(), 20)
    running.cancel()
    assert backend.taken[bad.execution_id] == bad
    assert not completer.full


@pytest.mark.parametrize("sqlstate", ["23503", "42501"])
@pytest.mark.parametrize("together", [True, False])
async def test_many_that_are_not_taken_hold_up_no_others(sqlstate: str, *, together: bool) -> None:
    """All outcomes of one task may be refused, by a trigger for instance."""
    bad, good = some(60), some(100)
    backend = Picky(sqlstate, *bad)
    completer = Completer(cast("Backend", backend), lambda _: None)
    for one in [*bad, *good] if together else [*bad[::2], *good, *bad[1::2]]:
        completer.add(one)
    running = asyncio.create_task(completer.run())
    await eventually(lambda: len(backend.taken) == len(good))
    (later,) = some(1)
    completer.add(later)
    await eventually(lambda: later.execution_id in backend.taken)
    backend.refused.clear()
    running.cancel()
    await asyncio.wait([running])


async def test_trouble_with_all_is_not_looked_for_in_each() -> None:
    outcomes = some(500)
    backend = Picky("42501", *outcomes)
    completer = Completer(cast("Backend", backend), lambda _: None)
    for one in outcomes:
        completer.add(one)
    errors: list[Exception] = []
    completer.on_error = errors.append
    running = asyncio.create_task(completer.run())
    await eventually(lambda: len(errors) >= 1)
    assert backend.statements < 50
    backend.refused.clear()
    await asyncio.wait_for(completer.flushed(), 30)
    running.cancel()
    assert len(backend.taken) == len(outcomes)


async def test_what_waits_is_bounded_by_its_size_too() -> None:
    completer = Completer(cast("Backend", Picky("08006")), lambda _: None)
    large = [Completed(uuid4(), Claim(uuid4(), 1), "x" * 2**20) for _ in range(64)]
    for one in large:
        assert not completer.full
        completer.add(one)
    assert completer.full
    running = asyncio.create_task(completer.run())
    await asyncio.wait_for(completer.flushed(), 20)
    assert not completer.full
    running.cancel()


async def test_what_is_kept_apart_goes_with_its_owner() -> None:
    bad, good = some(2)
    completer = Completer(cast("Backend", Picky("23505", bad)), lambda _: None)
    completer.add(bad)
    completer.add(good)
    running = asyncio.create_task(completer.run())
    await eventually(lambda: not completer.knows(good.execution_id))
    assert completer.discard() == 1
    await asyncio.wait_for(completer.flushed(), 20)
    assert not completer.knows(bad.execution_id)
    running.cancel()
