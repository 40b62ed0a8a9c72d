"""When a try of a migration fails: whether another one may succeed, and how long to go on."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Final

from sqlalchemy.exc import DBAPIError

from pgconductor.domain.backoff import Backoff
from pgconductor.domain.migrations import MigrationOptions
from pgconductor.exceptions import LockWaitTimeout, PrivilegeMissing, RevisionFailed
from pgconductor.repositories.errors import is_transient, sqlstate
from pgconductor.services.gate import GateLink

__all__ = ["Retries", "failed", "said"]

# lock_not_available, deadlock_detected, serialization_failure: another try may succeed.
_CONTENDED: Final = frozenset({"55P03", "40P01", "40001"})
_FIRST, _LONGEST = 0.5, 10.0
_RECONNECT_WITHIN: Final = timedelta(seconds=60)
#: A revision in which the connection is lost as often as this is what it is lost by.
_LOSSES: Final = 3


class Retries:
    """Pauses before another try, or raises what an error means.

    Args:
        link: The migration's connection.
        options: How patient it is.
    """

    def __init__(self, link: GateLink, options: MigrationOptions) -> None:
        self._link = link
        self._options = options
        self._contended_since: float | None = None
        self._lost_since: float | None = None
        self._losses = 0
        self._backoff = Backoff(_FIRST, _LONGEST)

    def connected(self) -> None:
        """There is a connection, and it answers."""
        self._lost_since = None

    def done(self) -> None:
        """A revision is through."""
        self._contended_since = None
        self._losses = 0
        self._backoff.reset()

    def after(self, error: DBAPIError | OSError, *, revision: int | None, at: int) -> None:
        """Pause before another try.

        Args:
            error: What the last one has ended with.
            revision: Which one it was in; None for none.
            at: Where the database is.

        Raises:
            LockWaitTimeout: It has been tried for want of locks for long enough.
            PrivilegeMissing: The revision needs a privilege.
            RevisionFailed: The revision has failed.
            DBAPIError: It is no revision's error, and no other try would help.
        """
        state = sqlstate(error)
        if revision is not None and isinstance(error, OSError):
            # The revision's own: what SQLAlchemy meets on the connection, it wraps.
            raise RevisionFailed(revision, failed(revision, said(error), at=at)) from error
        if state in _CONTENDED:
            self._link.settle()
            self._contended(revision, at)
        elif state != "57014" and is_transient(error) and not self._too_often(revision):
            self._reconnect(error)
        elif revision is None:
            raise error
        elif state == "42501":
            raise PrivilegeMissing(failed(revision, said(error), at=at)) from error
        else:
            self._link.settle()
            raise RevisionFailed(revision, failed(revision, said(error), at=at), state) from error

    def _too_often(self, revision: int | None) -> bool:
        self._losses += revision is not None
        return self._losses >= _LOSSES

    def _contended(self, revision: int | None, at: int) -> None:
        now = time.monotonic()
        if self._contended_since is None:
            self._contended_since = now
        waited = now - self._contended_since
        left = self._options.lock_wait.total_seconds() - waited
        holders = self._link.ask(lambda gate: gate.lock_holders())
        named = "; ".join(map(str, holders)) or "nobody any more"
        what = "the gate" if revision is None else f"revision {revision:04d}"
        if left <= 0:
            raise LockWaitTimeout(
                f"{what} did not get its locks within {waited:.0f} s; holding locks on tables of "
                f"pgconductor: {named}. The database is at {at:04d}"
            )
        self._link.report(
            f"{what} did not get its locks, which are held by {named}; trying again, "
            f"{left:.0f} s left"
        )
        self._link.pause(min(self._backoff.next(), max(left, 0.05)))

    def _reconnect(self, error: DBAPIError | OSError) -> None:
        """The connection is gone, and perhaps with it a commit that nobody has told us of."""
        now = time.monotonic()
        if self._lost_since is None:
            self._lost_since = now
        elif now - self._lost_since > _RECONNECT_WITHIN.total_seconds():
            raise error
        self._link.reconnect()
        self._link.report(f"the connection was lost ({said(error)}); connecting again")
        self._link.pause(self._backoff.next())


def failed(revision: int, what: str, *, at: int) -> str:
    """The message of a revision that has failed.

    Args:
        revision: Which one.
        what: What the server or the revision says.
        at: Where the database is.
    """
    return (
        f"revision {revision:04d} failed, and was rolled back: {what}. The database is at {at:04d}"
    )


def said(error: BaseException) -> str:
    """An error in one line, without the statement.

    Args:
        error: A database's, or any.
    """
    # SQLAlchemy's text would repeat the statement; the adapter puts the driver's class in front.
    origin = getattr(error, "orig", None) or error
    return str(origin).partition("\n")[0].rpartition(">: ")[2] or type(origin).__name__
