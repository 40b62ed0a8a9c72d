"""A rehearsal inside a transaction of the test's, which is rolled back at its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from pgconductor.connections import Route
from pgconductor.domain.events import Emitted
from pgconductor.domain.invocations import Invocation, Invoked
from pgconductor.domain.outcomes import Completed
from pgconductor.domain.steps import StepRecord
from pgconductor.exceptions import ConfigurationError
from pgconductor.handles import Watch
from pgconductor.repositories import Repositories, sql_repositories
from pgconductor.services.backend import Backend
from pgconductor.services.executions import ExecutionService
from pgconductor.services.orchestrators import OrchestratorService
from pgconductor.services.steps import StepService
from pgconductor.services.transactions import OpenTransaction, TransactionService
from pgconductor.testing.stages import clock_of

__all__ = ["SessionStage"]


#: Whose turn somebody was begun in.
_begun_in: ContextVar[object | None] = ContextVar("pgconductor_begun_in", default=None)
#: Seconds between looks at who has the turn.
_MOMENT: Final = 0.001


class _Turns:
    """One at a time on the connection: branches of a handler have it in common.

    What is begun by whoever has the turn, a task of its own for instance, is in that turn too.
    """

    def __init__(self) -> None:
        self._holder: asyncio.Task[Any] | None = None
        self._wanted = 0
        self._lock = asyncio.Lock()
        self._turn: object | None = None

    @asynccontextmanager
    async def taken(self) -> AsyncGenerator[None]:
        if self._turn is not None and _begun_in.get() is self._turn:
            yield
            return
        self._wanted += 1
        try:
            async with self._lock:
                self._turn, self._holder = object(), asyncio.current_task()
                _begun_in.set(self._turn)
                try:
                    yield
                finally:
                    self._turn = self._holder = None
        finally:
            self._wanted -= 1

    async def quiet(self, dead: Collection[asyncio.Task[Any]]) -> None:
        """Wait until nobody has the turn or will have it, or one of the dead keeps it."""
        while self._wanted and self._holder not in dead:  # noqa: ASYNC110 - the dead are many
            await asyncio.sleep(_MOMENT)


class _Savepoints:
    """A savepoint for each use."""

    def __init__(self, session: AsyncSession, turns: _Turns) -> None:
        self._session = session
        self._turns = turns

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator[Repositories]:
        async with self._turns.taken(), self._session.begin_nested():
            yield sql_repositories(self._session)


class _Open(OpenTransaction):
    """A transaction that has the turn from its beginning to its end."""

    def __init__(self, session: AsyncSession, key: str, turns: _Turns) -> None:
        super().__init__(session, key)
        self._turns = turns
        self._turn = AsyncExitStack()

    async def begin(self) -> AsyncSession:
        async with AsyncExitStack() as turn:
            await turn.enter_async_context(self._turns.taken())
            session = await super().begin()
            self._turn = turn.pop_all()
        return session

    async def commit(self, step: StepRecord | None) -> str | None:
        async with self._turn:
            return await super().commit(step)

    async def roll_back(self) -> None:
        # To the end, although who is cancelled may be cancelled again meanwhile.
        await asyncio.shield(asyncio.create_task(self._rolled_back()))

    async def _rolled_back(self) -> None:
        async with self._turn:
            await super().roll_back()


class _Transactions(TransactionService):
    """Transactional steps, one at a time."""

    def __init__(self, sessions: async_sessionmaker[AsyncSession], turns: _Turns) -> None:
        super().__init__(sessions)
        self._make = sessions
        self._turns = turns

    def open(self, key: str) -> OpenTransaction:
        return _Open(self._make(), key, self._turns)


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
        self._turns = _Turns()
        work = _Savepoints(session, self._turns)
        self.clock: Final = clock_of(connection.engine)
        self.executions: Final = ExecutionService(work)
        self.orchestrators: Final = OrchestratorService(work)
        self.steps: Final = StepService(work)
        self.sessionmaker: Final = async_sessionmaker(
            connection, expire_on_commit=False, join_transaction_mode="create_savepoint"
        )
        self.transactions: Final = _Transactions(self.sessionmaker, self._turns)
        self._session = session

    async def complete_in(self, session: Any, outcome: Completed) -> bool:
        """See the protocol."""
        return await Backend.complete_in(session, outcome)

    async def quiet(self, dead: Collection[asyncio.Task[Any]]) -> None:
        """See the protocol."""
        # Who was cancelled amid a statement would take the connection along.
        await self._turns.quiet(dead)

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
        self,
        name: str,
        payload: str | None,
        session: AsyncSession | AsyncConnection | None,
        dedupe_key: str | None = None,
    ) -> Emitted:
        service = self.executions if session is None else ExecutionService(session)
        return await service.emit_text(name, payload, dedupe_key)

    def emit_text_sync(
        self, name: str, payload: str | None, session: Session, dedupe_key: str | None = None
    ) -> Emitted:
        del name, payload, session, dedupe_key
        raise ConfigurationError("this rehearsal is in the transaction of an async session")
