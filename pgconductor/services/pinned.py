"""Connections of the engine's own loops: apart from the user's pool, kept, and bounded in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import Engine, NullPool, StaticPool, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry

from pgconductor.exceptions import PgconductorError
from pgconductor.repositories import DriverExecutor, Repositories, sql_repositories
from pgconductor.repositories.errors import StatementTimeout, sqlstate
from pgconductor.services import pooling

if TYPE_CHECKING:
    import asyncpg

__all__ = ["PinnedUnitOfWork", "TimedUnitOfWork", "sibling_engine"]

# Our statements read what was committed while they waited for a lock: whatever level the role or
# the database has by default, they must not end in a conflict instead.
#
# Their plans are made once, whatever the tables hold at that moment: so that one made on an empty
# table does not read the whole of a full one, indexes are used wherever there is one. The price
# that the planner puts on what it must not do would make it compile expressions, hence no JIT.
_PREPARE = text(
    "SELECT pg_catalog.set_config('application_name', :name, false),"
    " pg_catalog.set_config('default_transaction_isolation', 'read committed', false),"
    " pg_catalog.set_config('plan_cache_mode', 'force_generic_plan', false),"
    " pg_catalog.set_config('enable_seqscan', 'off', false),"
    " pg_catalog.set_config('jit', 'off', false),"
    " pg_catalog.set_config('synchronous_commit', "
    " CASE WHEN CAST(:durable AS boolean) THEN pg_catalog.current_setting('synchronous_commit')"
    " ELSE 'off' END, false),"
    " pg_catalog.set_config('lock_timeout', "
    " coalesce(CAST(:lock_timeout AS text), pg_catalog.current_setting('lock_timeout')), false)"
)


def sibling_engine(engine: AsyncEngine) -> AsyncEngine:
    """An engine that connects as ``engine`` does, each time anew, and never waits for its pool.

    The engine's loops must work when handlers hold every connection of the user's pool; and a
    connection belongs to one event loop, so the heartbeat's thread needs its own.

    Taken over are the address, the driver's arguments, what listens to the dialect, what listens
    to the pool by now, and whether parameters are logged. What listens to the engine is not.

    Each connection is asked whether a pooler is behind it, unless an execution option of the engine
    says so already, and refused if it is not made for one.

    Args:
        engine: Whose connections are to be like.
    """
    source = engine.sync_engine
    pooled = source.get_execution_options().get(pooling.OPTION)
    connect = source.pool._invoke_creator  # pyright: ignore[reportPrivateUsage] - of any pool

    def connect_initialised(rec: ConnectionPoolEntry) -> DBAPIConnection:
        made = connect(rec)
        try:
            pooling.inspect(source.dialect, made, rec.info, pooled=pooled)
        except BaseException:
            source.dialect.do_terminate(made)
            raise
        if not hasattr(source.dialect, "default_isolation_level"):
            # SQLAlchemy does so once, and only connections of the same pool wait for it.
            _initialise(source, made)
        return made

    pool = NullPool(
        connect_initialised,
        dialect=source.dialect,
        _dispatch=source.pool.dispatch,
    )
    return AsyncEngine(
        Engine(
            pool,
            source.dialect,
            source.url,
            logging_name=source.logging_name,
            echo=bool(source.echo),
            hide_parameters=source.hide_parameters,
        )
    )


def _initialise(source: Engine, made: DBAPIConnection) -> None:
    """Have the dialect ask the server, on a connection that nobody has yet."""
    dialect = source.dialect
    engine = Engine(StaticPool(lambda: made, dialect=dialect), dialect, source.url)
    try:
        with engine.connect() as connection:
            dialect.initialize(connection)
    except BaseException:
        dialect.do_terminate(made)
        raise


class PinnedUnitOfWork:
    """One connection, kept, on which each statement commits by itself.

    Statements go to the driver directly. A pool would pay a round trip to reset the connection at
    each return. The connection is thrown away after anything that leaves its state in doubt: a
    time-out, a cancellation, an error without an SQLSTATE, or a server that has become read-only.

    Through a pooler nothing can be set for longer than a transaction. Where transactions are not
    READ COMMITTED by themselves, each use is then one that is.

    Args:
        engine: Where the connection comes from.
        timeout: How long one use may take, connecting included.
        role: What it is for, shown as ``application_name`` in ``pg_stat_activity``.
        durable: Whether a commit waits until it is on disk. Without, what was answered may be
            undone by a crash of the server, the last fraction of a second of it.
        lock_timeout: How long a statement may wait for a lock; None for what the role has. Not set
            through a pooler.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        timeout: timedelta,
        role: str,
        durable: bool = True,
        lock_timeout: timedelta | None = None,
    ) -> None:
        self._engine = engine
        self._lock_timeout = (
            None if lock_timeout is None else f"{lock_timeout // timedelta(milliseconds=1)}ms"
        )
        self._durable = durable
        self._timeout = timeout.total_seconds()
        self._role = role
        self._lock = asyncio.Lock()
        self._connection: AsyncConnection | None = None
        self._repositories: Repositories | None = None
        self._strict: asyncpg.Connection[Any] | None = None

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator[Repositories]:
        """See :class:`~pgconductor.services.unit_of_work.UnitOfWork`."""
        async with self._lock:
            connected = False
            try:
                async with asyncio.timeout(self._timeout):
                    repositories = self._repositories or await self._connect()
                    connected = True
                    async with self._transaction():
                        yield repositories
            except BaseException as error:
                if _in_doubt(error):
                    await self._discard()
                if connected and type(error) is TimeoutError:
                    raise _too_slow(self._timeout) from error
                raise

    def _transaction(self) -> AbstractAsyncContextManager[None]:
        return nullcontext() if self._strict is None else pooling.transaction(self._strict)

    async def _connect(self) -> Repositories:
        self._connection = connection = await self._engine.connect()
        pooled = pooling.is_pooled(connection)
        try:
            connection = await connection.execution_options(isolation_level="AUTOCOMMIT")
            # Statements that are planned anew each time need no settings for the planner.
            if not pooled:
                await connection.execute(
                    _PREPARE,
                    {
                        "name": f"pgconductor {self._role}",
                        "durable": self._durable,
                        "lock_timeout": self._lock_timeout,
                    },
                )
            raw = await connection.get_raw_connection()
            driver = cast("asyncpg.Connection[Any]", raw.driver_connection)
            if pooled and not await pooling.reads_committed(driver):
                self._strict = driver
            # Where the pooler tracks statements, the driver may keep them.
            parsed_anew = pooled and not await pooling.keeps_statements(driver)
        except BaseException:
            await self._discard()
            raise
        self._repositories = sql_repositories(
            DriverExecutor(driver, self._engine.sync_engine.dialect, parsed_anew=parsed_anew)
        )
        return self._repositories

    async def _discard(self) -> None:
        connection, self._connection, self._repositories = self._connection, None, None
        self._strict = None
        if connection is not None:
            # Invalidating ends the connection without waiting for the server's good-bye.
            await asyncio.shield(_terminate(connection))

    async def aclose(self) -> None:
        """Give the connection up; a later use opens another."""
        async with self._lock:
            await self._discard()


