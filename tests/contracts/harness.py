"""One database under test, whether it is PostgreSQL or the fake."""

from __future__ import annotations

import asyncio
import json
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import pytest
from sqlalchemy import delete, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from pgconductor import sql
from pgconductor.domain.claims import Fetched, Registration
from pgconductor.domain.ids import new_id
from pgconductor.domain.orchestrators import StaleObserver
from pgconductor.domain.outcomes import (
    Completed,
    Failed,
    Failure,
    Outcome,
    Released,
    Suspended,
    Verdict,
)
from pgconductor.domain.retention import Retention
from pgconductor.domain.revisions import SchemaStatus
from pgconductor.domain.snapshots import ExecutionSnapshot
from pgconductor.domain.steps import History
from pgconductor.models import Execution, Orchestrator, SchemaGate
from pgconductor.repositories import Repositories, sql_repositories
from pgconductor.services import (
    ExecutionService,
    OrchestratorService,
    RetentionService,
    UnitOfWork,
    unit_of_work,
)
from pgconductor.services.steps import StepService
from pgconductor.testing import DatabaseClock, FakeDatabase, FakeUnitOfWork
from pgconductor.types import ExecutionState
from tests.support.waiting import eventually

T = TypeVar("T")
CHANNELS = (
    "pgconductor_available",
    "pgconductor_control",
    "pgconductor_finished",
    "pgconductor_waits",
)
FAILURE = Failure("ValueError", "no good", "Traceback: …")
WAITERS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
"""
STALE_AFTER = timedelta(seconds=30)


def empty(found: ExecutionSnapshot, *columns: str) -> bool:
    """Whether all these columns are NULL."""
    return all(getattr(found, column) is None for column in columns)


class Harness(ABC):
    """Services over the database under test, and what a test does behind their back."""

    def __init__(self, work: UnitOfWork) -> None:
        self.work = work
        self.executions = ExecutionService(work)
        self.orchestrators = OrchestratorService(work)
        self.retention = RetentionService(work)
        self.steps = StepService(work)

    # --- behind the services' back ---------------------------------------------------------------

    @abstractmethod
    def advance(self, by: timedelta) -> None:
        """Move the database's clock."""

    @abstractmethod
    async def now(self) -> datetime:
        """The database's clock."""

    @abstractmethod
    async def set_schema(self, installed: int, floor: int) -> None:
        """Have the gate say so."""

    @abstractmethod
    async def set_intent(
        self, *, floor: int | None = None, ceiling: int | None = None, expires_after: timedelta
    ) -> None:
        """Have the gate say what a migration prepares."""

    @abstractmethod
    async def set_columns(self, execution_id: UUID, **values: Any) -> None:
        """Overwrite columns of an execution, whatever the rules say."""

    @abstractmethod
    async def forget_orchestrator(self, orchestrator_id: UUID) -> None:
        """Delete an orchestrator's row, as a failover may do."""

    @abstractmethod
    def notifications(self) -> AbstractAsyncContextManager[list[tuple[str, str]]]:
        """Collect channel and payload of what is sent inside; complete when it has been left."""

    # --- short cuts ------------------------------------------------------------------------------

    def begin(self) -> AbstractAsyncContextManager[Repositories]:
        return self.work.begin()

    @asynccontextmanager
    async def rolled_back(self) -> AsyncIterator[Repositories]:
        """A transaction that ends with an exception of its own."""
        with suppress(ZeroDivisionError):
            async with self.begin() as repositories:
                yield repositories
                raise ZeroDivisionError

    async def register(self, schema_version: int | None = None) -> Registration:
        if schema_version is None:
            return await self.orchestrators.register()
        return await self.orchestrators.register(schema_version=schema_version)

    async def invoke(self, task_key: str = "greet", payload: Any = None, **options: Any) -> UUID:
        return (await self.executions.invoke(task_key, payload, **options)).id

    async def invoke_several(self, number: int, **options: Any) -> list[UUID]:
        return [await self.invoke(**options) for _ in range(number)]

    async def fetch(self, owner: Registration, limit: int = 100, **options: Any) -> list[Fetched]:
        return await self.executions.fetch(owner, limit=limit, **options)

    async def fetch_ids(self, owner: Registration, limit: int = 100, **options: Any) -> list[UUID]:
        return [one.id for one in await self.fetch(owner, limit, **options)]

    async def running(self, **options: Any) -> tuple[Registration, Fetched]:
        """A new execution, held by a new orchestrator."""
        owner = await self.register()
        invoked = await self.invoke(**options)
        (fetched,) = await self.fetch(owner)
        assert fetched.id == invoked
        return owner, fetched

    async def in_state(self, state: ExecutionState, **options: Any) -> UUID:
        """A new execution in that state."""
        if state is ExecutionState.AVAILABLE:
            return await self.invoke(**options)
        _, fetched = await self.running(**options)
        match state:
            case ExecutionState.COMPLETED:
                await self.complete(fetched)
            case ExecutionState.FAILED:
                await self.fail(fetched)
            case ExecutionState.CANCELLED:
                await self.release(fetched)
                await self.executions.cancel(fetched.id)
            case ExecutionState.WAITING:
                await self.report(Suspended(fetched.id, fetched.claim, 0))
            case ExecutionState.RUNNING:
                pass
        assert (await self.get(fetched.id)).state is state
        return fetched.id

    async def report(self, outcome: Outcome) -> Verdict:
        (verdict,) = await self.executions.complete([outcome])
        return verdict

    async def complete(self, fetched: Fetched, result: Any = None) -> Verdict:
        text = None if result is None else json.dumps(result)
        return await self.report(Completed(fetched.id, fetched.claim, text))

    async def fail(self, fetched: Fetched, retry_after: timedelta | None = None) -> Verdict:
        return await self.report(Failed(fetched.id, fetched.claim, FAILURE, retry_after))

    async def release(self, fetched: Fetched) -> Verdict:
        return await self.report(Released(fetched.id, fetched.claim))

    async def get(self, execution_id: UUID) -> ExecutionSnapshot:
        return await self.executions.get(execution_id)

    async def results(self, execution_id: UUID) -> dict[str, str | None]:
        """The recorded results of an execution, as JSON text."""
        found = (await self.steps.histories([execution_id])).get(execution_id, History())
        return {key: one.result for key, one in found.records.items()}

    async def walk(self, retention: Retention | None = None, *, limit: int = 1_000) -> int:
        """A whole walk of retention's, which must be due; how many executions it has removed."""
        removed = 0
        while True:
            removal = await self.retention.remove_expired(retention, limit=limit)
            assert removal is not None
            assert removal.removed <= removal.seen <= limit
            removed += removal.removed
            if removal.ended:
                return removed

    async def watched_long_enough(self, observer: UUID | None = None) -> StaleObserver:
        """An observer for whom only the database's word is missing: it has seen no beat for long.

        It has watched for twice the threshold, with short gaps, so that even the brake on mass
        evictions is satisfied.
        """
        watching = StaleObserver(STALE_AFTER)
        async with self.begin() as repositories:
            beats = await repositories.orchestrators.beats(observer, stale_after=STALE_AFTER)
        threshold = STALE_AFTER.total_seconds()
        for share in (2.5, 1.75, 1.0, 0.25):
            watching.observe(beats, time.monotonic() - share * threshold)
        return watching

    async def crash(self, *owners: Registration) -> None:
        """Let time pass without heartbeats until their executions are recovered, once."""
        self.advance(STALE_AFTER * 2)
        await self.orchestrators.recover_stale(await self.watched_long_enough())
        left = {one.id for one in await self.orchestrators.list()}
        assert left.isdisjoint(one.orchestrator_id for one in owners)


