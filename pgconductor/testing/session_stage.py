"""A rehearsal inside a transaction of the test's, which is rolled back at its end."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from pgconductor.connections import Route
from pgconductor.domain.invocations import Invocation, Invoked
from pgconductor.domain.outcomes import Completed
from pgconductor.exceptions import ConfigurationError
from pgconductor.handles import Watch
from pgconductor.repositories import Repositories, sql_repositories
from pgconductor.services.backend import Backend
from pgconductor.services.executions import ExecutionService
from pgconductor.services.orchestrators import OrchestratorService
from pgconductor.services.steps import StepService
from pgconductor.services.transactions import TransactionService
from pgconductor.testing.stages import clock_of

__all__ = ["SessionStage"]


class _Savepoints:
    """A savepoint for each use."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator[Repositories]:
        async with self._session.begin_nested():
            yield sql_repositories(self._session)


class SessionStage:
    """In the transaction that a session's connection is in.

    Args:
        session: A session whose own commits end savepoints.

    Raises:
        ConfigurationError: It is another kind of session.
    """

    def __init__(self, session: AsyncSession) -> None:
        connection = session.bind
        mode = session.sync_session.join_transaction_mode
        if not isinstance(connection, AsyncConnection) or mode != "create_savepoint":
            raise ConfigurationError(
                "a rehearsal takes a session that is bound to a connection in a transaction, with "
                'join_transaction_mode="create_savepoint", such as the fixture pgconductor_session'
            )
        work = _Savepoints(session)
        self.clock: Final = clock_of(connection.engine)
        self.executions: Final = ExecutionService(work)
        self.orchestrators: Final = OrchestratorService(work)
        self.steps: Final = StepService(work)
        self.sessionmaker: Final = async_sessionmaker(
            connection, expire_on_commit=False, join_transaction_mode="create_savepoint"
        )
        self.transactions: Final = TransactionService(self.sessionmaker)
        self._session = session

    async def complete_in(self, session: Any, outcome: Completed) -> bool:
        """See the protocol."""
        return await Backend.complete_in(session, outcome)

    async def now(self) -> datetime:
        """See the protocol."""
        found = await self._session.execute(text("SELECT pgconductor.clock()"))
        now: datetime = found.scalar_one()
        return now

    def advance(self, by: timedelta) -> None:
        """See the protocol."""
        self.clock.advance(by)

    def route(self, watch: Watch) -> Route:
        """See the protocol."""
        return _SessionRoute(self, watch)

    async def aclose(self) -> None:
        """See the protocol."""
        self.clock.reset()


class _SessionRoute:
    """Has a conductor stay in the transaction."""

    def __init__(self, stage: SessionStage, watch: Watch) -> None:
        self.executions: Final = stage.executions
        self.orchestrators: Final = stage.orchestrators
        self.sessionmaker: Final = stage.sessionmaker
        self._watch = watch

    @property
    def engine(self) -> AsyncEngine:
        raise ConfigurationError(
            "this rehearsal is in a transaction, which an engine would not see; use a session"
        )

    def watch(self) -> Watch:
        return self._watch

    async def write(
        self, invocations: list[Invocation], session: AsyncSession | AsyncConnection | None
    ) -> list[Invoked]:
        service = self.executions if session is None else ExecutionService(session)
        return await service.invoke_many(invocations)

    def write_sync(self, invocations: list[Invocation], session: Session) -> list[Invoked]:
        del invocations, session
        raise ConfigurationError("this rehearsal is in the transaction of an async session")

    async def emit_text(
        self, name: str, payload: str | None, session: AsyncSession | AsyncConnection | None
    ) -> UUID:
        service = self.executions if session is None else ExecutionService(session)
        return await service.emit_text(name, payload)
