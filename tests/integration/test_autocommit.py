"""What commits each statement is no transaction: refused wherever it comes in, before a write."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from importlib.util import find_spec
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session

from pgconductor import Conductor, RetryPolicy, Settings, TaskContext
from pgconductor.exceptions import ConfigurationError, WrongSession
from pgconductor.services import ExecutionService, OrchestratorService
from pgconductor.types import ExecutionState
from tests.integration.shop import payloads
from tests.support.servers import connect

LEVEL = {"isolation_level": "AUTOCOMMIT"}
Joined = AsyncSession | AsyncConnection
Make = Callable[..., AsyncEngine]
TOLD = "is in autocommit mode.*Leave out what asks for it"


def driver_sets_it(engine: Engine) -> None:
    """Behind SQLAlchemy's back: no level tells."""

    @event.listens_for(engine, "connect")
    def commit_each(made: Any, _record: object) -> None:
        made.autocommit = True


def listener_sets_it(engine: Engine) -> None:
    @event.listens_for(engine, "engine_connect")
    def commit_each(connection: Connection) -> None:
        connection.execution_options(**LEVEL)


# --- async sessions and connections --------------------------------------------------------------


@asynccontextmanager
async def by_engine(make: Make) -> AsyncIterator[Joined]:
    async with AsyncSession(make(**LEVEL)) as session:
        yield session


@asynccontextmanager
async def without_rollbacks(make: Make) -> AsyncIterator[Joined]:
    async with AsyncSession(make(**LEVEL, skip_autocommit_rollback=True)) as session:
        yield session


@asynccontextmanager
async def by_options_of_an_engine(make: Make) -> AsyncIterator[Joined]:
    async with AsyncSession(make().execution_options(**LEVEL)) as session:
        yield session


@asynccontextmanager
async def by_an_engine_s_connection(make: Make) -> AsyncIterator[Joined]:
    async with make(execution_options=LEVEL).connect() as connection:
        yield connection


@asynccontextmanager
async def by_options_of_a_connection(make: Make) -> AsyncIterator[Joined]:
    async with make().connect() as connection:
        yield await connection.execution_options(**LEVEL)


@asynccontextmanager
async def by_a_session_s_bind(make: Make) -> AsyncIterator[Joined]:
    async with make().connect() as connection:
        own = await connection.execution_options(**LEVEL)
        async with AsyncSession(own) as session:
            yield session


@asynccontextmanager
async def by_a_session_s_connection(make: Make) -> AsyncIterator[Joined]:
    async with AsyncSession(make()) as session:
        connection = await session.connection(execution_options=LEVEL)
        assert connection.in_transaction()
        yield session


@asynccontextmanager
async def by_options_of_a_sessionmaker(make: Make) -> AsyncIterator[Joined]:
    async with async_sessionmaker(make(), execution_options=LEVEL)() as session:
        yield session


@asynccontextmanager
async def by_the_driver(make: Make) -> AsyncIterator[Joined]:
    engine = make()
    driver_sets_it(engine.sync_engine)
    async with AsyncSession(engine) as session:
        yield session


@asynccontextmanager
async def by_a_listener(make: Make) -> AsyncIterator[Joined]:
    engine = make()
    listener_sets_it(engine.sync_engine)
    async with AsyncSession(engine) as session:
        yield session


@asynccontextmanager
async def by_psycopg(make: Make) -> AsyncIterator[Joined]:
    async with AsyncSession(make(driver="psycopg", connect_args={"autocommit": True})) as session:
        yield session


@asynccontextmanager
async def by_an_engine_on_psycopg(make: Make) -> AsyncIterator[Joined]:
    async with make(driver="psycopg", **LEVEL).begin() as connection:
        yield connection


WAYS: list[Callable[[Make], AbstractAsyncContextManager[Joined]]] = [
    by_engine, without_rollbacks, by_options_of_an_engine, by_an_engine_s_connection,
    by_options_of_a_connection, by_a_session_s_bind, by_a_session_s_connection,
    by_options_of_a_sessionmaker, by_the_driver, by_a_listener, by_psycopg,
    by_an_engine_on_psycopg,
]  # fmt: skip


