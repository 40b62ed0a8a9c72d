"""Events with a dedupe key: a webhook that comes twice is one event."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from pgconductor.domain.events import Emitted
from pgconductor.exceptions import InvalidInput, InvalidName
from pgconductor.repositories import sql_repositories
from pgconductor.repositories.errors import sqlstate
from pgconductor.services import EventService, unit_of_work
from tests.contracts.harness import Harness, PostgresHarness
from tests.contracts.waits import begin, ended, event

HOUR = timedelta(hours=1)


async def emit(db: Harness, key: str | None, payload: object = None, name: str = "paid") -> Emitted:
    return await EventService(db.work).emit(name, payload, dedupe_key=key)


async def test_the_first_stands_for_the_others(db: Harness) -> None:
    _, held = await db.running()
    await begin(db, event(held, "one"), event(held, "two"))
    first = await emit(db, "evt_1", 1)
    assert first.created
    async with db.notifications() as sent:
        assert await emit(db, "evt_1", 2) == Emitted(first.id, created=False)
    assert sent == []
    assert {key: one.result for key, one in (await ended(db, held)).items()} == {"one": "1"}
    # Also once somebody has taken it.
    assert await emit(db, "evt_1", 3) == Emitted(first.id, created=False)
    assert set(await ended(db, held)) == {"one"}


async def test_name_and_key_make_the_identity(db: Harness) -> None:
    made = [
        await emit(db, "k"),
        await emit(db, "K"),
        await emit(db, "k", name="refunded"),
        await emit(db, None),
        await emit(db, None),
    ]
    assert all(one.created for one in made)
    assert len({one.id for one in made}) == len(made)


async def test_a_key_is_known_for_as_long_as_the_event_is_kept(db: Harness) -> None:
    first = await emit(db, "k")
    await db.steps.settle_due()
    db.advance(2 * HOUR)
    assert not (await emit(db, "k")).created
    async with db.begin() as repositories:
        assert await repositories.retention.remove_events(HOUR, limit=9) == 1
    again = await emit(db, "k")
    assert again.created
    assert again.id != first.id


async def test_what_was_rolled_back_holds_no_key(db: Harness) -> None:
    async with db.rolled_back() as repositories:
        await repositories.steps.emit("paid", None, "k")
    assert (await emit(db, "k")).created


@pytest.mark.parametrize(
    ("key", "error"),
    [("", InvalidName), (" ", InvalidName), ("k" * 513, InvalidName), ("a\n", InvalidName),
     ("\x00", InvalidInput), ("\ud800", InvalidInput), (7, InvalidInput)],
)  # fmt: skip
async def test_what_cannot_be_a_key(db: Harness, key: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="dedupe_key"):
        await emit(db, key)
    async with db.begin() as repositories:
        assert (await repositories.steps.due(limit=9)).event_ids == ()


@pytest.mark.parametrize("commits", [True, False])
async def test_an_emission_waits_for_another_of_its_key(
    postgres: PostgresHarness, commits: bool
) -> None:
    async with postgres.begin() if commits else postgres.rolled_back() as emitting:
        first = await emitting.steps.emit("paid", "1", "k")
        second = await postgres.blocked(emit(postgres, "k", 2))
    answer = await second
    assert (answer == Emitted(first.id, created=False)) is commits
    assert answer.created is not commits


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
async def test_with_an_older_snapshot_it_is_a_serialization_failure(
    postgres: PostgresHarness, level: str
) -> None:
    """As any other conflict there: the transaction is to be repeated, and then it is found."""
    snapshot = postgres.engine.execution_options(isolation_level=level)
    async with snapshot.connect() as connection:
        await connection.execute(text("SELECT 1 FROM pgconductor.events"))
        first = await emit(postgres, "k")
        with pytest.raises(DBAPIError) as caught:
            await sql_repositories(connection).steps.emit("paid", None, "k")
        assert sqlstate(caught.value) == "40001"
        await connection.rollback()
        again = await sql_repositories(connection).steps.emit("paid", None, "k")
    assert again == Emitted(first.id, created=False)


async def test_fifty_sessions_with_one_key(postgres: PostgresHarness, database_url: str) -> None:
    """Rollbacks among them; those that commit agree on one event."""
    engine = create_async_engine(database_url, pool_size=50)
    work = unit_of_work(engine)
    start = asyncio.Barrier(50)
    answers: list[Emitted] = []

    class RolledBackError(Exception):
        pass

    async def session(number: int) -> None:
        await start.wait()
        try:
            async with work.begin() as repositories:
                answer = await repositories.steps.emit("paid", str(number), "k")
                if number % 3 == 0:
                    raise RolledBackError
        except RolledBackError:
            return
        answers.append(answer)

    async with asyncio.TaskGroup() as group:
        for number in range(50):
            group.create_task(session(number))
    await engine.dispose()
    assert len(answers) == 33
    assert len({one.id for one in answers}) == 1
    assert sum(one.created for one in answers) == 1