async def _terminate(connection: AsyncConnection) -> None:
    if not connection.closed and not connection.invalidated:
        await connection.invalidate()
    await connection.close()


def _in_doubt(error: BaseException) -> bool:
    if isinstance(error, PgconductorError):
        return False  # What an answer of the server's means.
    code = sqlstate(error)
    if code is None:
        return not isinstance(error, GeneratorExit)
    return code.startswith(("08", "57")) or code == "25006"


def _too_slow(seconds: float) -> StatementTimeout:
    return StatementTimeout(f"no answer within {seconds:g} s")


class TimedUnitOfWork:
    """A transaction of its own for each use, READ COMMITTED and bounded in time.

    Args:
        engine: Where connections come from.
        timeout: How long one use may take, connecting included.
    """

    def __init__(self, engine: AsyncEngine, *, timeout: timedelta) -> None:
        # A snapshot from before a lock was waited for would hide what was committed meanwhile (I2).
        self._engine = engine.execution_options(isolation_level="READ COMMITTED")
        self._timeout = timeout.total_seconds()

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator[Repositories]:
        """See :class:`~pgconductor.services.unit_of_work.UnitOfWork`."""
        connected = False
        try:
            async with asyncio.timeout(self._timeout), self._engine.begin() as connection:
                connected = True
                yield sql_repositories(connection)
        except TimeoutError as error:
            if connected and type(error) is TimeoutError:
                raise _too_slow(self._timeout) from error
            raise
