"""Invoking without a transaction of the caller's, by sync sessions, and by many at once."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session

from pgconductor.domain.invocations import DedupeScope, Invocation
from pgconductor.domain.outcomes import Completed
from pgconductor.domain.steps import StepRecord
from pgconductor.models import Execution
from pgconductor.repositories import sql_repositories
from pgconductor.repositories.invoking import Invoke
from pgconductor.services import Bind, ExecutionService, OrchestratorService
from tests.integration.shop import payloads

Factory = async_sessionmaker[AsyncSession]


# --- a transaction of its own --------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["engine", "sessionmaker"])
async def test_each_call_commits(engine: AsyncEngine, sessionmaker: Factory, kind: str) -> None:
    binds: dict[str, Bind] = {"engine": engine, "sessionmaker": sessionmaker}
    service = ExecutionService(binds[kind])
    made = await service.invoke_many(
        [Invocation(task_key="send", payload=str(n)) for n in range(3)]
    )
    assert await payloads(engine) == [0, 1, 2]
    assert [(await service.get(one.id)).payload for one in made] == [0, 1, 2]


@pytest.mark.parametrize("kind", ["engine", "sessionmaker"])
async def test_each_call_is_all_or_nothing(
    engine: AsyncEngine, sessionmaker: Factory, kind: str
) -> None:
    service = ExecutionService(engine if kind == "engine" else sessionmaker)
    broken = Invocation(task_key="send", payload="{")
    with pytest.raises(DBAPIError):
        await service.invoke_many([Invocation(task_key="send"), broken])
    assert await payloads(engine) == []
    # The connection went back to the pool in order.
    await service.invoke("send")


# --- a sync session ------------------------------------------------------------------------------

EVERY_KIND = [
    Invocation(task_key="send", payload='{"n": 1}', queue="mail", priority=-3),
    Invocation(task_key="send", run_at=datetime(2040, 1, 1, tzinfo=UTC), max_attempts=7),
    Invocation(task_key="send", delay=timedelta(days=2, microseconds=5), max_crashes=1),
    Invocation(task_key="send", dedupe_key="k"),
    Invocation(task_key="send", dedupe_key="k"),
    Invocation(task_key="send", dedupe_key="r", dedupe_scope=DedupeScope.RETAINED),
]


def invoke_sync(session: Session, *invocations: Invocation) -> list[tuple[UUID, bool]]:
    invoke = Invoke.of(invocations)
    made = invoke.answers(session.execute(invoke.statement, invoke.parameters))
    return [(one.id, one.created) for one in made]


def test_a_sync_session_makes_the_same_rows(sync_engine: Engine) -> None:
    with Session(sync_engine) as session:
        made = invoke_sync(session, *EVERY_KIND)
        ids = [one.id for one in EVERY_KIND]
        assert made == [*((one, True) for one in ids[:4]), (ids[3], False), (ids[5], True)]
        session.commit()
    with Session(sync_engine) as session:
        found = {one.id: one for one in session.scalars(select(Execution))}
    first, second, third = (found[one] for one in ids[:3])
    assert (first.payload, first.queue, first.priority) == ({"n": 1}, "mail", -3)
    assert (second.run_at, second.max_attempts) == (EVERY_KIND[1].run_at, 7)
    assert third.run_at - third.created_at == EVERY_KIND[2].delay
    assert (third.max_crashes, third.payload) == (1, None)


def test_a_sync_session_commits_and_rolls_back(sync_engine: Engine) -> None:
    with Session(sync_engine) as session:
        invoke_sync(session, Invocation(task_key="send", payload="1"))
        session.rollback()
        invoke_sync(session, Invocation(task_key="send", payload="2"))
        nested = session.begin_nested()
        invoke_sync(session, Invocation(task_key="send", payload="3"))
        nested.rollback()
        session.commit()
        assert list(session.scalars(select(Execution.payload))) == [2]


async def test_an_async_engine_of_psycopg(database_url: str) -> None:
    engine = create_async_engine(database_url.replace("+asyncpg", "+psycopg", 1))
    service, orchestrators = ExecutionService(engine), OrchestratorService(engine)
    made = await service.invoke_many(EVERY_KIND)
    registration = await orchestrators.register()
    (fetched,) = await service.fetch(registration, queue="mail", limit=5)
    assert fetched.id == made[0].id
    assert fetched.payload == '{"n": 1}'
    async with engine.begin() as connection:
        steps = sql_repositories(connection).steps
        assert await steps.record(StepRecord(fetched.id, fetched.claim, "step", "[1]")) == "[1]"
    (verdict,) = await service.complete([Completed(fetched.id, fetched.claim, '{"ok": true}')])
    assert verdict.accepted
    assert (await service.get(fetched.id)).result == {"ok": True}
    await orchestrators.leave(registration)
    await engine.dispose()


# --- many at once --------------------------------------------------------------------------------


async def test_one_key_from_fifty_sessions(database_url: str) -> None:
    """I8: half of them roll back, and the key leads all others to one execution."""
    engine = create_async_engine(database_url, pool_size=50)
    start = asyncio.Barrier(50)

    async def invoke(number: int) -> tuple[bool, UUID]:
        async with AsyncSession(engine) as session:
            await session.execute(text("SELECT 1"))
            await start.wait()
            made = await ExecutionService(session).invoke("send", number, dedupe_key="k")
            if number % 2:
                await session.rollback()
            else:
                await session.commit()
            return bool(number % 2), made.id

    async with asyncio.timeout(60):
        outcomes = await asyncio.gather(*(invoke(number) for number in range(50)))
    page = await ExecutionService(engine).list()
    await engine.dispose()
    (only,) = page.items
    assert {made for rolled_back, made in outcomes if not rolled_back} == {only.id}
    assert only.payload % 2 == 0


async def test_batches_of_the_same_keys_never_wait_in_a_circle(database_url: str) -> None:
    """I8: each batch has the keys in an order of its own."""
    engine = create_async_engine(database_url, pool_size=50)
    keys = [f"key{n}" for n in range(12)]
    start = asyncio.Barrier(50)

    async def invoke(number: int) -> dict[str, UUID]:
        # Seeded, so that a failure can be seen again.
        shuffled = random.Random(number).sample(keys, len(keys))
        async with AsyncSession(engine) as session:
            await session.execute(text("SELECT 1"))
            await start.wait()
            made = await ExecutionService(session).invoke_many(
                [Invocation(task_key="send", dedupe_key=key) for key in shuffled]
            )
            if number % 3 == 0:
                await session.rollback()
                return {}
            await session.commit()
            return {key: one.id for key, one in zip(shuffled, made, strict=True)}

    async with asyncio.timeout(60):
        outcomes = await asyncio.gather(*(invoke(number) for number in range(50)))
    page = await ExecutionService(engine).list()
    await engine.dispose()
    expected = {one.dedupe_key: one.id for one in page.items}
    assert set(expected) == set(keys)
    assert len(page.items) == len(keys)
    assert all(made in ({}, expected) for made in outcomes)
