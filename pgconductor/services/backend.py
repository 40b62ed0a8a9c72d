"""The database as the runtime sees it: services on connections of their own, and notifications."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from pgconductor.domain.claims import Registration
from pgconductor.domain.migrations import MigrationOutcome
from pgconductor.domain.orchestrators import Heartbeat
from pgconductor.domain.outcomes import Completed, Disposition
from pgconductor.domain.sqlstates import Cause
from pgconductor.exceptions import OwnershipLost, SchemaMissing
from pgconductor.repositories.errors import cause, is_transient, is_undefined, trouble
from pgconductor.services.executions import ExecutionService
from pgconductor.services.listener import AVAILABLE, CONTROL, FINISHED, WAITS, Listener
from pgconductor.services.orchestrators import OrchestratorService
from pgconductor.services.pinned import PinnedUnitOfWork, TimedUnitOfWork, sibling_engine
from pgconductor.services.retention import RetentionLink
from pgconductor.services.steps import StepService
from pgconductor.services.transactions import TransactionService
from pgconductor.settings import Settings
from pgconductor.types import ExecutionState

__all__ = ["Backend", "HeartbeatLink"]

_BEAT_TIMEOUT: Final = timedelta(seconds=3)
#: Outcomes and steps of many executions share a statement. Where somebody's open transaction holds
#: the row of one, that one is told apart, and the others do not wait for it.
_LOCK_TIMEOUT: Final = timedelta(milliseconds=250)


class HeartbeatLink:
    """An orchestrator's way to beat, on a connection that belongs to the loop that makes it.

    Args:
        engine: Whose address is used; not its pool.
        registration: Who beats.
    """

    def __init__(self, engine: AsyncEngine, registration: Registration) -> None:
        self._engine = sibling_engine(engine)
        self._pinned = PinnedUnitOfWork(
            self._engine, timeout=_BEAT_TIMEOUT, role="heartbeat", durable=False
        )
        self._service = OrchestratorService(self._pinned)
        self._registration = registration

    async def beat(self) -> Heartbeat:
        """Beat once.

        Raises:
            NotRegistered: The row is gone.
        """
        return await self._service.heartbeat(self._registration)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._pinned.aclose()
        await self._engine.dispose()


class Backend:
    """Everything that an orchestrator needs of the database.

    Fetching and completing have a connection each, so that neither waits for the other, nor for
    handlers that hold the whole of the user's pool.

    Args:
        engine: The user's engine; its address is used, its pool is left alone.
        direct_engine: An engine that leads around a pooler, for LISTEN; the default is ``engine``.
        command_timeout: How long one statement may take.
        sessions: Makes the sessions of transactional steps; the default is the engine's own.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        direct_engine: AsyncEngine | None = None,
        command_timeout: timedelta,
        sessions: Callable[[], AsyncSession] | None = None,
    ) -> None:
        self._source = engine
        self._direct = direct_engine or engine
        self._timeout = command_timeout
        self._engine = sibling_engine(engine)
        self._listening = sibling_engine(self._direct)
        # A claim that a crash of the server undoes is only made again, and whoever held it by the
        # lost one is refused; see docs/decisions/0017-durability.md.
        self._fetching = PinnedUnitOfWork(
            self._engine, timeout=command_timeout, role="fetch", durable=False
        )
        self._completing, self._stepping = (
            PinnedUnitOfWork(
                self._engine, timeout=command_timeout, role=role, lock_timeout=_LOCK_TIMEOUT
            )
            for role in ("complete", "steps")
        )
        self.steps: Final = StepService(self._stepping)
        self.transactions: Final = TransactionService(
            sessions or async_sessionmaker(engine, expire_on_commit=False)
        )
        self.fetching: Final = ExecutionService(self._fetching)
        self.completing: Final = ExecutionService(self._completing)
        self.orchestrators: Final = OrchestratorService(
            TimedUnitOfWork(self._engine, timeout=command_timeout)
        )

    def heartbeat_link(self, registration: Registration) -> HeartbeatLink:
        """A way to beat; call it in the thread, and close it in the loop, that uses it."""
        return HeartbeatLink(self._source, registration)

    def retention_link(self) -> RetentionLink:
        """A way to remove old executions; whoever uses it closes it."""
        return RetentionLink(self._source, self._timeout)

    def listener(
        self, on_notify: Callable[[str, str], None], on_restored: Callable[[], None]
    ) -> Listener:
        """A listener for what wakes an orchestrator."""
        channels: Sequence[str] = (AVAILABLE, CONTROL, FINISHED, WAITS)
        return Listener(self._listening, channels, on_notify, on_restored)

    @staticmethod
    async def complete_in(session: Any, outcome: Completed) -> bool:
        """Complete an execution in a transaction of the caller's.

        Returns:
            False if it is to be cancelled instead; then the caller rolls back.

        Raises:
            OwnershipLost: The execution is held by somebody else; nothing was written.
        """
        (verdict,) = await ExecutionService(session).complete([outcome])
        if verdict.disposition is Disposition.LOST:
            raise OwnershipLost(outcome.execution_id)
        return verdict.state is ExecutionState.COMPLETED

    async def upgrade_schema(self, settings: Settings) -> MigrationOutcome:
        """Apply what is pending.

        Args:
            settings: How patient to be.

        Raises:
            MigrationError: It was not done.
        """
        # Alembic is imported only where it is used.
        from pgconductor.services.coordinator import MigrationCoordinator

        return await MigrationCoordinator(self._direct, settings=settings).upgrade()

    @staticmethod
    def is_undefined(error: BaseException) -> bool:
        """Whether a statement of ours names what the database does not have."""
        return isinstance(error, SchemaMissing) or is_undefined(error)

    @staticmethod
    def is_transient(error: BaseException) -> bool:
        """Whether the same call may succeed later."""
        return is_transient(error)

    @staticmethod
    def cause(error: BaseException) -> Cause | None:
        """Why the database has refused a statement; None for an error that is not its own."""
        return cause(error)

    @staticmethod
    def trouble(error: BaseException) -> str:
        """What kind of trouble a transient error means, in a few words for the log."""
        return trouble(error)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._fetching.aclose()
        await self._completing.aclose()
        await self._stepping.aclose()
        await self._engine.dispose()
        await self._listening.dispose()
