"""Connections that commit each statement by itself, which no caller's transaction can be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from sqlalchemy import Connection, Engine, Executable
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from pgconductor.exceptions import WrongSession

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPIConnection

__all__ = [
    "OWN",
    "asks_for_autocommit",
    "refuse_autocommit",
    "refuse_autocommit_of",
    "refuse_autocommit_of_async",
]

#: The execution option of a connection of ours on which each statement is meant to commit.
OWN: Final = "pgconductor_autocommit"
_LEVEL: Final = "AUTOCOMMIT"
_ADVICE: Final = (
    "is in autocommit mode: each of its statements commits by itself, so that a rollback undoes "
    "nothing and a step that is tried again writes twice. Leave out what asks for it "
    "(isolation_level='AUTOCOMMIT' of an engine, a connection or a session; autocommit=True of the "
    "driver; an event listener), or give pgconductor an engine of its own; one engine can do both: "
    "engine.execution_options(isolation_level='AUTOCOMMIT') for what needs it"
)


def asks_for_autocommit(bind: object) -> str | None:
    """Why something says that it commits each statement, as far as it tells without a connection.

    Args:
        bind: An engine, a sessionmaker, a connection, or anything else.

    Returns:
        What to tell its user; None if it does not say so.
    """
    if isinstance(bind, async_sessionmaker):
        given = cast("async_sessionmaker[AsyncSession]", bind).kw
        options: dict[str, Any] = given.get("execution_options") or {}
        if _names(options.get("isolation_level")):
            return f"the sessionmaker {_ADVICE}"
        bind = given.get("bind")
    if isinstance(bind, AsyncEngine):
        bind = bind.sync_engine
    elif isinstance(bind, AsyncConnection):
        bind = bind.sync_connection
    if not isinstance(bind, Engine | Connection):
        return None
    level = bind.get_execution_options().get("isolation_level")
    if level is None:
        # The argument of create_engine, which SQLAlchemy keeps for itself.
        level = getattr(bind.dialect, "_on_connect_isolation_level", None)
    what = "engine" if isinstance(bind, Engine) else "connection"
    return f"the {what} {_ADVICE}" if _names(level) else None


def _names(level: object) -> bool:
    return isinstance(level, str) and level.upper() == _LEVEL


def refuse_autocommit(connection: Connection) -> None:
    """Refuse a connection that commits each statement, however that was asked for.

    It asks the driver's connection, not the server, which knows no such mode.

    Args:
        connection: In use, so that it has a connection of the driver's.

    Raises:
        WrongSession: It does.
    """
    # What is invalidated would connect again here; the statement itself will say so.
    if connection.invalidated or connection.get_execution_options().get(OWN):
        return
    made = cast("DBAPIConnection", connection.connection.dbapi_connection)
    try:
        commits = connection.dialect.detect_autocommit_setting(made)
    except NotImplementedError:
        commits = asks_for_autocommit(connection) is not None
    if commits:
        raise WrongSession(f"its connection {_ADVICE}")


def refuse_autocommit_of(session: Session, statement: Executable) -> None:
    """Refuse a session whose connection commits each statement.

    Args:
        session: A sync session; its transaction begins, as with the statement.
        statement: What will be executed, by which a session may choose its connection.

    Raises:
        WrongSession: It does.
    """
    refuse_autocommit(session.connection(bind_arguments=_arguments(statement)))


async def refuse_autocommit_of_async(
    session: AsyncSession | AsyncConnection, statement: Executable
) -> None:
    """Refuse an async session or connection that commits each statement.

    Args:
        session: Its transaction begins, as with the statement.
        statement: What will be executed.

    Raises:
        WrongSession: It does.
    """
    if isinstance(session, AsyncSession):
        await session.run_sync(refuse_autocommit_of, statement)
    elif session.sync_connection is not None:
        refuse_autocommit(session.sync_connection)


def _arguments(statement: Executable) -> Any:
    return {"clause": statement}
