"""Whether a session leads to the conductor's own database."""

from __future__ import annotations

from typing import Any, Final
from weakref import WeakSet

from sqlalchemy import URL, Connection, Engine, Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from pgconductor.exceptions import WrongSession

__all__ = ["DatabaseIdentity", "same_address"]

# When the server started, to the microsecond, tells servers apart; the oid, databases of one
# server. Every role may ask for both, so that asking cannot break the caller's transaction.
_IDENTITY: Final = text(
    "SELECT pg_catalog.pg_postmaster_start_time() AS started, d.oid"
    " FROM pg_catalog.pg_database AS d"
    " WHERE d.datname = pg_catalog.current_database()"
)


def same_address(one: URL, other: URL) -> bool:
    """Whether two URLs name the same host, port and database, whatever the driver and the user."""

    def address(url: URL) -> tuple[Any, ...]:
        return (url.host, url.port, url.database, url.query.get("host"), url.query.get("port"))

    return address(one) == address(other)


def _engine_of(bind: Engine | Connection) -> Engine:
    return bind.engine if isinstance(bind, Connection) else bind


def _refuse_unless_same(own: Row[Any], given: Row[Any]) -> None:
    if tuple(own) != tuple(given):
        raise WrongSession(
            "the session is bound to another database than this conductor; invoke with a session "
            "of the conductor's database, or without one"
        )


class DatabaseIdentity:
    """Refuses sessions that are bound to another database than the conductor's.

    Equal addresses are equal databases. Different ones may be (a pooler, a socket, another name of
    the host), so both sides are asked, once for each engine of the caller's.
    """

    def __init__(self) -> None:
        self._same: WeakSet[Engine] = WeakSet()

    async def check(self, own: AsyncEngine, session: AsyncSession | AsyncConnection) -> None:
        """Raise unless an async session or connection leads to the database of ``own``.

        Raises:
            WrongSession: It leads to another one.
        """
        if isinstance(session, AsyncConnection):
            given = session.engine.sync_engine
        else:
            given = _engine_of(session.get_bind())
        if self._known(own.sync_engine, given):
            return
        async with own.connect() as connection:
            ours = (await connection.execute(_IDENTITY)).one()
        _refuse_unless_same(ours, (await session.execute(_IDENTITY)).one())
        self._same.add(given)

    def _known(self, own: Engine, given: Engine) -> bool:
        return given is own or given in self._same or same_address(own.url, given.url)

    def check_sync(self, own: URL, session: Session) -> None:
        """Raise unless a sync session names the database of ``own``.

        The conductor's own engine cannot be asked from sync code, so names decide: two databases
        of different names are different. A database of the same name on another server is not
        noticed: the execution is written there.

        Raises:
            WrongSession: It names another one.
        """
        given = _engine_of(session.get_bind()).url
        if not same_address(own, given) and given.database != own.database:
            raise WrongSession(
                f"the session is bound to database {given.database!r}, this conductor to "
                f"{own.database!r}"
            )
