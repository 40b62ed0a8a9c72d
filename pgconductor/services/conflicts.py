"""Conflicts of transactions: whose they are, and what a session has met that nobody tells of."""

from __future__ import annotations

import re
from typing import Any, Final
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session, SessionTransaction

from pgconductor.repositories.errors import is_queue_full, sqlstate

__all__ = ["Conflicts", "is_aborted", "is_conflict", "is_flush_failed"]

# serialization_failure, deadlock_detected: the same work may succeed in another transaction.
_CONFLICTS: Final = frozenset({"40001", "40P01"})
#: What a statement of ours meets by the doing of others: a deadlock, a lock that was not to be had.
_OF_OTHERS: Final = frozenset({"40P01", "55P03"})
_ABORTED: Final = "25P02"
#: SQLAlchemy's own code for a session whose flush has failed.
_FLUSH_FAILED: Final = "7s2a"
# Of a deadlock, the detail tells who waited for what. Modes have one name in every language; behind
# that of a lock on a tuple, which SELECT FOR UPDATE may take, comes its place in brackets.
_DDL: Final = re.compile(r"(?:AccessExclusive|ShareRowExclusive)Lock(?![^;.]*\()")

_watched: Final[WeakSet[Engine]] = WeakSet()
#: By connection the last error of a statement; one that has aborted the transaction comes last.
_met: Final[WeakKeyDictionary[Connection, tuple[str, bool]]] = WeakKeyDictionary()


def is_conflict(error: BaseException) -> bool:
    """Whether the same work may succeed in another transaction."""
    return isinstance(error, DBAPIError) and (sqlstate(error) in _CONFLICTS or is_queue_full(error))


def is_aborted(error: BaseException) -> bool:
    """Whether it only says that an error before has aborted the transaction."""
    return is_flush_failed(error) or sqlstate(error) == _ABORTED


def is_flush_failed(error: BaseException) -> bool:
    """The same, by SQLAlchemy's word."""
    return isinstance(error, SQLAlchemyError) and error.code == _FLUSH_FAILED


def _is_of_ddl(error: BaseException) -> bool:
    """Whether a deadlock was one with a migration, or somebody else who alters a table."""
    if sqlstate(error) != "40P01":
        return False
    origin: Any = error.orig if isinstance(error, DBAPIError) else error
    for one in (origin, getattr(origin, "__cause__", None)):
        detail = getattr(one, "detail", None) or getattr(
            getattr(one, "diag", None), "message_detail", None
        )
        if isinstance(detail, str):
            return _DDL.search(detail) is not None
    return False


def _note(context: ExceptionContext) -> None:
    error = context.original_exception
    state = sqlstate(error)
    if context.connection is not None and state not in {None, _ABORTED}:
        _met[context.connection] = str(state), _is_of_ddl(error)


class Conflicts:
    """What the connections of a session's transaction have met.

    A handler may catch the error of a statement, and is told later only that its transaction is
    aborted. Whether that was by a conflict is then known from here.

    Args:
        session: The session, before its transaction begins.
    """

    def __init__(self, session: Session) -> None:
        self._connections: list[Connection] = []
        event.listen(session, "after_begin", self._joined)

    def _joined(self, _session: Session, _begun: SessionTransaction, joined: Connection) -> None:
        if joined.engine not in _watched:
            _watched.add(joined.engine)
            event.listen(joined.engine, "handle_error", _note)
        if not any(one is joined for one in self._connections):
            self._connections.append(joined)
            _met.pop(joined, None)

    def caught(self) -> bool | None:
        """Whether it was a conflict that has aborted the transaction, and was caught.

        Returns:
            True if it was by others' doing, False if it was another conflict; None if it was none.
        """
        for one in self._connections:
            state, of_ddl = _met.get(one, ("", False))
            if state in _CONFLICTS:
                return of_ddl
        return None

    @staticmethod
    def met(error: BaseException, *, by_us: bool) -> bool | None:
        """The same of an error that was not caught.

        Args:
            error: The error.
            by_us: Whether a statement of ours, or the commit, has met it.
        """
        if not isinstance(error, DBAPIError):
            return None
        if _is_of_ddl(error):
            return True
        if by_us and (sqlstate(error) in _OF_OTHERS or is_queue_full(error)):
            return True
        return False if is_conflict(error) else None
