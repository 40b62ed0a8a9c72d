"""A conductor on a fresh database, for the tests of the runtime in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

from psycopg.rows import dict_row
from pydantic import SecretStr

from pgconductor import Conductor, RetryPolicy, Settings
from pgconductor.runtime.orchestrator import Orchestrator
from tests.support.servers import connect

AT_ONCE = RetryPolicy.constant(timedelta(microseconds=1))
QUICK: dict[str, Any] = {
    "heartbeat_interval": 0.2,
    "self_fence_after": 4,
    "stale_after": 6,
    "sweep_interval": 0.3,
    "poll_interval": 0.1,
    "shutdown_grace": 5,
    "startup_policy": "refuse",
}
#: Longer than anything takes that is going to happen at all.
SOON = timedelta(seconds=20)


class World:
    """A database, and conductors on it.

    Args:
        url: Its asyncpg URL.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._conductors: list[Conductor] = []

    def conductor(self, **settings: Any) -> Conductor:
        made = Conductor(Settings(database_url=SecretStr(self.url), **{**QUICK, **settings}))
        self._conductors.append(made)
        return made

    async def close(self) -> None:
        for conductor in self._conductors:
            await conductor.close()

    @asynccontextmanager
    async def serving(self, conductor: Conductor, **options: Any) -> AsyncIterator[Orchestrator]:
        """An orchestrator at work."""
        orchestrator = conductor.orchestrator(**options)
        await orchestrator.start()
        try:
            yield orchestrator
        finally:
            await orchestrator.stop()

    def rows(self, statement: str, *arguments: Any) -> list[dict[str, Any]]:
        """The answer to a statement, on a connection of its own."""
        with connect(self.url) as connection:
            cursor = connection.cursor(row_factory=dict_row)
            cursor.execute(statement.encode(), arguments or None)
            return cursor.fetchall() if cursor.description else []

    def execution(self, execution_id: UUID) -> dict[str, Any]:
        # Not the payload: some tests store one that no Python can read.
        (row,) = self.rows(
            "SELECT state, result, attempts, crashes, last_error, last_error_type,"
            " last_error_traceback, locked_by, awaited, cancel_requested_at, dedupe_key, priority,"
            " queue, max_attempts FROM pgconductor.executions WHERE id = %s",
            execution_id,
        )
        return row

    def count(self) -> int:
        return len(self.rows("SELECT 1 FROM pgconductor.executions"))
