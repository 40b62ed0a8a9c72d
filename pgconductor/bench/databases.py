"""The databases of a measurement, and what the server tells about them from outside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import asyncpg
from sqlalchemy import URL

__all__ = ["PREFIX", "Databases", "Watcher", "plain"]

PREFIX = "pgconductor_bench_"
_LOOKS = 1_000  # ten seconds
_SETTINGS = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers")


def plain(url: URL) -> str:
    """A URL as libpq and other languages write it, with its password.

    Args:
        url: SQLAlchemy's.
    """
    mode = url.query.get("ssl")
    if mode is not None:  # SQLAlchemy's name for it, with asyncpg
        url = url.difference_update_query(["ssl"]).update_query_dict({"sslmode": mode})
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


class Databases:
    """Makes scratch databases on a server and drops them all at the end; others are not touched.

    Args:
        server: The URL of a database where we may connect; the role may create databases.
    """

    def __init__(self, server: URL) -> None:
        self.server = server
        self._prefix = f"{PREFIX}{uuid4().hex[:8]}_"
        self._made: set[str] = set()
        self._admin: asyncpg.Connection[Any] | None = None

    async def __aenter__(self) -> Self:
        self._admin = await asyncpg.connect(plain(self.server))
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            for name in sorted(self._made):
                await self.drop(name)
        finally:
            await self._connection.close()

    @property
    def _connection(self) -> asyncpg.Connection[Any]:
        if self._admin is None:
            raise RuntimeError("not entered")
        return self._admin

    def url_of(self, name: str) -> URL:
        """Where a scratch database is reached."""
        return self.server.set(database=name)

    async def create(self, name: str, template: str | None = None) -> str:
        """Make a database.

        Args:
            name: The end of its name.
            template: The whole name of one to copy, else an empty one is made.

        Returns:
            Its whole name.
        """
        whole = f"{self._prefix}{name}"
        source = "template0" if template is None else template
        if template is not None:
            await self.wait_until_left(template)
        await self._connection.execute(f'CREATE DATABASE "{whole}" TEMPLATE "{source}"')
        self._made.add(whole)
        return whole

    async def drop(self, name: str) -> None:
        """Drop a database, whoever is in it.

        Args:
            name: Its whole name.
        """
        await self._connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        self._made.discard(name)

    async def wait_until_left(self, name: str) -> None:
        """Wait until nobody is connected: a backend ends some time after its client.

        Its statistics are complete then, for a backend that ends reports what it has counted.
        """
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1"
        for _ in range(_LOOKS):
            if not await self._connection.fetchval(query, name):
                return
            await asyncio.sleep(0.01)

    async def checkpoint(self) -> None:
        """Write everything out, if we may: everybody begins with a clean server."""
        try:
            await self._connection.execute("CHECKPOINT")
        except asyncpg.InsufficientPrivilegeError:
            return

    async def wal_bytes(self) -> int:
        """How much the server has written to its log so far."""
        query = "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint"
        return int(await self._connection.fetchval(query))

    async def commits(self, name: str) -> int:
        """How many transactions a database has seen, those that only read included."""
        query = "SELECT xact_commit FROM pg_stat_database WHERE datname = $1"
        return int(await self._connection.fetchval(query, name))

    async def settings(self) -> dict[str, str]:
        """Settings of the server that the figures depend on."""
        return {
            name: await self._connection.fetchval("SELECT current_setting($1)", name)
            for name in _SETTINGS
        }


class Watcher:
    """Looks into a contestant's database, and counts how often.

    Args:
        connection: A connection to it.
    """

    def __init__(self, connection: asyncpg.Connection[Any]) -> None:
        self._connection = connection
        self.transactions = 0

    @classmethod
    @asynccontextmanager
    async def of(cls, url: URL) -> AsyncGenerator[Self]:
        """A watcher for as long as a block lasts.

        Args:
            url: The database.
        """
        connection: asyncpg.Connection[Any] = await asyncpg.connect(plain(url))
        try:
            yield cls(connection)
        finally:
            await connection.close()

    async def analyze(self) -> None:
        """Bring the planner's statistics up to date, as autovacuum would before long."""
        await self._connection.execute("ANALYZE")

    async def vacuum(self) -> None:
        """Clean up after rows were seeded."""
        await self._connection.execute("VACUUM ANALYZE")

    async def hold_open(self) -> None:
        """Begin a transaction and take a snapshot: nothing newer can be vacuumed from now on."""
        await self._connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await self._connection.execute("SELECT 1")

    async def finished(self, unfinished: str) -> bool:
        """Whether everything is recorded as done.

        Args:
            unfinished: A query that returns true as long as something is left.
        """
        # The simple protocol has no separate preparation: one look is one transaction.
        left = await self._connection.fetchval(unfinished)
        self.transactions += 1
        return not left
