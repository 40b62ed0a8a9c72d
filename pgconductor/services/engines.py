"""What an engine must be like."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from pgconductor.exceptions import ConfigurationError

__all__ = ["bound_engine", "check_driver"]


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
