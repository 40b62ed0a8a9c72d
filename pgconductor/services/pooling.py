"""Transaction poolers such as PgBouncer: noticing one, and what has to be minded through one.

A pooler gives every transaction whichever server connection is free. What a statement leaves behind
on its connection (a prepared statement, a setting, LISTEN) is then somebody else's: nothing may
outlive a transaction.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, cast
from weakref import WeakKeyDictionary

from asyncpg.exceptions import PostgresError
from sqlalchemy import URL, Connection, Dialect, Pool, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine

from pgconductor.domain.ids import new_id
from pgconductor.exceptions import ConfigurationError
from pgconductor.repositories import Repositories, sql_repositories
from pgconductor.repositories.autocommit import OWN
from pgconductor.repositories.errors import sqlstate

if TYPE_CHECKING:
    import asyncpg
    from sqlalchemy.engine.interfaces import DBAPIConnection

__all__ = [
    "OPTION",
    "OwnTransaction",
    "Poolers",
    "inspect",
    "is_pooled",
    "keeps_statements",
    "make_engine",
    "reads_committed",
    "transaction",
]

#: The execution option of an engine that says whether a pooler is between, and the key under which
#: the ``info`` of a connection tells so.
OPTION: Final = "pgconductor_pooled"
_PATIENCE: Final = 10.0


def _unnamed() -> str:
    return ""


#: Arguments of driver and dialect with which every statement is parsed anew, under no name, in the
#: messages that execute it: the pooler keeps these together. Still one round trip a statement.
_CONNECT_ARGS: Final = {"statement_cache_size": 0, "prepared_statement_name_func": _unnamed}
_ADVICE: Final = (
    "a pooler that gives each transaction another connection (PgBouncer in transaction mode) is "
    "between this engine and the server, and the engine keeps prepared statements, which others "
    "would execute; make it with create_async_engine(url, connect_args={"
    '"statement_cache_size": 0, "prepared_statement_name_func": lambda: ""}), or give Conductor '
    "the URL; if the pooler tracks prepared statements (PgBouncer from 1.21 on with "
    "max_prepared_statements), set pooled=True, and if it pools sessions, pooled=False"
)
# duplicate_prepared_statement, invalid_sql_statement_name: statements of others, or in their hands.
_OF_OTHERS: Final = frozenset({"42P05", "26000"})
_FAILED_BEFORE: Final = "25P02"


def make_engine(url: URL, *, pooled: bool | None, **options: Any) -> AsyncEngine:
    """An engine whose connections are safe through a pooler as well.

    Args:
        url: The database.
        pooled: Whether a pooler is between; None to ask at each new connection.
        options: For ``create_async_engine``.
    """
    engine = create_async_engine(url, **options)

    def connect(
        dialect: Dialect, record: Any, cargs: tuple[Any, ...], cparams: dict[str, Any]
    ) -> DBAPIConnection:
        if not pooled:
            made = dialect.connect(*cargs, **cparams)
            keep = pooled is False
            try:
                keep = keep or not _asked(made)
            finally:
                if not keep:
                    dialect.do_terminate(made)
            if keep:
                record.info[OPTION] = False
                return made
        record.info[OPTION] = True
        return dialect.connect(*cargs, **{**cparams, **_CONNECT_ARGS})

    event.listen(engine.sync_engine, "do_connect", connect)
    return engine


def inspect(
    dialect: Dialect, made: DBAPIConnection, info: dict[Any, Any], *, pooled: bool | None
) -> None:
    """Find out whether a pooler is behind a connection, and note it in its ``info``.

    Must be called where SQLAlchemy awaits, as in ``run_sync`` or when a pool connects.

    Args:
        dialect: The connection's.
        made: The connection.
        info: Where it is noted; what is noted there already stands.
        pooled: What the user says; None to ask.

    Raises:
        ConfigurationError: There is one, and the connection is not made for it.
    """
    if OPTION in info:
        return
    if pooled is None:
        pooled = _asked(made)
        if pooled and _prepares(dialect, made):
            raise ConfigurationError(_ADVICE)
    info[OPTION] = pooled


def _asked(made: DBAPIConnection) -> bool:
    """Whether the process that answers is another than the one that was connected to."""
    adapted: Any = made

    async def asked(driver: asyncpg.Connection[Any]) -> bool:
        # The simple protocol, which prepares nothing; the answer is in the tag.
        tag = await driver.execute(
            f"SELECT 1 WHERE pg_catalog.pg_backend_pid() = {driver.get_server_pid():d}",
            timeout=_PATIENCE,
        )
        return tag != "SELECT 1"

    return bool(adapted.run_async(asked))


def _marked() -> str:
    """A statement that nobody else has, and that counts how often it is kept by the server."""
    return (
        "SELECT count(*)::int FROM pg_catalog.pg_prepared_statements"  # noqa: S608 - an id of ours
        f" WHERE pg_catalog.strpos(statement, '{new_id()}') > 0"
    )


async def keeps_statements(driver: asyncpg.Connection[Any]) -> bool:
    """Whether the driver keeps statements on the server, under names; by trying.

    Args:
        driver: The driver's own connection.
    """
    async with driver.transaction():
        return bool(await driver.fetchval(_marked()))


def _prepares(dialect: Dialect, made: DBAPIConnection) -> bool:
    """Whether statements outlive their execution on a connection; by trying, for nobody tells."""
    adapted: Any = made

    def value(statement: str) -> Any:
        cursor = adapted.cursor()
        try:
            cursor.execute(statement)
            (row,) = cursor.fetchall()
            return row[0]
        finally:
            cursor.close()

    marked = _marked()
    try:
        if adapted.run_async(keeps_statements):
            return True
        # One that is kept without a name is replaced by the next.
        return [value(marked), value("SELECT -1"), value(marked)] != [0, -1, 0]
    except (PostgresError, dialect.loaded_dbapi.Error) as error:
        # Those of SQLAlchemy's adapter carry the code, too.
        if sqlstate(error) not in _OF_OTHERS:
            raise
        return True


def is_pooled(connection: AsyncConnection) -> bool:
    """Whether a connection that was inspected leads through a pooler."""
    return bool(connection.sync_connection and connection.sync_connection.info.get(OPTION))


async def reads_committed(driver: asyncpg.Connection[Any]) -> bool:
    """Whether transactions are READ COMMITTED unless they say otherwise.

    Args:
        driver: The driver's own connection.
    """
    tag = await driver.execute(
        "SELECT 1 WHERE pg_catalog.current_setting('default_transaction_isolation')"
        " = 'read committed'",
        timeout=_PATIENCE,
    )
    return tag == "SELECT 1"


@asynccontextmanager
async def transaction(driver: asyncpg.Connection[Any]) -> AsyncGenerator[None]:
    """A READ COMMITTED transaction.

    Args:
        driver: The driver's own connection.
    """
    started = driver.transaction(isolation="read_committed")
    await started.start()
    try:
        yield
    except Exception as error:
        # Without an SQLSTATE its state is in doubt, and whoever owns the connection ends it.
        if sqlstate(error) is not None and not driver.is_closed():
            await started.rollback()
        raise
    await started.commit()


class Poolers:
    """Whether poolers are behind engines; each is asked once, before it is used.

    Args:
        pooled: What the user says; None to ask.
    """

    def __init__(self, pooled: bool | None) -> None:
        self._told = pooled
        self._known: WeakKeyDictionary[Pool, bool] = WeakKeyDictionary()

    def noted(self, engine: AsyncEngine) -> AsyncEngine:
        """The same engine, with what the user says, for those that connect as it does."""
        return engine.execution_options(**{OPTION: self._told})

    async def behind(self, bind: AsyncEngine | AsyncSession | AsyncConnection) -> bool:
        """Whether there is one.

        Args:
            bind: An engine; or a session or connection, whose own transaction is asked.

        Raises:
            ConfigurationError: There is one, and the engine is not made for it.
        """
        if self._told is not None:
            return self._told
        pool = _pool_of(bind)
        known = self._known.get(pool)
        if known is None:
            known = await self._ask(bind)
            if known is None:
                return False
            self._known[pool] = known
        return known

    async def _ask(self, bind: AsyncEngine | AsyncSession | AsyncConnection) -> bool | None:
        """The answer; None if the caller's transaction cannot be asked."""
        try:
            if isinstance(bind, AsyncEngine):
                async with bind.connect() as connection:
                    return await connection.run_sync(_inspected)
            if isinstance(bind, AsyncSession):
                bind = await bind.connection()
            return await bind.run_sync(_inspected)
        except DBAPIError as error:
            # What SQLAlchemy asks of a server at first may meet statements of others already.
            if sqlstate(error) not in _OF_OTHERS:
                raise
            raise ConfigurationError(_ADVICE) from error
        except PostgresError as error:
            # It has failed before, which the caller's own statement will say better.
            if sqlstate(error) != _FAILED_BEFORE:
                raise
            return None


