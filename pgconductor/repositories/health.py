"""Reading a database's health from its catalogs, by SQLAlchemy. Nothing is written."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import Table, TextClause, func, select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.schema import CreateIndex

from pgconductor import sql
from pgconductor.domain.health import (
    Holder,
    IndexReading,
    NotifyReading,
    Overdue,
    PathReading,
    ServerReading,
    StuckReading,
    TableReading,
    WalkReading,
)
from pgconductor.domain.migrations import History
from pgconductor.models import Base
from pgconductor.repositories.errors import translated

__all__ = ["SqlHealthRepository", "is_pooled", "wanted_indexes", "wanted_parameters"]


_NO_SEARCH_PATH: Final = text(
    "SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true)"
)


class SqlHealthRepository:
    """What a database says of itself; privileges may be missing for some of it.

    Args:
        session: The caller's, in whose transaction it reads.
    """

    def __init__(self, session: AsyncSession | AsyncConnection) -> None:
        self._session = session

    async def _read(
        self, statement: TextClause, parameters: Mapping[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        with translated():
            result = await self._session.execute(statement, parameters)
            return [{str(name): value for name, value in row.items()} for row in result.mappings()]

    async def server(self) -> ServerReading:
        """Its settings."""
        (row,) = await self._read(sql.HEALTH_SERVER)
        return ServerReading(**row)

    async def holders(self) -> list[Holder]:
        """What keeps vacuum from its work."""
        return [Holder(**row) for row in await self._read(sql.HEALTH_HOLDERS)]

    async def notifications(self) -> NotifyReading:
        """The server's queue of notifications."""
        (row,) = await self._read(sql.HEALTH_NOTIFICATIONS)
        return NotifyReading(**row)

    async def hidden(self) -> int:
        """How many sessions may not be looked into."""
        return int((await self._read(sql.HEALTH_HIDDEN))[0]["hidden"])

    async def tables(self) -> list[TableReading]:
        """Our tables."""
        return [_table(row) for row in await self._read(sql.HEALTH_TABLES)]

    async def indexes(self) -> list[IndexReading]:
        """Our indexes."""
        return [IndexReading(**row) for row in await self._read(sql.HEALTH_INDEXES)]

    async def catalog(self) -> dict[str, str]:
        """What makes up our schema: definitions by kind and name, alike on every server.

        The transaction's ``search_path`` is set, for Postgres writes names by it.
        """
        await self._read(_NO_SEARCH_PATH)
        rows = await self._read(sql.HEALTH_CATALOG)
        return {f"{row['kind']} {row['name']}": str(row["definition"]) for row in rows}

    async def search_path(self) -> PathReading:
        """Who can name our schema's tables without it."""
        (row,) = await self._read(sql.HEALTH_SEARCH_PATH)
        return PathReading(**row)

    async def history(self) -> History:
        """What version table, ledger and gate say; the tables must be there."""
        (row,) = await self._read(sql.SCHEMA_HISTORY)
        heads, recorded = tuple(row["heads"]), row["recorded"] or 0
        return History(heads, recorded, row["entries"], row["installed"], row["floor"])

    async def stuck(self, *, stale_after: timedelta, patience: timedelta) -> StuckReading:
        """What is held and should not be.

        Args:
            stale_after: From when on an orchestrator counts as dead.
            patience: How late something may be.
        """
        given = {"stale_after": stale_after, "patience": patience}
        (row,) = await self._read(sql.HEALTH_STUCK, given)
        return StuckReading(**row)

    async def overdue(self, *, patience: timedelta) -> list[Overdue]:
        """What has been due for longer than ``patience``; the oldest first, twenty at most."""
        rows = await self._read(sql.HEALTH_OVERDUE, {"patience": patience})
        return [Overdue(**row) for row in rows]

    async def walk(self) -> WalkReading:
        """How retention gets on."""
        rows = await self._read(sql.HEALTH_WALK)
        return WalkReading(there=bool(rows), late=rows[0]["late"] if rows else None)


def _table(row: dict[str, Any]) -> TableReading:
    given: dict[str, Any] = {**row, "options": dict(one.split("=", 1) for one in row["options"])}
    return TableReading(**given)


async def is_pooled(connection: AsyncConnection) -> bool:
    """Whether who answers is another process than the one that the connection was opened to."""
    raw = await connection.get_raw_connection()
    driver: Any = raw.driver_connection
    answering = await connection.scalar(select(func.pg_catalog.pg_backend_pid()))
    return bool(driver.get_server_pid() != answering)


def wanted_indexes() -> dict[str, str]:
    """What makes each index of ours, by name."""
    dialect: Any = postgresql.dialect()  # type: ignore[no-untyped-call]  # not annotated
    found: dict[str, str] = {}
    for table in Base.metadata.sorted_tables:
        found[f"{table.name}_pkey"] = _primary_key(table)
        for index in table.indexes:
            statement = " ".join(str(CreateIndex(index).compile(dialect=dialect)).split())
            # By hand and on tables in use: nobody is to wait for it.
            found[str(index.name)] = statement.replace(" INDEX ", " INDEX CONCURRENTLY ", 1)
    return found


def _primary_key(table: Table) -> str:
    columns = ", ".join(column.name for column in table.primary_key)
    return f"ALTER TABLE {table.fullname} ADD PRIMARY KEY ({columns})"


def wanted_parameters() -> dict[str, dict[str, str]]:
    """The storage parameters of the tables that have any."""
    given = {
        table.name: table.dialect_options["postgresql"]["with"]
        for table in Base.metadata.sorted_tables
    }
    return {name: dict(options) for name, options in given.items() if options}
