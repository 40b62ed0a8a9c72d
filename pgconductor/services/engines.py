"""What an engine or a session must be like."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from pgconductor.exceptions import ConfigurationError, WrongSession
from pgconductor.repositories.autocommit import asks_for_autocommit

__all__ = [
    "bound_engine",
    "check_async_session",
    "check_driver",
    "check_sync_session",
    "check_transactions",
]


def bound_engine(sessionmaker: async_sessionmaker[AsyncSession]) -> AsyncEngine:
    """The engine of a sessionmaker.

    Raises:
        ConfigurationError: It is bound to none, or to a single connection.
    """
    bind = sessionmaker.kw.get("bind")
    if not isinstance(bind, AsyncEngine):
        raise ConfigurationError("the sessionmaker must be bound to an AsyncEngine")
    return bind


def check_driver(engine: object) -> None:
    """Refuse whatever is no ``AsyncEngine`` on asyncpg.

    Raises:
        ConfigurationError: It is not.
    """
    if not isinstance(engine, AsyncEngine):
        raise ConfigurationError(
            f"an AsyncEngine is due (create_async_engine), not {type(engine).__name__}"
        )
    if engine.dialect.driver != "asyncpg":
        raise ConfigurationError(
            f"the engine must be on asyncpg (postgresql+asyncpg://), not {engine.dialect.driver}"
        )


def check_transactions(bind: AsyncEngine | async_sessionmaker[AsyncSession]) -> None:
    """Refuse whatever says that it commits each statement by itself.

    Raises:
        ConfigurationError: It does.
    """
    if (reason := asks_for_autocommit(bind)) is not None:
        raise ConfigurationError(reason)


def check_async_session(session: object, sync_method: str) -> None:
    """Refuse whatever cannot be awaited in the caller's transaction.

    Args:
        session: What was given for a session.
        sync_method: What takes a sync one.

    Raises:
        WrongSession: It is neither an ``AsyncSession`` nor an ``AsyncConnection``.
    """
    if isinstance(session, Session):
        raise WrongSession(f"a sync Session cannot be awaited; use {sync_method} with it")
    if not isinstance(session, AsyncSession | AsyncConnection):
        raise WrongSession(
            f"an AsyncSession or AsyncConnection is due, not {type(session).__name__}; leave it "
            "out for a transaction of its own"
        )


def check_sync_session(session: object, called: str, async_method: str) -> None:
    """Refuse whatever is no sync ``Session``.

    Args:
        session: What was given for a session.
        called: The method that it was given to.
        async_method: What takes an async one.

    Raises:
        WrongSession: It is not.
    """
    if not isinstance(session, Session):
        raise WrongSession(
            f"{called} takes a sync Session, not {type(session).__name__}; await {async_method}()"
        )