def _pool_of(bind: AsyncEngine | AsyncSession | AsyncConnection) -> Pool:
    if isinstance(bind, AsyncEngine):
        return bind.sync_engine.pool
    if isinstance(bind, AsyncConnection):
        return bind.engine.sync_engine.pool
    own = bind.get_bind()
    return (own.engine if isinstance(own, Connection) else own).pool


def _inspected(connection: Connection) -> bool:
    inspect(
        connection.dialect,
        cast("DBAPIConnection", connection.connection.dbapi_connection),
        connection.info,
        pooled=None,
    )
    return bool(connection.info[OPTION])


class OwnTransaction:
    """A transaction of its own for each use, in as few round trips as is safe.

    Args:
        engine: Where connections come from.
        poolers: Knows whether one is behind the engine.
        level: ``READ COMMITTED``, or ``AUTOCOMMIT`` to have each statement commit by itself. That
            would do through a pooler as well, but a statement that fails halfway, in the driver,
            would keep the server's connection from all others.
    """

    def __init__(self, engine: AsyncEngine, poolers: Poolers, *, level: str) -> None:
        self._engine = engine
        self._poolers = poolers
        # It is meant here: no other statement of a transaction can be undone.
        self._plain = engine.execution_options(isolation_level=level, **{OWN: True})
        self._pooled = engine.execution_options(isolation_level="READ COMMITTED")

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator[Repositories]:
        """See :class:`~pgconductor.services.unit_of_work.UnitOfWork`."""
        pooled = await self._poolers.behind(self._engine)
        async with (self._pooled if pooled else self._plain).begin() as connection:
            yield sql_repositories(connection)
