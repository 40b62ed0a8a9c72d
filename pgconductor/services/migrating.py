"""One upgrade or downgrade: what happens between the steps of Alembic, and when one fails.

Alembic decides which revisions are due and executes them, each in its own transaction; this stands
around it. Before each revision the lease is taken, and for one that shuts orchestrators out they
are waited for. A revision that does not get its locks is rolled back and tried again, so that
nobody queues behind it for long; after a lost connection the database is asked how far it came.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any, Final

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from pgconductor.domain.backoff import Backoff
from pgconductor.domain.migrations import (
    MigrationOptions,
    MigrationOutcome,
    MigrationResult,
)
from pgconductor.exceptions import (
    DowngradeRefused,
    DrainTimeout,
    HistoryMismatch,
    LeaseLost,
    LeaseTimeout,
    LockWaitTimeout,
    MigrationAborted,
    MigrationError,
    NotDrained,
    PgconductorError,
    RevisionFailed,
    SchemaTooNew,
)
from pgconductor.schema import Revision
from pgconductor.services.drain import Drain, ShutOut
from pgconductor.services.gate import GateLink
from pgconductor.services.lease import Lease
from pgconductor.services.preflight import check_history, check_server
from pgconductor.services.retries import Retries, failed, said

__all__ = ["Migration"]

logger = logging.getLogger("pgconductor.migration")

_RESULTS: Final[dict[type[MigrationError], MigrationResult]] = {
    LeaseTimeout: MigrationResult.LEASE_HELD,
    LeaseLost: MigrationResult.LEASE_HELD,
    DrainTimeout: MigrationResult.NOT_DRAINED,
    LockWaitTimeout: MigrationResult.NOT_LOCKED,
    MigrationAborted: MigrationResult.ABORTED,
}


class _StartOver(Exception):
    """The database is not where Alembic found it: have it look again."""


class Migration:
    """Stands around Alembic for one command.

    Args:
        link: The connection that Alembic migrates on.
        options: How patient it is.
        revisions: Those at hand.
        pooled: False if the user says that no transaction pooler is between.
    """

    def __init__(
        self,
        link: GateLink,
        options: MigrationOptions,
        revisions: Iterable[Revision],
        *,
        pooled: bool | None = None,
    ) -> None:
        self._link = link
        self._options = options
        self._revisions = {one.version: one for one in revisions}
        self._pooled = pooled
        self._lease = Lease(link, options)
        self._drain = Drain(link, self._lease, options)
        # From where this migration has moved the database, once it has; and where that is now.
        self._from: int | None = None
        self._to = 0
        #: Set where this release cannot work on the database, and must not touch it.
        self.too_new: SchemaTooNew | None = None
        self._current: int | None = None
        # What Alembic was asked for, as it understood it at first: `+1` must not be counted again
        # from where an earlier try has come to.
        self._wanted: list[Any] | None = None
        self._retries = Retries(link, options)

    # What the environment calls.

    def execute(self, attempt: Callable[[], None]) -> MigrationOutcome:
        """Have Alembic do its part, again where another try may succeed.

        Args:
            attempt: Configures Alembic's context and executes its migrations; it passes each
                iterable of steps through :meth:`steps`.

        Raises:
            MigrationError: It was not done, or not to its end.
        """
        try:
            while True:
                try:
                    self._prepare()
                    attempt()
                    break
                except _StartOver:
                    self._link.settle()
                except HistoryMismatch:
                    if not self._overtaken():
                        raise
                except NotDrained:
                    # The intent had expired, for this process stood still: wait for them again.
                    self._link.settle()
                except (DBAPIError, OSError) as error:
                    self._retries.after(error, revision=self._current, at=self._to)
            return self.outcome(self._result())
        except MigrationError as error:
            error.outcome = self.outcome(_RESULTS.get(type(error), MigrationResult.FAILED))
            raise
        except (PgconductorError, DBAPIError, OSError):
            raise
        except Exception as error:
            if self._current is None:
                raise
            raise RevisionFailed(self._current, self._failed(str(error))) from error
        finally:
            self._end()

    def steps(self, steps: Callable[[], Iterable[Any]], *, upgrade: bool) -> Iterator[Any]:
        """Alembic's steps, each given only when it may be executed.

        Args:
            steps: Asks Alembic for them.
            upgrade: The way of the command.
        """
        self._link.settle()
        if not self._fits(upgrade=upgrade):
            return
        for step in self._remaining(steps):
            self._before(step)
            yield step
            self._applied()

    def _remaining(self, steps: Callable[[], Iterable[Any]]) -> list[Any]:
        """What is still to do of what Alembic was asked for."""
        if self._wanted is None:
            self._wanted = list(steps())
            for step in self._wanted:
                self._check_reversible(step)
        return [one for one in self._wanted if one.is_upgrade == (_number(one) > self._to)]

    def _check_reversible(self, step: Any) -> None:
        revision = self._revisions[_number(step)]
        if not step.is_upgrade and revision.irreversible:
            raise DowngradeRefused(
                f"revision {revision.version:04d} ({revision.name}) cannot be taken back, and "
                "nothing was; restore a backup, or write a revision that goes forward"
            )

    def outcome(self, result: MigrationResult) -> MigrationOutcome:
        """What has been done so far.

        Args:
            result: How it has ended.
        """
        return MigrationOutcome(
            result=result,
            from_version=self._to if self._from is None else self._from,
            to_version=self._to,
            should_shutdown=self.too_new is not None,
            waited=timedelta(seconds=self._link.waited),
            drained=tuple(sorted(self._drain.drained)),
            evicted=tuple(sorted(self._drain.evicted)),
        )

    # Before.

    def _prepare(self) -> None:
        self._link.settle()
        self._current = None
        self._link.read_committed()
        server = self._link.ask(lambda gate: gate.server())
        check_server(server, driver_pid=self._link.server_pid(), pooled=self._pooled)
        self._link.set_up(lock_timeout=self._options.lock_timeout, lease=str(self._lease.id))
        self._retries.connected()
        self.make_version_table()
        if self._lease.held and server.has_gate:
            # After a reconnect, it is the lease of a server process that has ended.
            self._lease.take(still_needed=lambda _installed: True)

    def make_version_table(self) -> None:
        """Make what Alembic needs before the first revision; many may want to at once.

        Raises:
            LeaseTimeout: Somebody else does, and does not end.
        """
        if self._link.ask(lambda gate: gate.server()).has_version_table:
            return
        began, backoff = time.monotonic(), Backoff(0.25, 2.0)
        while not self._link.install():
            if time.monotonic() - began > self._options.lease_wait.total_seconds():
                raise LeaseTimeout("another session is installing pgconductor, and does not end")
            self._link.pause(backoff.next())

    def _fits(self, *, upgrade: bool) -> bool:
        """Compare the database with the revisions at hand; False if there is nothing to do."""
        history, known = self._link.history(), max(self._revisions)
        self.too_new = check_history(history, known, upgrade=upgrade)
        self._to = history.installed
        if self._to > known:
            logger.info("the database is at %04d, ahead of this release", self._to)
        return self._to <= known

    def _overtaken(self) -> bool:
        """Whether a guard refused because another one was quicker, where there was no lease yet."""
        if self._current is None:
            return False
        self._link.settle()
        history = self._link.history()
        return history.agrees and history.installed != self._to

    def _before(self, step: Any) -> None:
        revision = self._revisions[_number(step)]
        self._current = None
        expected = revision.version - 1 if step.is_upgrade else revision.version
        if not self._link.ask(lambda gate: gate.server()).has_gate:
            # The first one: nobody can be registered, and there is no row for a lease.
            self._begin(revision)
            return
        self._take_lease(expected)
        shut_out = _shut_out(revision, upgrade=step.is_upgrade)
        if shut_out is not None:
            self._drain.wait(shut_out)
        what = "applying" if step.is_upgrade else "taking back"
        self._lease.note(
            f"{what} {revision.version:04d}",
            floor=None if shut_out is None else shut_out.floor,
            ceiling=None if shut_out is None else shut_out.ceiling,
        )
        self._begin(revision)
        logger.info("%s revision %04d (%s)", what, revision.version, revision.name)

    def _begin(self, revision: Revision) -> None:
        self._current = revision.version
        if self._from is None:
            self._from = self._to

    def _take_lease(self, expected: int) -> None:
        if not self._lease.held and not self._lease.take(
            still_needed=lambda installed: installed == expected
        ):
            raise _StartOver
        if self._link.history().installed != expected:
            raise _StartOver

    def _applied(self) -> None:
        self._current = None
        self._retries.done()
        self._link.settle()
        self._to = self._link.history().installed

    # After.

    def _result(self) -> MigrationResult:
        if self.too_new is not None:
            return MigrationResult.REFUSED
        if self._from in (None, self._to):
            return MigrationResult.NOTHING_TO_DO
        return MigrationResult.MIGRATED

    def _failed(self, said: str) -> str:
        return failed(self._current or 0, said, at=self._to)

    def _end(self) -> None:
        """Give the lease up, come what may; without, it ends with this connection."""
        try:
            self._link.settle()
            # A way back to nothing takes the gate along.
            if self._lease.held and self._link.ask(lambda gate: gate.server()).has_gate:
                self._lease.release()
            self._link.take_down()
        except (SQLAlchemyError, OSError) as error:
            logger.warning("the lease was not released, and ends by itself: %s", said(error))


def _shut_out(revision: Revision, *, upgrade: bool) -> ShutOut | None:
    if not upgrade:
        what = f"the way back from revision {revision.version:04d} ({revision.name})"
        return ShutOut(what, ceiling=revision.version - 1)
    if revision.breaking:
        return ShutOut(
            f"breaking revision {revision.version:04d} ({revision.name})", floor=revision.version
        )
    return None


def _number(step: Any) -> int:
    """The revision that a step of Alembic's applies or takes back."""
    return int(step.info.up_revision_id)
