"""The in-memory database as an orchestrator's backend: the engine's own loops, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from pgconductor.domain.claims import Registration
from pgconductor.domain.orchestrators import Heartbeat
from pgconductor.domain.outcomes import Completed
from pgconductor.domain.retention import Retention
from pgconductor.services.backend import Backend
from pgconductor.services.executions import ExecutionService
from pgconductor.services.orchestrators import OrchestratorService
from pgconductor.services.steps import StepService
from pgconductor.testing import FakeDatabase, FakeUnitOfWork, VirtualClock
from pgconductor.testing.sessions import FakeTransactions, SessionTransactions

__all__ = ["MemoryBackend", "RealClock", "memory_backend"]


class RealClock(VirtualClock):
    """Time that goes on by itself."""

    def now(self) -> datetime:
        return datetime.now(UTC)


class _Link:
    """Beats from the heartbeat's thread, in the loop of the database."""

    def __init__(
        self,
        service: OrchestratorService,
        registration: Registration,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._service = service
        self._registration = registration
        self._loop = loop

    async def beat(self) -> Heartbeat:
        beat = self._service.heartbeat(self._registration)
        answer: Future[Heartbeat] = asyncio.run_coroutine_threadsafe(beat, self._loop)
        return await asyncio.wrap_future(answer)

    async def aclose(self) -> None:
        pass


class _Retention:
    async def remove_expired(self, retention: Retention) -> None:
        return None

    async def remove_events(self, retain: timedelta) -> int:
        return 0

    async def rest(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


class _Listener:
    def __init__(self, database: FakeDatabase, on_notify: Callable[[str, str], None]) -> None:
        self._database = database
        self._on_notify = on_notify
        self.healthy = asyncio.Event()

    async def run(self) -> None:
        end = self._database.listen(self._on_notify)
        self.healthy.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            end()


class MemoryBackend:
    """What a backend is to an orchestrator.

    Args:
        database: The tables.
        sessions: Makes what stands for a session.
    """

    is_transient = staticmethod(Backend.is_transient)
    cause = staticmethod(Backend.cause)
    is_undefined = staticmethod(Backend.is_undefined)

    def __init__(self, database: FakeDatabase, sessions: Callable[[], Any]) -> None:
        work = FakeUnitOfWork(database)
        self._database = database
        self._with_sessions = SessionTransactions(database)
        self.fetching = self.completing = ExecutionService(work)
        self.orchestrators = OrchestratorService(work)
        self.steps = StepService(work)
        self.transactions = FakeTransactions(sessions, self._with_sessions)

    async def complete_in(self, session: Any, outcome: Completed) -> bool:
        work: Any = self._with_sessions.joined(session)
        return await Backend.complete_in(work, outcome)

    def heartbeat_link(self, registration: Registration) -> _Link:
        return _Link(self.orchestrators, registration, self._loop)

    def retention_link(self) -> _Retention:
        return _Retention()

    def listener(
        self, on_notify: Callable[[str, str], None], on_restored: Callable[[], None]
    ) -> _Listener:
        # Called in the loop of the database, before any beat of a thread.
        return _Listener(self._database, on_notify)

    async def aclose(self) -> None:
        pass

    def opened(self) -> MemoryBackend:
        """It is used in this event loop from now on."""
        self._loop = asyncio.get_running_loop()
        return self


def memory_backend(database: FakeDatabase, sessions: Callable[[], Any]) -> Backend:
    """A backend for an orchestrator; call it where the orchestrator starts.

    Args:
        database: The tables.
        sessions: Makes what stands for a session.
    """
    return cast("Backend", MemoryBackend(database, sessions).opened())