@pytest.fixture
async def make(database_url: str) -> AsyncIterator[Make]:
    made: list[AsyncEngine] = []

    def one(driver: str = "asyncpg", **options: Any) -> AsyncEngine:
        url = make_url(database_url).set(drivername=f"postgresql+{driver}")
        made.append(create_async_engine(url, **options))
        return made[-1]

    yield one
    for each in made:
        await each.dispose()


@pytest.fixture
async def conductor(database_url: str) -> AsyncIterator[Conductor]:
    async with Conductor(Settings(database_url=SecretStr(database_url), pooled=False)) as one:
        yield one


def task_of(conductor: Conductor) -> Any:
    @conductor.task
    async def send(ctx: TaskContext, number: int) -> None:
        return None

    return send


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_async_ways_in(
    engine: AsyncEngine,
    make: Make,
    conductor: Conductor,
    way: Callable[[Make], AbstractAsyncContextManager[Joined]],
) -> None:
    send = task_of(conductor)
    async with way(make) as given:
        for call in (
            lambda: send.invoke(1, session=given),
            lambda: send.invoke_many([1, 2], session=given),
            lambda: conductor.emit("paid", 1, session=given),
            lambda: ExecutionService(given).invoke("send"),
            lambda: OrchestratorService(given).register(),
        ):
            with pytest.raises(WrongSession, match=TOLD):
                await call()
    assert await payloads(engine) == []
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM pgconductor.events")) == 0
    assert await OrchestratorService(engine).list() == []


async def test_a_transaction_beside_is_taken(
    engine: AsyncEngine, make: Make, conductor: Conductor
) -> None:
    """One engine does both, and a connection that goes back to its pool is as it was."""
    send = task_of(conductor)
    own = make(pool_size=1, max_overflow=0)
    for number in range(2):
        async with AsyncSession(own.execution_options(**LEVEL)) as session:
            await session.execute(text("SELECT 1"))
        async with AsyncSession(own) as session:
            await send.invoke(number, session=session)
            await session.rollback()
            await send.invoke(10 + number, session=session)
            await session.commit()
    assert await payloads(engine) == [10, 11]


# --- sync sessions -------------------------------------------------------------------------------


# Of two drivers, where there are two: the older one is no requirement of ours.
SYNC = [name for name in ("psycopg", "psycopg2") if find_spec(name)]


@pytest.fixture(params=SYNC)
def make_sync(database_url: str, request: pytest.FixtureRequest) -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def one(**options: Any) -> Engine:
        url = make_url(database_url).set(drivername=f"postgresql+{request.param}")
        made.append(create_engine(url, **options))
        return made[-1]

    yield one
    for each in made:
        each.dispose()


@contextmanager
def sync_session(way: str, make: Callable[..., Engine]) -> Iterator[Session]:
    if way == "a connection":
        with make().connect() as connection, Session(connection.execution_options(**LEVEL)) as one:
            yield one
        return
    engine = make(**LEVEL) if way == "the engine" else make()
    if way == "the engine's options":
        engine = engine.execution_options(**LEVEL)
    if way == "the driver":
        driver_sets_it(engine)
    if way == "a listener":
        listener_sets_it(engine)
    with Session(engine) as session:
        if way == "the session's connection":
            session.connection(execution_options=LEVEL)
        yield session


@pytest.mark.parametrize(
    "way",
    [
        *("the engine", "the engine's options", "a connection", "the session's connection"),
        *("the driver", "a listener"),
    ],
)
async def test_sync_ways_in(
    engine: AsyncEngine, conductor: Conductor, make_sync: Callable[..., Engine], way: str
) -> None:
    send = task_of(conductor)
    with sync_session(way, make_sync) as session:
        with pytest.raises(WrongSession, match=TOLD):
            send.invoke_sync(1, session=session)
        with pytest.raises(WrongSession, match=TOLD):
            conductor.emit_sync("paid", 1, session=session)
    assert await payloads(engine) == []
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM pgconductor.events")) == 0


