"""The health of a database, as far as the role that asks may see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final, TypeVar

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from pgconductor.domain import diagnosis, diagnosis_executions, diagnosis_schema
from pgconductor.domain.diagnosis_executions import PATIENCE
from pgconductor.domain.diagnosis_notifications import notifications
from pgconductor.domain.health import Finding, PoolerReading, Severity
from pgconductor.domain.revisions import KNOWN_REVISION, SchemaStatus
from pgconductor.exceptions import SchemaMissing
from pgconductor.repositories import SqlSchemaRepository
from pgconductor.repositories.errors import sqlstate
from pgconductor.repositories.health import (
    SqlHealthRepository,
    is_pooled,
    wanted_indexes,
    wanted_parameters,
)

__all__ = ["HealthService"]

_T = TypeVar("_T")
_SECONDS: Final = 15.0
# A missing privilege, and a statement that took too long: the rest can still be read.
_UNREADABLE: Final = frozenset({"42501", "57014"})


class HealthService:
    """Looks at a database from outside; nothing is written.

    Args:
        engine: Where to look.
        direct_engine: A way around a pooler, if there is one.
        listen: Whether orchestrators are to LISTEN.
        stale_after: From when on an orchestrator counts as dead.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        direct_engine: AsyncEngine | None = None,
        listen: bool = True,
        stale_after: timedelta = timedelta(seconds=30),
    ) -> None:
        self._engine = engine
        self._direct_engine = direct_engine
        self._listen = listen
        self._stale_after = stale_after

    async def diagnose(self) -> list[Finding]:
        """Everything that was looked at.

        What the role may not read, or what takes too long to read, is a finding of its own.

        Raises:
            DBAPIError: The database is out of reach.
        """
        found = await self._looked("server", self._server)
        found += await self._looked("pooler", self._pooler)
        found += await self._looked("oldest transaction", self._holders)
        found += await self._looked("search path", self._search_path)
        found += await self._looked("notifications", self._notifications)
        try:
            status = await self._read(lambda all_: all_.schema())
        except SchemaMissing:
            return found + diagnosis.schema(None)
        except (DBAPIError, TimeoutError) as error:
            found += [_unread("schema", error)]
        else:
            found += diagnosis.schema(status)
            if status.installed == KNOWN_REVISION:
                found += await self._looked("definitions", self._definitions)
            found += await self._looked("version table", self._history)
        for check, look in (
            ("indexes", self._indexes),
            ("dead rows", self._tables),
            ("stuck executions", self._stuck),
            ("retention", self._walk),
        ):
            found += await self._looked(check, look)
        return found

    async def _looked(
        self, check: str, look: Callable[[], Awaitable[list[Finding]]]
    ) -> list[Finding]:
        try:
            return await look()
        except (DBAPIError, TimeoutError) as error:
            return [_unread(check, error)]

    async def _read(self, read: Callable[[_Readings], Awaitable[_T]]) -> _T:
        """Each in a transaction of its own: one that fails spoils no other."""
        async with asyncio.timeout(_SECONDS), self._connected() as readings:
            return await read(readings)

    @asynccontextmanager
    async def _connected(self) -> AsyncGenerator[_Readings]:
        async with self._engine.connect() as connection:
            yield _Readings(connection)

    async def _server(self) -> list[Finding]:
        return diagnosis.server(await self._read(lambda all_: all_.server()))

    async def _holders(self) -> list[Finding]:
        seen = await self._read(lambda all_: all_.holders())
        return diagnosis.holders(seen, await self._read(lambda all_: all_.hidden()))

    async def _search_path(self) -> list[Finding]:
        return diagnosis_schema.search_path(await self._read(lambda all_: all_.search_path()))

    async def _definitions(self) -> list[Finding]:
        # Whoever asks no doctor has no need of Alembic, which comes with it.
        from pgconductor.schema.catalog import wanted_catalog

        seen = await self._read(lambda all_: all_.catalog())
        return diagnosis_schema.definitions(seen, wanted_catalog())

    async def _history(self) -> list[Finding]:
        return diagnosis_schema.history(await self._read(lambda all_: all_.history()))

    async def _notifications(self) -> list[Finding]:
        return notifications(await self._read(lambda all_: all_.notifications()))

    async def _indexes(self) -> list[Finding]:
        seen = await self._read(lambda all_: all_.indexes())
        return diagnosis.indexes(seen, wanted_indexes())

    async def _tables(self) -> list[Finding]:
        tables = await self._read(lambda all_: all_.tables())
        seen = await self._read(lambda all_: all_.indexes())
        return [
            *diagnosis.dead_rows(tables),
            *diagnosis.storage_parameters(tables, wanted_parameters()),
            *diagnosis.bloat(tables, seen),
        ]

    async def _stuck(self) -> list[Finding]:
        stuck = await self._read(
            lambda all_: all_.stuck(stale_after=self._stale_after, patience=PATIENCE)
        )
        overdue = await self._read(lambda all_: all_.overdue(patience=PATIENCE))
        return [
            *diagnosis_executions.held(stuck),
            *diagnosis_executions.overdue(overdue, stuck.orchestrators),
        ]

    async def _walk(self) -> list[Finding]:
        return diagnosis.walk(await self._read(lambda all_: all_.walk()))

    async def _pooler(self) -> list[Finding]:
        direct = self._direct_engine
        async with asyncio.timeout(_SECONDS):
            async with self._engine.connect() as connection:
                pooled = await is_pooled(connection)
            direct_pooled = None
            if direct is not None:
                async with direct.connect() as connection:
                    direct_pooled = await is_pooled(connection)
        return diagnosis.pooler(
            PoolerReading(
                pooled=pooled,
                direct_given=direct is not None,
                direct_pooled=direct_pooled,
                listen=self._listen,
            )
        )


class _Readings(SqlHealthRepository):
    """The same, and the schema."""

    async def schema(self) -> SchemaStatus:
        return await SqlSchemaRepository(self._session).status()


def _unread(check: str, error: Exception) -> Finding:
    """Raise it again, unless the rest can still be read."""
    if isinstance(error, TimeoutError):
        what, advice = f"it took longer than {_SECONDS:g} s to read", "try again at a quiet hour"
    elif sqlstate(error) in _UNREADABLE:
        said = str(getattr(error, "orig", error)).rpartition(">: ")[2].partition("\n")[0]
        what = f"it could not be read: {said}"
        advice = "ask as a role that may: see the role app_reader under Deploying, and pg_monitor"
    else:
        raise error
    return Finding(Severity.UNKNOWN, check, what, advice)
