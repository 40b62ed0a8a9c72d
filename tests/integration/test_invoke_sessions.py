"""Invoking in a session or connection of the caller's: there exactly if he commits."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import selectinload

from pgconductor.domain.steps import StepRecord
from pgconductor.models import Execution
from pgconductor.repositories import sql_repositories
from pgconductor.repositories.errors import is_transient, sqlstate
from pgconductor.services import ExecutionService, OrchestratorService
from tests.integration.shop import Order, ShopBase, open_shop, orders, payloads

Factory = async_sessionmaker[AsyncSession]


@pytest.fixture
async def shop(engine: AsyncEngine) -> AsyncEngine:
    await open_shop(engine)
    return engine


# --- the caller's transaction --------------------------------------------------------------------

Joined = AsyncSession | AsyncConnection
KINDS: dict[str, Callable[[AsyncEngine], AbstractAsyncContextManager[Joined]]] = {
    "session": AsyncSession,
    "connection": lambda engine: engine.connect(),
}
kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))


@kinds
async def test_visible_exactly_if_the_caller_commits(
    engine: AsyncEngine, kind: Callable[[AsyncEngine], AbstractAsyncContextManager[Joined]]
) -> None:
    async with kind(engine) as caller:
        service = ExecutionService(caller)
        made = await service.invoke("send", 1)
        assert made.created
        assert await payloads(engine) == []
        # The caller himself sees it at once.
        assert (await service.get(made.id)).payload == 1
        await caller.commit()
        assert await payloads(engine) == [1]
        await service.invoke("send", 2)
        await caller.rollback()
        await service.invoke("send", 3)
    # Neither committed nor rolled back: leaving without a word is a rollback.
    assert await payloads(engine) == [1]


@kinds
async def test_a_savepoint_takes_back_what_is_in_it(
    engine: AsyncEngine, kind: Callable[[AsyncEngine], AbstractAsyncContextManager[Joined]]
) -> None:
    async with kind(engine) as caller:
        service = ExecutionService(caller)
        await service.invoke("send", "before")
        savepoint = await caller.begin_nested()
        inner = await service.invoke("send", "inside", dedupe_key="k")
        await savepoint.rollback()
        # The key is free again: what held it never was.
        again = await service.invoke("send", "after", dedupe_key="k")
        assert again.created
        assert again.id != inner.id
        async with caller.begin_nested():
            await service.invoke("send", "kept")
        await caller.commit()
    assert await payloads(engine) == ["before", "after", "kept"]


@kinds
async def test_the_outermost_transaction_decides(
    engine: AsyncEngine, kind: Callable[[AsyncEngine], AbstractAsyncContextManager[Joined]]
) -> None:
    async with kind(engine) as caller:
        async with caller.begin_nested():
            await ExecutionService(caller).invoke("send", 1)
        await caller.rollback()
    assert await payloads(engine) == []


async def test_the_service_ends_no_transaction_of_the_callers(session: AsyncSession) -> None:
    service = ExecutionService(session)
    async with session.begin():
        await service.invoke("send")
        assert session.in_transaction()
        await service.list()
        await service.count()
        assert session.in_transaction()


async def test_a_refused_invocation_leaves_the_transaction_alone(
    shop: AsyncEngine, session: AsyncSession
) -> None:
    session.add(Order(id=1, total=5))
    service = ExecutionService(session)
    with pytest.raises(ValueError, match="queue"):
        await service.invoke("send", queue="No")
    await service.invoke("send", "fine")
    await session.commit()
    assert (await orders(shop), await payloads(shop)) == (1, ["fine"])


# --- together with business writes ---------------------------------------------------------------


async def test_an_order_and_its_execution_are_one(shop: AsyncEngine, session: AsyncSession) -> None:
    made = await ExecutionService(session).invoke("confirm", {"order": 1})
    session.add(Order(id=1, total=5, execution_id=made.id))
    await session.commit()
    assert (await orders(shop), await payloads(shop)) == (1, [{"order": 1}])


async def test_a_failed_flush_takes_the_execution_along(
    shop: AsyncEngine, session: AsyncSession
) -> None:
    service = ExecutionService(session)
    await service.invoke("confirm", 1)
    session.add(Order(id=1, total=-5))
    with pytest.raises(IntegrityError):
        await session.flush()
    # The session waits for its rollback, and SQLAlchemy says so.
    with pytest.raises(PendingRollbackError):
        await service.invoke("confirm", 2)
    await session.rollback()
    assert (await orders(shop), await payloads(shop)) == (0, [])
    await service.invoke("confirm", 3)
    await session.commit()
    assert await payloads(shop) == [3]


async def test_a_failed_flush_in_a_savepoint(shop: AsyncEngine, session: AsyncSession) -> None:
    service = ExecutionService(session)
    await service.invoke("confirm", 1)
    async with session.begin_nested() as savepoint:
        await service.invoke("confirm", 2)
        session.add(Order(id=1, total=-5))
        with pytest.raises(IntegrityError):
            await session.flush()
        await savepoint.rollback()
    await service.invoke("confirm", 3)
    await session.commit()
    assert (await orders(shop), await payloads(shop)) == (0, [1, 3])


async def test_a_flush_that_invoking_sets_off(shop: AsyncEngine, session: AsyncSession) -> None:
    """SQLAlchemy flushes what is pending before a statement: what is wrong with it says itself."""
    session.add(Order(id=1, total=-5))
    service = ExecutionService(session)
    with pytest.raises(IntegrityError, match="orders"):
        await service.invoke("confirm")
    await session.rollback()
    order = Order(id=1, total=-5)
    session.add(order)
    with session.no_autoflush:
        await service.invoke("confirm", 2)
    session.expunge(order)
    await session.commit()
    assert (await orders(shop), await payloads(shop)) == (0, [2])


async def test_an_error_in_the_callers_block(shop: AsyncEngine, sessionmaker: Factory) -> None:
    async def block() -> None:
        async with sessionmaker.begin() as session:
            session.add(Order(id=1, total=5))
            await ExecutionService(session).invoke("confirm")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await block()
    assert (await orders(shop), await payloads(shop)) == (0, [])


async def test_a_session_inside_a_transaction_of_a_test(engine: AsyncEngine) -> None:
    """The recipe for test suites: the session's commits are savepoints, all is rolled back."""
    async with engine.connect() as connection:
        outer = await connection.begin()
        async with AsyncSession(connection, join_transaction_mode="create_savepoint") as session:
            await ExecutionService(session).invoke("send")
            await session.commit()
        assert await connection.scalar(select(func.count()).select_from(Execution)) == 1
        await outer.rollback()
    assert await payloads(engine) == []