async def test_psycopg_by_its_own_argument(
    engine: AsyncEngine, database_url: str, conductor: Conductor
) -> None:
    url = make_url(database_url).set(drivername="postgresql+psycopg")
    own = create_engine(url, connect_args={"autocommit": True})
    with Session(own) as session, pytest.raises(WrongSession, match=TOLD):
        task_of(conductor).invoke_sync(1, session=session)
    own.dispose()
    assert await payloads(engine) == []


# --- engines and sessionmakers -------------------------------------------------------------------


def of_engine(make: Make, way: str) -> AsyncEngine:
    if way == "argument":
        return make(**LEVEL)
    return make(execution_options=LEVEL) if way == "option" else make().execution_options(**LEVEL)


@pytest.mark.parametrize("way", ["argument", "option", "options"])
async def test_a_conductor_takes_none(make: Make, way: str) -> None:
    with pytest.raises(ConfigurationError, match=TOLD):
        Conductor(engine=of_engine(make, way))
    with pytest.raises(ConfigurationError, match=TOLD):
        Conductor(sessionmaker=async_sessionmaker(of_engine(make, way)))


async def test_nor_a_sessionmaker_that_asks_for_it(make: Make) -> None:
    with pytest.raises(ConfigurationError, match="sessionmaker is in autocommit mode"):
        Conductor(sessionmaker=async_sessionmaker(make(), execution_options=LEVEL))


@pytest.mark.parametrize("way", ["argument", "option", "options"])
async def test_nor_a_service(make: Make, way: str) -> None:
    engine = of_engine(make, way)
    async with engine.connect() as connection:
        for bind in (engine, async_sessionmaker(engine), connection):
            with pytest.raises(WrongSession, match=TOLD):
                ExecutionService(bind)


@pytest.mark.parametrize("sets_it", [driver_sets_it, listener_sets_it])
async def test_a_service_whose_engine_does_not_say_so(
    engine: AsyncEngine, make: Make, sets_it: Callable[[Engine], None]
) -> None:
    own = make()
    sets_it(own.sync_engine)
    for bind in (own, async_sessionmaker(own)):
        with pytest.raises(WrongSession, match=TOLD):
            await ExecutionService(bind).invoke("send")
    assert await payloads(engine) == []


# --- transactional steps -------------------------------------------------------------------------


@pytest.mark.parametrize("sets_it", [driver_sets_it, listener_sets_it])
@pytest.mark.parametrize("form", ["function", "block", "caught"])
async def test_a_transactional_step_writes_nothing(
    database_url: str, make: Make, sets_it: Callable[[Engine], None], form: str
) -> None:
    own = make()
    sets_it(own.sync_engine)
    conductor = Conductor(engine=own)
    insert = text("INSERT INTO bookings VALUES (1)")
    with connect(database_url) as connection:
        connection.execute("CREATE TABLE bookings (number int)")

    async def book(session: AsyncSession) -> None:
        await session.execute(insert)

    async def book_in_vain(session: AsyncSession) -> None:
        for _ in range(2):
            with suppress(WrongSession):
                await session.execute(insert)

    @conductor.task(max_attempts=1, retry=RetryPolicy())
    async def checkout(ctx: TaskContext) -> None:
        if form == "block":
            async with ctx.transaction("book") as session:
                await session.execute(insert)
        else:
            await ctx.transact("book", book if form == "function" else book_in_vain)

    async with conductor:
        handle = await checkout.invoke()
        await conductor.orchestrator().drain()
        assert await handle.state() is ExecutionState.FAILED
    with connect(database_url) as connection:
        ((error,),) = connection.execute("SELECT last_error FROM pgconductor.executions").fetchall()
        assert "autocommit mode" in str(error)
        assert connection.execute("SELECT 1 FROM bookings").fetchall() == []
