"""The limit: what bare asyncpg does on the same server, on a table of the same width."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID

import asyncpg

from pgconductor.domain.ids import new_id

__all__ = ["DISTRIBUTION", "SETTINGS", "UVLOOP", "Contestant"]

DISTRIBUTION = "asyncpg"
SETTINGS = (
    "bare asyncpg, prepared statements on one connection, no handlers; uvloop where it is installed"
)
UVLOOP = True

_PAYLOAD = '{"n": 1}'
_SCHEMA = """
CREATE TABLE raw_executions (
    id uuid PRIMARY KEY,
    queue text NOT NULL, state text NOT NULL DEFAULT 'available', payload jsonb,
    run_at timestamptz NOT NULL DEFAULT now(), locked_by uuid, result jsonb,
    created_at timestamptz NOT NULL DEFAULT now(), finished_at timestamptz
);
CREATE INDEX raw_ready ON raw_executions (queue, run_at, id) WHERE state = 'available';
CREATE TABLE raw_steps (
    execution_id uuid NOT NULL, name text NOT NULL, result jsonb,
    created_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (execution_id, name)
);
"""
_INVOKE = "INSERT INTO raw_executions (id, queue, payload) VALUES ($1, 'default', $2)"
_INVOKE_MANY = """
INSERT INTO raw_executions (id, queue, payload)
SELECT i, 'default', p::jsonb FROM unnest($1::uuid[], $2::text[]) AS u (i, p)
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
_STEP = "INSERT INTO raw_steps (execution_id, name, result) VALUES ($1, $2, 'null')"
_RETAINED = """
INSERT INTO raw_executions (id, queue, state, payload, run_at, created_at, finished_at)
SELECT i, 'default', 'completed', '{"n": 1}', ago, ago, ago
FROM unnest($1::uuid[]) AS u (i), (SELECT now() - interval '1 hour' AS ago) AS past
"""
_FUTURE = """
INSERT INTO raw_executions (id, queue, payload, run_at)
SELECT i, 'default', '{"n": 1}', now() + interval '30 days' FROM unnest($1::uuid[]) AS u (i)
"""
_UNFINISHED = "SELECT EXISTS (SELECT FROM raw_executions WHERE id >= '{}' AND finished_at IS NULL)"
_STEPS = 10
_CHILDREN = 10
_SEED_BATCH = 100_000


class Contestant:
    """A connection, or several, and a few statements.

    Args:
        url: The database.
        note: To be called when a handler would start.
        batch: How many rows are fetched and finished at once.
        copy: Whether many rows are written by COPY instead of ``unnest``.
        connections: How many loops work, each on a connection of its own.
        wake_only: Measure the notification alone: nothing is written, nothing is fetched.
    """

    def __init__(
        self,
        url: str,
        note: Callable[[], None],
        *,
        batch: int = 100,
        copy: bool = False,
        connections: int = 1,
        wake_only: bool = False,
    ) -> None:
        self._url = url
        self._note = note
        self._batch = batch
        self._copy = copy
        self._connections = connections
        self._wake_only = wake_only
        self._open: list[asyncpg.Connection[Any]] = []
        self._loops: list[asyncio.Task[None]] = []
        self._wake = asyncio.Event()
        self._since: UUID | None = None

    async def install(self) -> None:
        """Make the tables."""
        await self._first.execute(_SCHEMA)

    async def open(self) -> None:
        """Connect once."""
        await self._connect()

    async def _connect(self) -> asyncpg.Connection[Any]:
        connection: asyncpg.Connection[Any] = await asyncpg.connect(self._url)
        self._open.append(connection)
        return connection

    @property
    def _first(self) -> asyncpg.Connection[Any]:
        return self._open[0]

    async def invoke(self) -> None:
        """Insert one row; the notification goes with it if somebody listens here."""
        if self._wake_only:
            await self._first.execute("NOTIFY raw_ready")
        elif self._loops:
            async with self._first.transaction():
                await self._first.execute(_INVOKE, new_id(), _PAYLOAD)
                await self._first.execute("NOTIFY raw_ready")
        else:
            await self._first.execute(_INVOKE, new_id(), _PAYLOAD)

    async def invoke_many(self, count: int) -> None:
        """Insert so many rows in one statement."""
        ids = [new_id() for _ in range(count)]
        self._since = self._since or ids[0]
        if self._copy:
            await self._first.copy_records_to_table(
                "raw_executions",
                records=[(one, "default", _PAYLOAD) for one in ids],
                columns=["id", "queue", "payload"],
            )
        else:
            await self._first.execute(_INVOKE_MANY, ids, [_PAYLOAD] * count)

    async def work(self) -> None:
        """Fetch and finish until nothing is left."""
        for _ in range(self._connections):
            connection = await self._connect()
            self._loops.append(asyncio.create_task(self._drain(connection)))

    async def _drain(self, connection: asyncpg.Connection[Any]) -> None:
        while rows := await connection.fetch(_FETCH, self._batch):
            for _ in rows:
                self._note()
            await connection.execute(_FINISH, [row["id"] for row in rows])

    async def work_idle(self) -> None:
        """Wait for a notification, then fetch and finish one row; again and again."""
        connection = await self._connect()
        await connection.add_listener("raw_ready", self._woken)
        self._loops.append(asyncio.create_task(self._serve(connection)))

    def _woken(self, *_: object) -> None:
        self._wake.set()

    async def _serve(self, connection: asyncpg.Connection[Any]) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._wake_only:
                self._note()
                continue
            await self._drain(connection)

    async def work_steps(self) -> None:
        """As ``work``, with ten steps a row, each committed by itself."""
        self._batch = 1
        for _ in range(self._connections):
            connection = await self._connect()
            self._loops.append(asyncio.create_task(self._drain_steps(connection)))

    async def _drain_steps(self, connection: asyncpg.Connection[Any]) -> None:
        while rows := await connection.fetch(_FETCH, 1):
            self._note()
            for number in range(_STEPS):
                await connection.execute(_STEP, rows[0]["id"], f"step-{number}")
            await connection.execute(_FINISH, [rows[0]["id"]])

    async def invoke_steps(self, count: int) -> None:
        """What ``work_steps`` drains."""
        await self.invoke_many(count)

    async def chain(self) -> None:
        """Insert, fetch and finish one row, and ten more meanwhile, each committed by itself."""
        await self._one(_CHILDREN)

    async def _one(self, children: int) -> None:
        await self._first.execute(_INVOKE, new_id(), _PAYLOAD)
        rows = await self._first.fetch(_FETCH, 1)
        for _ in range(children):
            await self._one(0)
        await self._first.execute(_FINISH, [row["id"] for row in rows])

    async def unfinished(self) -> str:
        """Whether any of the rows that this process wrote is unfinished, as SQL."""
        return _UNFINISHED.format(self._since)

    async def seed(self, what: str, rows: int) -> None:
        """Insert rows that a drain must get along with.

        Args:
            what: ``retained`` for finished rows, ``future`` for ones due next month.
            rows: How many.
        """
        statement = _RETAINED if what == "retained" else _FUTURE
        for begin in range(0, rows, _SEED_BATCH):
            ids = [new_id() for _ in range(min(_SEED_BATCH, rows - begin))]
            await self._first.execute(statement, ids)

    async def close(self) -> None:
        """Close the connections."""
        for loop in self._loops:
            loop.cancel()
        for connection in self._open:
            await connection.close()
