"""Where a rehearsal takes place: in memory, or in a real database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary

from sqlalchemy import Engine, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from pgconductor.connections import Connections, Route
from pgconductor.domain.events import Emitted
from pgconductor.domain.invocations import Invocation, Invoked
from pgconductor.domain.outcomes import Completed
from pgconductor.exceptions import ConfigurationError
from pgconductor.handles import Watch
from pgconductor.services.backend import Backend
from pgconductor.services.engines import check_sync_session
from pgconductor.services.executions import ExecutionService
from pgconductor.services.orchestrators import OrchestratorService
from pgconductor.services.steps import StepService
from pgconductor.services.transactions import TransactionService
from pgconductor.services.unit_of_work import EngineUnitOfWork
from pgconductor.testing.database import FakeDatabase
from pgconductor.testing.database_clock import DatabaseClock
from pgconductor.testing.sessions import FakeTransactions, SessionTransactions, at_once
from pgconductor.testing.unit_of_work import FakeUnitOfWork

__all__ = ["FakeStage", "PostgresStage", "Stage", "clock_of"]

_NO_DATABASE: Final = (
    "this rehearsal has no database: give it one, as in Rehearsal(conductor, database=url)"
)
_NO_SESSIONS: Final = (
    "this rehearsal has no database, so it cannot make sessions for ctx.transact and "
    "ctx.transaction: give it some, as in Rehearsal(conductor, sessions=async_sessionmaker(engine))"
    " with an engine on SQLite, or whatever your code takes for a session; or a whole database, as "
    "in Rehearsal(conductor, database=url)"
)


class Stage(Protocol):
    """Where a rehearsal takes place."""

    @property
    def executions(self) -> ExecutionService:
        """Executions."""
        ...

    @property
    def orchestrators(self) -> OrchestratorService:
        """Orchestrators."""
        ...

    @property
    def steps(self) -> StepService:
        """Steps and waits."""
        ...

    @property
    def transactions(self) -> TransactionService:
        """Transactional steps."""
        ...

    async def complete_in(self, session: Any, outcome: Completed) -> bool:
        """Complete an execution in a transaction of the application's; False if cancelled."""
        ...

    async def quiet(self, dead: Collection[asyncio.Task[Any]]) -> None:
        """Wait until others than the dead may be cancelled without harm to the rest."""
        ...

    async def now(self) -> datetime:
        """The instant that every decision goes by."""
        ...

    def advance(self, by: timedelta) -> None:
        """Move the clock."""
        ...

    def route(self, watch: Watch) -> Route:
        """The way there, for the conductor."""
        ...

    async def aclose(self) -> None:
        """Close what was opened."""
        ...


class FakeStage:
    """In memory.

    Args:
        database: The tables.
        sessions: Makes the sessions of transactional steps; None where there are none.
    """

    def __init__(self, database: FakeDatabase, sessions: Callable[[], Any] | None) -> None:
        work = FakeUnitOfWork(database)
        self.database = database
        self.executions: Final = ExecutionService(work)
        self.orchestrators: Final = OrchestratorService(work)
        self.steps: Final = StepService(work)
        self._sessions = sessions
        self._with_sessions = SessionTransactions(database)
        self.transactions: Final = FakeTransactions(sessions or _refuse, self._with_sessions)

    async def complete_in(self, session: Any, outcome: Completed) -> bool:
        """See the protocol."""
        # None is refused, as on a server; anything else may be what the test takes for a session.
        work: Any = None if session is None else self._with_sessions.joined(session)
        return await Backend.complete_in(work, outcome)

    async def quiet(self, dead: Collection[asyncio.Task[Any]]) -> None:
        """See the protocol: each has a connection of its own, or none."""

    async def now(self) -> datetime:
        """See the protocol."""
        return self.database.clock.now()

    def advance(self, by: timedelta) -> None:
        """See the protocol."""
        self.database.clock.advance(by)

    def route(self, watch: Watch) -> Route:
        """See the protocol."""
        return _FakeRoute(self, self._sessions, self._with_sessions, watch)

    async def aclose(self) -> None:
        """See the protocol."""


def _refuse() -> Any:
    raise ConfigurationError(_NO_SESSIONS)


