"""Where invocations and events are written: the caller's session, the intake, or the pool."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from pgconductor import sql
from pgconductor.domain.events import Emitted
from pgconductor.domain.invocations import Invocation, Invoked
from pgconductor.domain.limits import check_dedupe_key, check_event
from pgconductor.repositories.autocommit import refuse_autocommit_of
from pgconductor.repositories.errors import translated
from pgconductor.repositories.invoking import Invoke
from pgconductor.services.engines import check_async_session, check_sync_session
from pgconductor.services.executions import ExecutionService, distinct
from pgconductor.services.identity import DatabaseIdentity
from pgconductor.services.intake import Intake
from pgconductor.services.pooling import Poolers

__all__ = ["InvocationWriter"]


class InvocationWriter:
    """Writes what is invoked, in the caller's transaction or in one of its own.

    Args:
        engine: The conductor's engine; called when it is needed, for it may be made only then.
        has_database: Whether there is one; a service may invoke in its sessions without.
        executions: Executions, each call in a transaction of its own.
        poolers: Knows whether one is behind an engine.
        timeout: How long one statement may take.
    """

    def __init__(
        self,
        *,
        engine: Callable[[], AsyncEngine],
        has_database: Callable[[], bool],
        executions: Callable[[], ExecutionService],
        poolers: Poolers,
        timeout: timedelta,
    ) -> None:
        self._engine = engine
        self._has_database = has_database
        self._executions = executions
        self._poolers = poolers
        self._timeout = timeout
        self._identity = DatabaseIdentity()
        self._intake: Intake | None = None

    async def write(
        self, invocations: list[Invocation], session: AsyncSession | AsyncConnection | None
    ) -> list[Invoked]:
        """Write invocations, in the session's transaction or in one of their own.

        Raises:
            WrongSession: The session is a sync one, of another database, or in autocommit mode.
            ConfigurationError: A pooler is between, and the engine is not made for it.
        """
        if session is None:
            return await self._write_alone(invocations)
        check_async_session(session, "invoke_sync")
        await self._poolers.behind(session)
        service = ExecutionService(session)
        if self._has_database():
            await self._identity.check(self._engine(), session)
        return await service.invoke_many(invocations)

    async def emit_text(
        self,
        name: str,
        payload: str | None,
        session: AsyncSession | AsyncConnection | None,
        dedupe_key: str | None = None,
    ) -> Emitted:
        """Emit an event, in the session's transaction or in one of its own.

        Raises:
            WrongSession: The session is a sync one, of another database, or in autocommit mode.
            ConfigurationError: A pooler is between, and the engine is not made for it.
        """
        if session is None:
            return await self._executions().emit_text(name, payload, dedupe_key)
        check_async_session(session, "emit_sync")
        await self._poolers.behind(session)
        if self._has_database():
            await self._identity.check(self._engine(), session)
        return await ExecutionService(session).emit_text(name, payload, dedupe_key)

    async def _write_alone(self, invocations: list[Invocation]) -> list[Invoked]:
        # Whoever has no pool wants no connection kept.
        if not Intake.takes(invocations) or isinstance(self._engine().pool, NullPool):
            return await self._executions().invoke_many(invocations)
        if len(invocations) > 1:
            distinct(invocations, lambda one: one.id, "invocations")
        if self._intake is None or self._intake.loop is not asyncio.get_running_loop():
            # One of an event loop that has ended is forgotten.
            self._intake = Intake(self._poolers.noted(self._engine()), timeout=self._timeout)
        return await self._intake.write(invocations)

    def write_sync(self, invocations: list[Invocation], session: Session) -> list[Invoked]:
        """Write invocations in a sync session's transaction.

        Raises:
            WrongSession: The session is an async one, of another database, or in autocommit mode.
        """
        check_sync_session(session, "invoke_sync", "invoke")
        if self._has_database():
            self._identity.check_sync(self._engine().url, session)
        if not invocations:
            return []
        invoke = Invoke.of(invocations)
        refuse_autocommit_of(session, invoke.statement)
        with translated():
            return invoke.answers(session.execute(invoke.statement, invoke.parameters).all())

    def emit_text_sync(
        self, name: str, payload: str | None, session: Session, dedupe_key: str | None = None
    ) -> Emitted:
        """Emit an event in a sync session's transaction.

        Raises:
            WrongSession: The session is an async one, of another database, or in autocommit mode.
        """
        check_sync_session(session, "emit_sync", "emit")
        if self._has_database():
            self._identity.check_sync(self._engine().url, session)
        check_event(name)
        if dedupe_key is not None:
            check_dedupe_key(dedupe_key)
        refuse_autocommit_of(session, sql.EMIT)
        event = {"name": name, "payload": payload, "dedupe_key": dedupe_key}
        with translated():
            row = session.execute(sql.EMIT, event).one()
        return Emitted(row.id, row.created)

    async def aclose(self) -> None:
        """Give the kept connections up; a later call opens others."""
        if self._intake is not None:
            intake, self._intake = self._intake, None
            await intake.aclose()

    def disown(self) -> object:
        """Forget the kept connections, neither used nor closed, and return them."""
        intake, self._intake = self._intake, None
        return intake
