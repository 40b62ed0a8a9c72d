"""One execution that cannot be settled is found, named and left alone; the others go on."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest

from pgconductor.domain.steps import Settled
from pgconductor.repositories.errors import StatementTimeout, trouble
from pgconductor.services.settling import Settling
from pgconductor.services.unit_of_work import UnitOfWork

IDS = [UUID(int=number) for number in range(1, 41)]
BAD = IDS[17]


class ServerError(Exception):
    """As the driver has it."""

    def __init__(self, state: str) -> None:
        super().__init__(f"server says {state}")
        self.sqlstate = state


class Database:
    """Cannot settle some executions."""

    def __init__(self, fails: Callable[[set[UUID]], Exception | None]) -> None:
        self.fails = fails
        self.asked: list[set[UUID]] = []

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Any]:
        yield SimpleNamespace(steps=self)

    async def settle(self, seen: Mapping[UUID, int | None], *, until: Any) -> list[Settled]:
        assert until is None
        self.asked.append(set(seen))
        error = self.fails(set(seen))
        if error is not None:
            raise error
        return [Settled(one, known) for one, known in seen.items()]


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def of(fails: Callable[[set[UUID]], Exception | None]) -> tuple[Settling, Database, Clock]:
    database, clock = Database(fails), Clock()
    return Settling(cast("UnitOfWork", database), clock=clock), database, clock


STATEMENTS = [
    StatementTimeout("no answer within 30 s"),
    *map(ServerError, ("57014", "55P03", "40P01", "40001", "22003", "23514", "P0001")),
]


@pytest.mark.parametrize("error", STATEMENTS, ids=lambda one: getattr(one, "sqlstate", "late"))
async def test_the_one_is_found_and_the_others_go_on(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    settling, database, _ = of(lambda ids: error if BAD in ids else None)
    with caplog.at_level(logging.WARNING):
        answers = await settling.settle(dict.fromkeys(IDS, 7))
    assert {one.execution_id for one in answers} == set(IDS) - {BAD}
    assert all(one.wakes == 7 for one in answers)
    # Halved each time: not tried one by one.
    assert len(database.asked) <= 13
    (record,) = caplog.records
    assert str(BAD) in record.getMessage()
    assert cast("Any", record).execution_id == str(BAD)
    assert "no database" not in record.getMessage()


async def test_those_that_can_be_settled_do_not_wait_for_the_search() -> None:
    """The halves of what failed come last."""
    settling, database, _ = of(lambda ids: StatementTimeout("late") if BAD in ids else None)
    await settling.settle(dict.fromkeys(IDS))
    good = [number for number, ids in enumerate(database.asked) if BAD not in ids]
    assert len(database.asked[good[0]]) == len(IDS) // 2
    assert good[0] <= 2


async def test_the_one_is_left_alone_for_longer_each_time() -> None:
    settling, database, clock = of(lambda ids: StatementTimeout("late") if BAD in ids else None)
    pauses = []
    for _ in range(9):
        await settling.settle({BAD: None})
        assert settling.aside == {BAD}
        assert settling.again == []
        asked = len(database.asked)
        assert await settling.settle({BAD: None}) == []
        assert len(database.asked) == asked
        assert settling.next_in is not None
        pauses.append(settling.next_in)
        clock.time += settling.next_in
        assert settling.again == [BAD]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]


async def test_after_trouble_that_all_had_nobody_is_left_alone() -> None:
    """A lock on the table, for a minute: whoever met it is not to blame."""
    locked = set(IDS)
    settling, database, clock = of(lambda ids: ServerError("55P03") if ids & locked else None)
    for _ in range(7):
        await settling.settle(dict.fromkeys(IDS[:3]))
        clock.time += settling.next_in or 0.0
    await settling.settle(dict.fromkeys(IDS[:3]))
    assert settling.next_in == 60
    locked = {BAD}
    await settling.settle(dict.fromkeys(IDS[3:6]))
    assert settling.again == IDS[:3]
    assert len(await settling.settle(dict.fromkeys(settling.again))) == 3
    # One that goes on to fail while others are settled is left alone.
    for _ in range(7):
        await settling.settle(dict.fromkeys(IDS[17:20]))
        clock.time += settling.next_in or 0.0
        await settling.settle(dict.fromkeys(IDS[18:20]))
    await settling.settle({BAD: None})
    asked = len(database.asked)
    await settling.settle(dict.fromkeys(IDS))
    assert settling.aside == {BAD}
    assert len(database.asked) == asked + 1


async def test_it_fails_alone_when_it_is_tried_again() -> None:
    settling, database, clock = of(lambda ids: StatementTimeout("late") if BAD in ids else None)
    await settling.settle({BAD: None})
    clock.time += 1
    await settling.settle(dict.fromkeys(IDS))
    assert database.asked[1:] == [set(IDS) - {BAD}, {BAD}]


async def test_what_could_be_settled_is_forgotten() -> None:
    bad = {BAD}
    settling, database, clock = of(lambda ids: StatementTimeout("late") if bad & ids else None)
    await settling.settle({BAD: None})
    clock.time += 1
    bad.clear()
    assert await settling.settle({BAD: None}) == [Settled(BAD, None)]
    assert (settling.aside, settling.again, settling.next_in) == (set(), [], None)
    await settling.settle(dict.fromkeys(IDS))
    assert database.asked[-1] == set(IDS)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("gone"),
        TimeoutError(),
        *map(ServerError, ("57P01", "08006", "42703", "53100")),
    ],
    ids=str,
)
async def test_what_is_not_of_the_statement_is_raised_at_once(error: Exception) -> None:
    """Nobody is left alone because the database is gone, or because of a mistake of ours."""
    settling, database, _ = of(lambda _: error)
    with pytest.raises(type(error)):
        await settling.settle(dict.fromkeys(IDS))
    assert len(database.asked) == 1
    assert settling.aside == set()


TROUBLE = {
    "57014": "a statement was cancelled, as statement_timeout does",
    "55P03": "a lock was not free in time",
    "40001": "another transaction stood in the way",
    "40P01": "another transaction stood in the way",
    "57P01": "no database",
    "57P02": "no database",
    "57P03": "no database",
    "57P05": "no database",
    "53300": "no database",
    "53400": "no database",
    "25006": "no database",
    "08006": "no database",
    "22003": "a statement failed",
}


@pytest.mark.parametrize(("state", "said"), TROUBLE.items())
def test_the_log_says_what_kind_of_trouble_it_is(state: str, said: str) -> None:
    assert trouble(ServerError(state)) == said


def test_a_statement_that_took_too_long_is_no_missing_database() -> None:
    assert trouble(StatementTimeout("late")) == "a statement took longer than command_timeout"
    assert trouble(TimeoutError()) == trouble(ConnectionRefusedError()) == "no database"