class FakeHarness(Harness):
    def __init__(self, database: FakeDatabase) -> None:
        super().__init__(FakeUnitOfWork(database))
        self.database = database

    def advance(self, by: timedelta) -> None:
        self.database.clock.advance(by)

    async def now(self) -> datetime:
        return self.database.clock.now()

    async def set_schema(self, installed: int, floor: int) -> None:
        self.database.schema = SchemaStatus(installed, floor)

    async def set_intent(
        self, *, floor: int | None = None, ceiling: int | None = None, expires_after: timedelta
    ) -> None:
        assert self.database.schema is not None
        self.database.schema = replace(
            self.database.schema,
            intent_floor=floor,
            intent_ceiling=ceiling,
            lease_holder="a migration",
        )
        self.database.intent_expires_at = self.database.clock.now() + expires_after

    async def set_columns(self, execution_id: UUID, **values: Any) -> None:
        transaction = self.database.transaction()
        tables = await transaction.write()
        row = tables.executions[execution_id]
        tables.executions[execution_id] = replace(row, **values)
        transaction.commit()

    async def forget_orchestrator(self, orchestrator_id: UUID) -> None:
        transaction = self.database.transaction()
        del (await transaction.write()).orchestrators[orchestrator_id]
        transaction.commit()

    @asynccontextmanager
    async def notifications(self) -> AsyncIterator[list[tuple[str, str]]]:
        found: list[tuple[str, str]] = []
        stop = self.database.listen(lambda channel, payload: found.append((channel, payload)))
        yield found
        stop()


