"""Plain sessions: SQL as another language would send it, and what LISTEN hears."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
from sqlalchemy import make_url

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

__all__ = ["Ear", "connected", "count", "row_of"]


@asynccontextmanager
async def connected(url: str, **settings: str) -> AsyncIterator[Connection]:
    """A session on the database of a SQLAlchemy URL."""
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    connection = await asyncpg.connect(plain, server_settings=settings)
    try:
        yield connection
    finally:
        await connection.close()


async def row_of(db: Connection, execution_id: UUID) -> dict[str, Any]:
    found = await db.fetchrow("SELECT * FROM pgconductor.executions WHERE id = $1", execution_id)
    assert found is not None
    return dict(found)


async def count(db: Connection) -> int:
    number: int = await db.fetchval("SELECT count(*) FROM pgconductor.executions")
    return number


class Ear:
    """Hears what a session that listens is told."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.heard: list[tuple[str, str]] = []
        self._end = asyncio.Event()

    async def listen(self) -> None:
        for name in ("available", "control", "finished", "end"):
            await self.connection.add_listener(f"pgconductor_{name}", self)

    def __call__(self, _1: Any, _2: int, channel: str, payload: object) -> None:
        if channel == "pgconductor_end":
            self._end.set()
        else:
            self.heard.append((channel, str(payload)))

    async def all(self) -> list[tuple[str, str]]:
        """All that was sent so far: what is committed first is delivered first."""
        self._end.clear()
        await self.connection.execute("NOTIFY pgconductor_end")
        async with asyncio.timeout(10):
            await self._end.wait()
        heard, self.heard = self.heard, []
        return heard
