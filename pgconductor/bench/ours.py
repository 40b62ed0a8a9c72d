"""Our own contestant: a conductor with tasks that do nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text

from pgconductor.conductor import Conductor
from pgconductor.runtime.context_waits import TaskContext
from pgconductor.runtime.orchestrator import Orchestrator

__all__ = ["DISTRIBUTION", "SETTINGS", "UVLOOP", "Contestant"]

DISTRIBUTION = "pgconductor"
SETTINGS = "100 handlers at once; uvloop where it is installed"
UVLOOP = True

_CONCURRENCY = 100
_PAYLOAD = {"n": 1}
_LARGEST_CALL = 10_000
_STEPS = 10
_CHILDREN = 10
_UNFINISHED = """
SELECT EXISTS (SELECT FROM pgconductor.executions WHERE id >= '{}' AND finished_at IS NULL)
"""
_RETAINED = """
INSERT INTO pgconductor.executions
    (id, task_key, state, attempts, payload, run_at, created_at, finished_at)
SELECT pgconductor.uuidv7(), 'noop', 'completed', 1, '{"n"\\:1}', ago, ago, ago
FROM generate_series(1, CAST(:rows AS integer)), (SELECT now() - interval '1 hour' AS ago) AS past
"""


def _step_of(context: object) -> Any:
    # Looked up by name, for a release without steps is measured as well.
    step = getattr(context, "step", None)
    if step is None:
        raise NotImplementedError("not built yet")
    return step


async def _nothing() -> None:
    """A step."""


class Contestant:
    """One conductor.

    Args:
        url: The database.
        note: To be called when a handler starts.
    """

    def __init__(self, url: str, note: Callable[[], None]) -> None:
        self._conductor = Conductor(database_url=url)
        self._url = url
        self._orchestrator: Orchestrator | None = None
        self._first: UUID | None = None

        async def noop(_: TaskContext, payload: dict[str, int]) -> None:
            del payload
            note()

        async def ten_steps(ctx: TaskContext) -> None:
            note()
            step = _step_of(ctx)
            for number in range(_STEPS):
                await step(f"step-{number}", _nothing)

        async def ten_children(ctx: TaskContext) -> None:
            for number in range(_CHILDREN):
                await ctx.invoke(f"child-{number}", self._noop, _PAYLOAD)

        self._noop = self._conductor.task()(noop)
        self._ten_children = self._conductor.task()(ten_children)
        self._ten_steps = self._conductor.task()(ten_steps)

    async def install(self) -> None:
        """Bring the database to the newest revision."""
        import asyncio

        from alembic import command

        from pgconductor.schema import alembic_config

        await asyncio.to_thread(command.upgrade, alembic_config(self._url), "head")

    async def open(self) -> None:
        """Nothing: the conductor connects when it is used."""

    async def invoke(self) -> None:
        """Invoke one execution, in a transaction of its own."""
        await self._noop.invoke(_PAYLOAD)

    async def invoke_many(self, count: int) -> None:
        """Invoke so many in one call, and in one transaction."""
        handles = await self._noop.invoke_many([_PAYLOAD] * count)
        if self._first is None:
            self._first = handles[0].id

    async def work(self) -> None:
        """Start an orchestrator."""
        self._orchestrator = self._conductor.orchestrator(["default"], concurrency=_CONCURRENCY)
        await self._orchestrator.start()

    async def invoke_steps(self, count: int) -> None:
        """Invoke so many executions of ten steps."""
        handles = await self._ten_steps.invoke_many([None] * count)
        if self._first is None:
            self._first = handles[0].id

    async def work_steps(self) -> None:
        """Start an orchestrator, if handlers can make steps.

        Raises:
            NotImplementedError: They cannot in this release.
        """
        _step_of(TaskContext)
        await self.work()

    async def chain(self) -> None:
        """Invoke an execution that invokes ten children, one after the other, and wait for it."""
        await (await self._ten_children.invoke()).result()

    async def unfinished(self) -> str:
        """Whether any of the executions that this process invoked is unfinished, as SQL.

        It looks along the primary key, beside what was there before.
        """
        return _UNFINISHED.format(self._first)

    async def seed(self, what: str, rows: int) -> None:
        """Fill the table with rows that a drain must get along with.

        Args:
            what: ``retained`` for finished executions, ``future`` for ones due next month.
            rows: How many.
        """
        if what == "retained":
            async with self._conductor.engine.begin() as connection:
                await connection.execute(text(_RETAINED), {"rows": rows})
            return
        later = timedelta(days=30)
        for begin in range(0, rows, _LARGEST_CALL):
            size = min(_LARGEST_CALL, rows - begin)
            many = [self._noop.invocation(_PAYLOAD, delay=later) for _ in range(size)]
            await self._noop.invoke_many(many)

    async def close(self) -> None:
        """Stop what was started."""
        if self._orchestrator is not None:
            await self._orchestrator.stop()
        await self._conductor.close()
