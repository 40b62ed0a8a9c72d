"""Who owns the transaction: the caller who brought a session, or the service."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol, cast, runtime_checkable

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from pgconductor.exceptions import WrongSession
from pgconductor.repositories import Executor, Repositories, sql_repositories
from pgconductor.repositories.autocommit import asks_for_autocommit

__all__ = ["Bind", "EngineUnitOfWork", "JoinedUnitOfWork", "UnitOfWork", "unit_of_work"]


@runtime_checkable
class UnitOfWork(Protocol):
    """Gives repositories that belong to one transaction."""

    def begin(self) -> AbstractAsyncContextManager[Repositories]:
        """Enter a transaction, or the caller's.

        A transaction of its own is committed at the end, and rolled back by an exception; one that
        is the caller's is left alone.
        """
        ...


class JoinedUnitOfWork:
    """The caller's session or connection: never committed and never rolled back here.

    Args:
        session: Where the statements go.
    """

    def __init__(self, session: Executor) -> None:
        self._repositories = sql_repositories(session)

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator[Repositories]:
        """See the protocol."""
        yield self._repositories


class EngineUnitOfWork:
    """A transaction of its own for each use.

    Args:
        engine: Where connections come from.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator[Repositories]:
        """See the protocol."""
        async with self._engine.begin() as connection:
            yield sql_repositories(connection)


class SessionUnitOfWork:
    """A session of its own, and a transaction in it, for each use.

    Args:
        sessionmaker: Where sessions come from.
    """

    def __init__(self, sessionmaker: async_sessionmaker[AsyncSession]) -> None:
        self._sessionmaker = sessionmaker

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator[Repositories]:
        """See the protocol."""
        async with self._sessionmaker.begin() as session:
            yield sql_repositories(session)


Bind = AsyncSession | AsyncConnection | AsyncEngine | async_sessionmaker[AsyncSession] | UnitOfWork


def unit_of_work(bind: Bind) -> UnitOfWork:
    """How a service works on what it was given.

    Args:
        bind: A session or connection, whose transaction stays the caller's; or an engine, a
            sessionmaker or another unit of work, for a transaction of its own for each call.

    Raises:
        WrongSession: It is none of these, for instance a sync ``Session``; or it says that it
            commits each statement.
    """
    if (reason := asks_for_autocommit(bind)) is not None:
        raise WrongSession(reason)
    if isinstance(bind, AsyncSession | AsyncConnection):
        return JoinedUnitOfWork(bind)
    if isinstance(bind, AsyncEngine):
        return EngineUnitOfWork(bind)
    if isinstance(bind, async_sessionmaker):
        return SessionUnitOfWork(cast("async_sessionmaker[AsyncSession]", bind))
    if isinstance(bind, Session):
        raise WrongSession(
            "a sync Session cannot be awaited; use invoke_sync or emit_sync with it, or an "
            "AsyncSession"
        )
    if isinstance(bind, UnitOfWork):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers need not be typed
        return bind
    raise WrongSession(
        f"an AsyncSession, AsyncConnection, AsyncEngine or async_sessionmaker is due, not "
        f"{type(bind).__name__}"
    )