# --- isolation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
async def test_in_every_isolation(engine: AsyncEngine, level: str) -> None:
    isolated = engine.execution_options(isolation_level=level)
    async with AsyncSession(isolated) as session:
        service = ExecutionService(session)
        first = await service.invoke("send", dedupe_key="k")
        second = await service.invoke("send", dedupe_key="k")
        assert (second.id, second.created) == (first.id, False)
        await session.commit()
        third = await service.invoke("send", dedupe_key="k")
        assert (third.id, third.created) == (first.id, False)
        await session.commit()


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
async def test_a_rival_that_the_snapshot_does_not_show(engine: AsyncEngine, level: str) -> None:
    """I8: not two executions, and not one that the caller could not read: try again."""
    isolated = engine.execution_options(isolation_level=level)
    async with AsyncSession(isolated) as session:
        service = ExecutionService(session)
        await session.execute(text("SELECT 1 FROM pgconductor.executions"))
        rival = await ExecutionService(engine).invoke("send", dedupe_key="k")
        with pytest.raises(DBAPIError) as caught:
            await service.invoke("send", dedupe_key="k")
        assert sqlstate(caught.value) == "40001"
        assert is_transient(caught.value)
        await session.rollback()
        again = await service.invoke("send", dedupe_key="k")
        assert (again.id, again.created) == (rival.id, False)
        await session.commit()


# --- the ORM -------------------------------------------------------------------------------------


async def test_our_tables_join_a_users(shop: AsyncEngine, sessionmaker: Factory) -> None:
    async with sessionmaker.begin() as session:
        for number in range(3):
            made = await ExecutionService(session).invoke("confirm", {"order": number})
            session.add(Order(id=number, total=number + 1, execution_id=made.id))
        session.add(Order(id=9, total=9))
    async with sessionmaker() as session:
        rows = await session.execute(
            select(Order, Execution)
            .join(Execution, Execution.id == Order.execution_id)
            .where(Execution.state == "available", Order.total > 1)
            .order_by(Order.id)
        )
        assert [(order.id, execution.payload) for order, execution in rows] == [
            (1, {"order": 1}),
            (2, {"order": 2}),
        ]
        found = await session.scalars(
            select(Order).options(selectinload(Order.execution)).order_by(Order.id)
        )
        states = [order.execution.state if order.execution else None for order in found]
        assert states == ["available"] * 3 + [None]


async def test_steps_of_an_execution(engine: AsyncEngine, sessionmaker: Factory) -> None:
    service, orchestrators = ExecutionService(engine), OrchestratorService(engine)
    await service.invoke("send")
    registration = await orchestrators.register()
    (fetched,) = await service.fetch(registration)
    for key in ("b", "a"):
        async with sessionmaker.begin() as session:
            await sql_repositories(session).steps.record(
                StepRecord(fetched.id, fetched.claim, key, '"x"')
            )
    async with sessionmaker() as session:
        execution = await session.get_one(
            Execution, fetched.id, options=[selectinload(Execution.steps)]
        )
        assert [(step.key, step.result) for step in execution.steps] == [("b", "x"), ("a", "x")]
    await orchestrators.leave(registration)


def test_a_users_metadata_does_not_make_our_tables() -> None:
    assert set(ShopBase.metadata.tables) == {"shop.orders"}
