"""The limit: what a bare asyncpg loop does on the same server, on a table of the same width."""

from __future__ import annotations

import time
from typing import Any

import asyncpg

__all__ = ["RawLoop"]

_TABLE = """
CREATE TABLE IF NOT EXISTS raw_executions (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    queue text NOT NULL, state text NOT NULL DEFAULT 'available', payload jsonb,
    run_at timestamptz NOT NULL DEFAULT now(), locked_by uuid, result jsonb,
    created_at timestamptz NOT NULL DEFAULT now(), finished_at timestamptz
)
"""
_INDEX = """
CREATE INDEX IF NOT EXISTS raw_ready ON raw_executions (queue, run_at, id)
WHERE state = 'available'
"""
_FETCH = """
WITH picked AS MATERIALIZED (
    SELECT id FROM raw_executions
    WHERE state = 'available' AND queue = 'default' AND run_at <= now()
    ORDER BY run_at, id LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE raw_executions e SET state = 'running' FROM picked WHERE e.id = picked.id RETURNING e.id
"""
_FINISH = """
UPDATE raw_executions SET state = 'completed', finished_at = now()
WHERE id = ANY ($1::uuid[]) AND state = 'running'
"""


class RawLoop:
    """One connection and four statements.

    Args:
        dsn: A libpq URL.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: asyncpg.Connection[Any] | None = None

    async def __aenter__(self) -> RawLoop:
        self._connection = await asyncpg.connect(self._dsn)
        await self._connection.execute(_TABLE)
        await self._connection.execute(_INDEX)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._require().close()

    def _require(self) -> asyncpg.Connection[Any]:
        if self._connection is None:
            raise RuntimeError("not entered")
        return self._connection

    async def invoke_one(self, count: int) -> float:
        """Inserts a second, one a commit."""
        connection = self._require()
        started = time.perf_counter()
        for _ in range(count):
            await connection.execute(
                "INSERT INTO raw_executions (queue, payload) VALUES ('default', $1)", '{"n": 1}'
            )
        return count / (time.perf_counter() - started)

    async def bulk(self, batches: int, size: int) -> float:
        """Inserts a second, by ``unnest``."""
        connection = self._require()
        payloads = ['{"n": 1}'] * size
        started = time.perf_counter()
        for _ in range(batches):
            await connection.execute(
                "INSERT INTO raw_executions (queue, payload)"
                " SELECT 'default', p::jsonb FROM unnest($1::text[]) AS p",
                payloads,
            )
        return batches * size / (time.perf_counter() - started)

    async def drain(self, size: int) -> float:
        """Rows a second, fetched and finished in batches, until none is left."""
        connection = self._require()
        await connection.execute("ANALYZE raw_executions")
        done = 0
        started = time.perf_counter()
        while rows := await connection.fetch(_FETCH, size):
            await connection.execute(_FINISH, [row["id"] for row in rows])
            done += len(rows)
        return done / (time.perf_counter() - started)

    async def clear(self) -> None:
        """Empty the table."""
        await self._require().execute("TRUNCATE raw_executions")