class _FakeRoute:
    """Has a conductor find the tables in memory."""

    def __init__(
        self,
        stage: FakeStage,
        sessions: Callable[[], Any] | None,
        with_sessions: SessionTransactions,
        watch: Watch,
    ) -> None:
        self.executions: Final = stage.executions
        self.orchestrators: Final = stage.orchestrators
        self._sessions = sessions
        self._with_sessions = with_sessions
        self._watch = watch

    @property
    def engine(self) -> AsyncEngine:
        raise ConfigurationError(_NO_DATABASE)

    @property
    def sessionmaker(self) -> async_sessionmaker[AsyncSession]:
        if self._sessions is None:
            raise ConfigurationError(_NO_SESSIONS)
        sessions: Any = self._sessions
        return sessions  # type: ignore[no-any-return]  # or what stands for one in the test

    def watch(self) -> Watch:
        return self._watch

    def _service(self, session: Any) -> ExecutionService:
        if session is None:
            return self.executions
        return ExecutionService(self._with_sessions.joined(session))

    async def write(
        self, invocations: list[Invocation], session: AsyncSession | AsyncConnection | None
    ) -> list[Invoked]:
        return await self._service(session).invoke_many(invocations)

    def write_sync(self, invocations: list[Invocation], session: Session) -> list[Invoked]:
        return at_once(self._service(session).invoke_many(invocations))

    async def emit_text(
        self,
        name: str,
        payload: str | None,
        session: AsyncSession | AsyncConnection | None,
        dedupe_key: str | None = None,
    ) -> Emitted:
        return await self._service(session).emit_text(name, payload, dedupe_key)

    def emit_text_sync(
        self, name: str, payload: str | None, session: Session, dedupe_key: str | None = None
    ) -> Emitted:
        check_sync_session(session, "emit_sync", "emit")
        return at_once(self._service(session).emit_text(name, payload, dedupe_key))


#: One for each engine, for as long as it lives: a clock cannot be taken off again.
_CLOCKS: Final[WeakKeyDictionary[Engine, DatabaseClock]] = WeakKeyDictionary()


def clock_of(engine: AsyncEngine) -> DatabaseClock:
    """The clock of what goes through an engine."""
    if engine.sync_engine not in _CLOCKS:
        _CLOCKS[engine.sync_engine] = DatabaseClock(engine)
    return _CLOCKS[engine.sync_engine]


class PostgresStage:
    """In a real database.

    Args:
        engine: The way there.
        sessions: Makes the sessions of transactional steps; the default is the engine's own.
        owned: Whether to dispose of the engine at the end.
    """

    def __init__(
        self, engine: AsyncEngine, sessions: Callable[[], Any] | None, *, owned: bool
    ) -> None:
        self.clock: Final = clock_of(engine)
        work = EngineUnitOfWork(engine)
        self.executions: Final = ExecutionService(work)
        self.orchestrators: Final = OrchestratorService(work)
        self.steps: Final = StepService(work)
        made = async_sessionmaker(engine, expire_on_commit=False)
        self.transactions: Final = TransactionService(sessions or made)
        self._engine = engine
        self._owned = owned
        self._opened: Connections | None = None

    async def complete_in(self, session: Any, outcome: Completed) -> bool:
        """See the protocol."""
        return await Backend.complete_in(session, outcome)

    async def quiet(self, dead: Collection[asyncio.Task[Any]]) -> None:
        """See the protocol: each has a connection of its own, or none."""

    async def now(self) -> datetime:
        """See the protocol."""
        async with self._engine.connect() as connection:
            found = await connection.execute(text("SELECT pgconductor.clock()"))
            now: datetime = found.scalar_one()
        return now

    def advance(self, by: timedelta) -> None:
        """See the protocol."""
        self.clock.advance(by)

    def route(self, watch: Watch) -> Route:
        """See the protocol."""
        self._opened = _EngineRoute(self._engine, watch)
        return self._opened

    async def aclose(self) -> None:
        """See the protocol."""
        self.clock.reset()
        if self._opened is not None:
            await self._opened.close()
        if self._owned:
            await self._engine.dispose()


class _EngineRoute(Connections):
    """Has a conductor find a database, and its handles the rehearsal."""

    def __init__(self, engine: AsyncEngine, watch: Watch) -> None:
        super().__init__(engine=engine)
        self._rehearsed = watch

    def watch(self) -> Watch:
        return self._rehearsed