class PostgresHarness(Harness):
    def __init__(self, engine: AsyncEngine, work: UnitOfWork | None = None) -> None:
        super().__init__(work or unit_of_work(engine))
        self.engine = engine
        self.clock = DatabaseClock(engine)

    def advance(self, by: timedelta) -> None:
        self.clock.advance(by)

    async def now(self) -> datetime:
        async with self.engine.connect() as connection:
            now = await connection.scalar(select(func.pgconductor.clock()))
        assert isinstance(now, datetime)
        return now

    async def _execute(self, statement: Any) -> None:
        async with self.engine.begin() as connection:
            await connection.execute(statement)

    async def set_schema(self, installed: int, floor: int) -> None:
        await self._execute(update(SchemaGate).values(installed=installed, floor=floor))

    async def set_intent(
        self, *, floor: int | None = None, ceiling: int | None = None, expires_after: timedelta
    ) -> None:
        lease = new_id()
        async with self.engine.begin() as connection:
            await connection.execute(sql.LEASE_TAKE, {"lease_id": lease, "holder": "a migration"})
            noted = {"floor": floor, "ceiling": ceiling, "expires_after": expires_after}
            await connection.execute(sql.LEASE_NOTE, {"lease_id": lease, "note": "a test", **noted})

    async def set_columns(self, execution_id: UUID, **values: Any) -> None:
        await self._execute(update(Execution).where(Execution.id == execution_id).values(**values))

    async def forget_orchestrator(self, orchestrator_id: UUID) -> None:
        await self._execute(delete(Orchestrator).where(Orchestrator.id == orchestrator_id))

    @asynccontextmanager
    async def impatient(self) -> AsyncIterator[Repositories]:
        """A transaction in which nothing waits for a lock: it fails with 55P03 instead."""
        async with self.engine.begin() as connection:
            await connection.execute(text("SET LOCAL lock_timeout = '1ms'"))
            yield sql_repositories(connection)

    async def blocked(self, awaitable: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start something, and return when it waits for a lock that a transaction holds."""
        task = asyncio.create_task(awaitable)

        async def waits() -> bool:
            if task.done():
                raise RuntimeError(f"it did not wait: {task!r}")
            async with self.engine.connect() as connection:
                return bool(await connection.scalar(text(WAITERS)))

        try:
            await eventually(waits)
        except BaseException:
            task.cancel()
            raise
        return task

    @asynccontextmanager
    async def paused(
        self, name: str, before: str, awaitable: Coroutine[Any, Any, T]
    ) -> AsyncIterator[asyncio.Task[T]]:
        """Hold a statement between its snapshot and its first lock, while the block executes.

        Args:
            name: Of the statement in ``pgconductor.sql``.
            before: The condition before which it is held.
            awaitable: What executes it.
        """
        original = getattr(sql, name).text
        assert before in original
        pause = f"(SELECT pg_advisory_xact_lock(1) IS NOT NULL) AND {before}"
        with pytest.MonkeyPatch.context() as patch:
            async with self.engine.begin() as holder:
                await holder.execute(text("SELECT pg_advisory_xact_lock(1)"))
                patch.setattr(sql, name, text(original.replace(before, pause, 1)))
                task = await self.blocked(awaitable)
                patch.undo()
                yield task

    @asynccontextmanager
    async def notifications(self) -> AsyncIterator[list[tuple[str, str]]]:
        found: list[tuple[str, str]] = []
        arrived = asyncio.Event()

        def receive(_connection: object, _pid: int, channel: str, payload: object) -> None:
            if channel == "contract_end":
                arrived.set()
            else:
                found.append((channel, str(payload)))

        async with self.engine.connect() as connection:
            raw = await connection.get_raw_connection()
            driver: Any = raw.driver_connection
            for channel in (*CHANNELS, "contract_end"):
                await driver.add_listener(channel, receive)
            yield found
            # Notifications arrive in the order of their commits: this is the last.
            await driver.execute("NOTIFY contract_end")
            async with asyncio.timeout(10):
                await arrived.wait()
            for channel in (*CHANNELS, "contract_end"):
                await driver.remove_listener(channel, receive)
