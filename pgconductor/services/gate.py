"""A migration's own connection, between the steps of Alembic: questions, pauses, reports."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, text
from sqlalchemy.util import await_only

from pgconductor.models import SCHEMA
from pgconductor.repositories import (
    BlockingExecutor,
    Repositories,
    SqlGateRepository,
    at_once,
    sql_repositories,
)
from pgconductor.services.orchestrators import OrchestratorService

__all__ = ["APPLICATION_NAME", "GateLink"]

T = TypeVar("T")

#: What a migration's connection is called, with its lease behind a stroke.
APPLICATION_NAME: Final = "pgconductor-migrate"

_SETTINGS: Final = (
    "lock_timeout",
    "application_name",
    "default_transaction_isolation",
    "pgconductor.lease",
)


class GateLink:
    """One sync connection, in short transactions that never wait for a pause.

    Under SQLAlchemy's bridge (``run_sync``) the pauses give the loop free, and a cancellation ends
    them.

    Args:
        connection: The one that Alembic migrates on; it must not be in a transaction.
        report: Called with a line for people about what is waited for.
    """

    def __init__(self, connection: Connection, report: Callable[[str], None]) -> None:
        self.connection = connection
        self.report = report
        self.waited = 0.0
        self.orchestrators = OrchestratorService(_BlockingUnitOfWork(self))

    def ask(self, call: Callable[[SqlGateRepository], Coroutine[Any, Any, T]]) -> T:
        """Ask the gate in a transaction of its own."""
        with self.connection.begin():
            return at_once(call(SqlGateRepository(BlockingExecutor(self.connection))))

    def call(self, call: Callable[[OrchestratorService], Coroutine[Any, Any, T]]) -> T:
        """Use the service of orchestrators, with its own transactions."""
        return at_once(call(self.orchestrators))

    def ask_to_stop(
        self, *, reason: str, below_version: int | None, above_required: int | None
    ) -> None:
        """Ask every orchestrator to stop that could not go on after a migration.

        Args:
            reason: What they are told.
            below_version: They do not know this revision.
            above_required: They need more than this revision.
        """
        with self.connection.begin():
            orchestrators = sql_repositories(BlockingExecutor(self.connection)).orchestrators
            at_once(
                orchestrators.request_shutdown(
                    reason=reason, below_version=below_version, above_required=above_required
                )
            )

    def pause(self, seconds: float) -> None:
        """Wait, with no transaction open."""
        began = time.monotonic()
        try:
            if self.connection.dialect.is_async:
                await_only(asyncio.sleep(seconds))
            else:
                time.sleep(seconds)
        finally:
            self.waited += time.monotonic() - began

    def settle(self) -> None:
        """Leave whatever transaction a failed or an asking statement has left behind."""
        if self.connection.in_transaction():
            self.connection.rollback()

    def set_up(self, *, lock_timeout: timedelta, lease: str) -> None:
        """Set what holds for the length of a migration; again after each reconnect.

        Args:
            lock_timeout: How long a statement may wait for a lock.
            lease: How the guard in the revisions knows who holds the lease.
        """
        milliseconds = max(1, round(lock_timeout.total_seconds() * 1000))
        name = f"{APPLICATION_NAME}/{lease}"
        values = (f"{milliseconds}ms", name, "read committed", lease)
        with self.connection.begin():
            for name, value in zip(_SETTINGS, values, strict=True):
                self.connection.execute(_SET, {"name": name, "value": value})

    def take_down(self) -> None:
        """Undo :meth:`set_up`, for the connection may be the caller's."""
        with self.connection.begin():
            for name in _SETTINGS:
                self.connection.execute(text(f"RESET {name}"))

    def reconnect(self) -> None:
        """Give a connection up that is lost; the next transaction opens another."""
        self.settle()
        if not self.connection.invalidated:
            self.connection.invalidate()

    def install(self) -> bool:
        """Make what Alembic needs before the first revision, if nobody else does just now.

        Returns:
            False if somebody does.
        """
        with self.connection.begin():
            gate = SqlGateRepository(BlockingExecutor(self.connection))
            if not at_once(gate.lock_installation()):
                return False
            # Asked again under the lock: IF NOT EXISTS would demand the right to create schemas.
            if not at_once(gate.server()).has_schema:
                self.connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
            # As Alembic makes it, which would not do so under a lock.
            self.connection.execute(
                text(
                    f"CREATE TABLE IF NOT EXISTS {SCHEMA}.alembic_version (version_num"
                    " VARCHAR(32) NOT NULL CONSTRAINT alembic_version_pkc PRIMARY KEY)"
                )
            )
            return True

    def server_pid(self) -> int | None:
        """The server process that the driver believes to talk to; None where it does not tell."""
        driver: Any = self.connection.connection.driver_connection
        if hasattr(driver, "get_server_pid"):
            return int(driver.get_server_pid())
        info = getattr(driver, "info", None)
        pid = getattr(info, "backend_pid", None)
        return None if pid is None else int(pid)


_SET: Final = text("SELECT set_config(CAST(:name AS text), CAST(:value AS text), false)")


class _BlockingUnitOfWork:
    """Transactions of a migration's connection, for services."""

    def __init__(self, link: GateLink) -> None:
        self._link = link

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator[Repositories]:
        """See :class:`~pgconductor.services.unit_of_work.UnitOfWork`."""
        with self._link.connection.begin():
            yield sql_repositories(BlockingExecutor(self._link.connection))
