"""Races on PostgreSQL in the dedupe scope "unstarted": no change that was invoked for is lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from pgconductor.domain.invocations import DedupeScope, Invocation, Invoked
from pgconductor.repositories import sql_repositories
from pgconductor.repositories.errors import sqlstate
from pgconductor.types import ExecutionState
from tests.contracts.harness import PostgresHarness

UNSTARTED = DedupeScope.UNSTARTED


def keyed(payload: int | None = None, key: str = "k", *, replace: bool = False) -> Invocation:
    return Invocation(
        task_key="greet",
        dedupe_key=key,
        dedupe_scope=UNSTARTED,
        dedupe_replace=replace,
        payload=None if payload is None else str(payload),
    )


async def invoke(db: PostgresHarness, invocation: Invocation) -> Invoked:
    (answer,) = await db.executions.invoke_many([invocation])
    return answer


@pytest.fixture
async def wide(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(database_url, pool_size=60)
    yield engine
    await engine.dispose()


@pytest.mark.parametrize("replace", [False, True])
async def test_nobody_fetches_what_an_open_transaction_has_joined(
    postgres: PostgresHarness, replace: bool
) -> None:
    """The handler would not see what that transaction is about to commit."""
    there = await invoke(postgres, keyed(1))
    owner = await postgres.register()
    async with postgres.begin() as invoking:
        (joined,) = await invoking.executions.add_many([keyed(2, replace=replace)])
        assert joined == Invoked(there.id, created=False)
        async with postgres.impatient() as fetching:
            assert await fetching.executions.fetch(owner.next_claim(), "default", limit=9) == []
    (fetched,) = await postgres.fetch(owner)
    assert (fetched.id, fetched.payload) == (there.id, "2" if replace else "1")


@pytest.mark.parametrize("commits", [True, False])
@pytest.mark.parametrize("replace", [False, True])
async def test_an_invocation_waits_for_a_fetch_and_is_decided_by_it(
    postgres: PostgresHarness, commits: bool, replace: bool
) -> None:
    there = await invoke(postgres, keyed(1))
    owner = await postgres.register()
    async with postgres.begin() if commits else postgres.rolled_back() as fetching:
        await fetching.executions.fetch(owner.next_claim(), "default", limit=1)
        waiting = await postgres.blocked(invoke(postgres, keyed(2, replace=replace)))
    answer = await waiting
    if commits:
        assert answer.created
        assert (await postgres.get(there.id)).payload == 1
        assert (await postgres.get(answer.id)).payload == 2
    else:
        assert answer == Invoked(there.id, created=False)
        assert (await postgres.get(there.id)).payload == (2 if replace else 1)


async def test_two_transactions_join_the_same_one_at_once(postgres: PostgresHarness) -> None:
    there = await invoke(postgres, keyed())
    async with postgres.begin() as one:
        (first,) = await one.executions.add_many([keyed()])
        async with postgres.impatient() as other:
            (second,) = await other.executions.add_many([keyed()])
    assert first.id == second.id == there.id


async def test_the_last_to_commit_has_replaced_the_payload(postgres: PostgresHarness) -> None:
    there = await invoke(postgres, keyed(1))
    async with postgres.begin() as one:
        await one.executions.add_many([keyed(2, replace=True)])
        other = await postgres.blocked(invoke(postgres, keyed(3, replace=True)))
    assert (await other).id == there.id
    assert (await postgres.get(there.id)).payload == 3


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("replace", [False, True])
async def test_with_an_older_snapshot_it_is_a_conflict_or_right(
    postgres: PostgresHarness, level: str, replace: bool
) -> None:
    """Somebody has fetched it since: a serialization failure, or a successor; never that one."""
    there = await invoke(postgres, keyed(1))
    owner = await postgres.register()
    snapshot = postgres.engine.execution_options(isolation_level=level)
    async with snapshot.connect() as connection:
        await connection.execute(text("SELECT 1 FROM pgconductor.executions"))
        (fetched,) = await postgres.fetch(owner)
        assert fetched.id == there.id
        repositories = sql_repositories(connection)
        try:
            (answer,) = await repositories.executions.add_many([keyed(2, replace=replace)])
            await connection.commit()
        except DBAPIError as error:
            refused = sqlstate(error)
        else:
            refused = None if answer.created else "joined what has started"
    assert refused in (None, "40001")
    again = await invoke(postgres, keyed(2, replace=replace))
    assert again.id != there.id


@pytest.mark.parametrize("replace", [False, True])
async def test_fifty_sessions_rollbacks_and_fetches(
    postgres: PostgresHarness, wide: AsyncEngine, replace: bool
) -> None:
    """A change that has committed is seen by an execution that was fetched afterwards."""
    async with wide.begin() as connection:
        await connection.execute(text("CREATE TABLE docs AS SELECT n AS id, 0 AS version"
                                      " FROM generate_series(0, 2) n"))  # fmt: skip
    owner = await postgres.register()
    seen = {0: 0, 1: 0, 2: 0}
    done = asyncio.Event()

    async def fetch_once() -> int:
        batch = await postgres.fetch(owner, limit=2)
        for held in batch:
            async with wide.connect() as connection:
                doc = int(held.payload or 0) % 10
                found = await connection.scalar(
                    text("SELECT version FROM docs WHERE id = :id"), {"id": doc}
                )
                seen[doc] = max(seen[doc], found or 0)
        # Some are given back, and count as started all the same.
        for held in batch:
            await (postgres.release(held) if rng.random() < 0.2 else postgres.complete(held))
        return len(batch)

    async def work() -> None:
        while not done.is_set():
            await fetch_once()
            await asyncio.sleep(0)

    rng = random.Random(11)

    async def change(number: int) -> None:
        doc = number % 3
        async with wide.connect() as connection:
            # The document first, or last: no lock of the application's orders these two.
            invoked = keyed(10 * number + doc, str(doc), replace=replace)
            bump = text("UPDATE docs SET version = version + 1 WHERE id = :id")
            if number % 2:
                await connection.execute(bump, {"id": doc})
            await sql_repositories(connection).executions.add_many([invoked])
            if not number % 2:
                await connection.execute(bump, {"id": doc})
            await (connection.rollback() if number % 5 == 0 else connection.commit())

    async def changes() -> None:
        start = asyncio.Barrier(50)

        async def one(number: int) -> None:
            await start.wait()
            await change(number)

        # Of two that do both in opposite orders, the server ends one: that one was rolled back.
        ends = await asyncio.gather(*(one(number) for number in range(50)), return_exceptions=True)
        for end in ends:
            assert end is None or (isinstance(end, DBAPIError) and sqlstate(end) == "40P01"), end
        done.set()

    await asyncio.gather(changes(), work(), work())
    while await fetch_once():
        pass
    async with wide.connect() as connection:
        rows = await connection.execute(text("SELECT id, version FROM docs"))
        assert seen == {row.id: row.version for row in rows}


async def test_batches_with_keys_in_opposite_orders_do_not_wait_in_a_circle(
    postgres: PostgresHarness,
) -> None:
    keys = [f"k{number}" for number in range(40)]
    ids: list[set[UUID]] = []
    for _ in range(2):
        answers = await asyncio.gather(
            *(
                postgres.executions.invoke_many(
                    [keyed(number, key, replace=True) for key in (keys if even else keys[::-1])]
                )
                for number, even in enumerate((True, False) * 4)
            )
        )
        ids += [{one.id for one in answer} for answer in answers]
    assert all(one == ids[0] for one in ids)
    assert sum((await postgres.executions.count()).values()) == len(keys)
    assert (await postgres.executions.count())[ExecutionState.AVAILABLE] == len(keys)
