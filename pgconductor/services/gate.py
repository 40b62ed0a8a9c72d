"""A migration's own connection, between the steps of Alembic: questions, pauses, reports."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.util import await_only

from pgconductor.domain.migrations import History
from pgconductor.models import SCHEMA, VERSION_TABLE
from pgconductor.repositories import (
    BlockingExecutor,
    Repositories,
    SqlGateRepository,
    at_once,
    sql_repositories,
)
from pgconductor.repositories.errors import sqlstate
from pgconductor.schema.guard import LEASE
from pgconductor.services.orchestrators import OrchestratorService

__all__ = ["APPLICATION_NAME", "GateLink"]

T = TypeVar("T")

#: What a migration's connection is called, with its lease behind a stroke.
APPLICATION_NAME: Final = "pgconductor-migrate"

READ_COMMITTED: Final = "READ COMMITTED"
# Ours are qualified throughout. A path that names our schema would have Postgres, and with it
# SQLAlchemy, write the names without it, and Alembic take the schema for the default one.
_NO_SEARCH_PATH: Final = "pg_catalog, pg_temp"
_ONE_SNAPSHOT: Final = text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
# undefined_object, invalid_parameter_value
_NOT_THERE: Final = frozenset({"42704", "22023"})
_UNDEFINED_TABLE: Final = "42P01"
_GET: Final = text("SELECT current_setting(CAST(:name AS text), true)")
_SET: Final = text("SELECT set_config(CAST(:name AS text), CAST(:value AS text), false)")


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
        self._isolation: Any = None
        self._before: dict[str, str] = {}
        self.orchestrators = OrchestratorService(_BlockingUnitOfWork(self))

    def ask(self, call: Callable[[SqlGateRepository], Coroutine[Any, Any, T]]) -> T:
        """Ask the gate in a transaction of its own."""
        with self.connection.begin():
            return at_once(call(SqlGateRepository(BlockingExecutor(self.connection))))

    def history(self) -> History:
        """Where the database is, as of one moment: nobody installs between two of the questions."""
        try:
            return self._history()
        except DBAPIError as error:
            # The tables went with another's downgrade: a snapshot does not keep them.
            if sqlstate(error) != _UNDEFINED_TABLE:
                raise
            return self._history()

    def _history(self) -> History:
        with self.connection.begin():
            self.connection.execute(_ONE_SNAPSHOT)
            return at_once(SqlGateRepository(BlockingExecutor(self.connection)).history())

    @contextmanager
    def plain_names(self) -> Generator[None]:
        """Have names of our schema be read alike, whatever the ``search_path``.

        For a comparison with the models; a migration has it by :meth:`set_up`.
        """
        dialect = self.connection.dialect
        default = dialect.default_schema_name
        self._set("search_path", _NO_SEARCH_PATH)
        if default == SCHEMA:
            dialect.default_schema_name = "pg_catalog"
        try:
            yield
        finally:
            dialect.default_schema_name = default
            self.settle()
            if not self.connection.invalidated:
                self.take_down()

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

    def read_committed(self) -> None:
        """Have transactions be what the guard and the statements are made for; after each connect.

        Under a snapshot that is older than the lock, the guard would not see who registered last.
        """
        if self._isolation is None:
            self._isolation = self.connection.get_isolation_level()
            self.settle()
        self.connection.execution_options(isolation_level=READ_COMMITTED)

    def set_up(self, *, lock_timeout: timedelta, lease: str) -> None:
        """Set what holds for the length of a migration; again after each reconnect.

        Args:
            lock_timeout: How long a statement may wait for a lock.
            lease: How the guard in the revisions knows who holds the lease.
        """
        milliseconds = max(1, round(lock_timeout.total_seconds() * 1000))
        wanted = {
            "lock_timeout": f"{milliseconds}ms",
            "application_name": f"{APPLICATION_NAME}/{lease}",
            LEASE: lease,
            "search_path": _NO_SEARCH_PATH,
            # What limits an application's statements is not meant for a revision.
            "statement_timeout": "0",
            "idle_in_transaction_session_timeout": "0",
            "transaction_timeout": "0",
            # A statement whose client was killed ends, and its locks with it.
            "client_connection_check_interval": "5s",
        }
        for name, value in wanted.items():
            self._set(name, value)

    def _set(self, name: str, value: str) -> None:
        try:
            with self.connection.begin():
                before = self.connection.scalar(_GET, {"name": name})
                self.connection.execute(_SET, {"name": name, "value": value})
        except DBAPIError as error:
            # Not known to older servers, or not possible on this one's system.
            if sqlstate(error) not in _NOT_THERE:
                raise
            return
        self._before.setdefault(name, before or "")

    def take_down(self) -> None:
        """Undo all of it, for the connection may be the caller's."""
        with self.connection.begin():
            for name, value in self._before.items():
                self.connection.execute(_SET, {"name": name, "value": value})
        if self._isolation is not None:
            self.connection.execution_options(isolation_level=self._isolation)

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
                    f"CREATE TABLE IF NOT EXISTS {SCHEMA}.{VERSION_TABLE} (version_num"
                    f" VARCHAR(32) NOT NULL CONSTRAINT {VERSION_TABLE}_pkc PRIMARY KEY)"
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


class _BlockingUnitOfWork:
    """Transactions of a migration's connection, for services."""

    def __init__(self, link: GateLink) -> None:
        self._link = link

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator[Repositories]:
        """See :class:`~pgconductor.services.unit_of_work.UnitOfWork`."""
        with self._link.connection.begin():
            yield sql_repositories(BlockingExecutor(self._link.connection))
