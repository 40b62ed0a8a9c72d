"""What a database error means, by its SQLSTATE; its text only tells whose object is missing.

The table is :mod:`pgconductor.domain.sqlstates`.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

from asyncpg.exceptions import (
    IntegrityConstraintViolationError,
    InternalClientError,
    PostgresConnectionError,
    PostgresError,
)
from asyncpg.exceptions import InterfaceError as DriverInterfaceError
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from pgconductor.domain.sqlstates import Cause, cause_of
from pgconductor.exceptions import SchemaMissing

__all__ = [
    "StatementTimeout",
    "as_sqlalchemy",
    "cause",
    "is_lost",
    "is_of_the_statement",
    "is_queue_full",
    "is_transient",
    "is_undefined",
    "sqlstate",
    "translated",
    "trouble",
]

# undefined_table, invalid_schema_name, undefined_function: only these mean that nothing is there.
_MISSING: Final = frozenset({"42P01", "3F000", "42883"})
# However the server words it, in whatever language: the name stands in it as it is.
_OURS: Final = re.compile(r"(?<![\w.])pgconductor(?!\w)")
#: Lock not available, query canceled; memory that is short is not over soon.
_SOON: Final = frozenset({"55P03", "57014"})


class StatementTimeout(TimeoutError):
    """There was a connection, and what was sent had no answer within ``command_timeout``."""


def sqlstate(error: BaseException) -> str | None:
    """The SQLSTATE of a database error, or None where it has none."""
    origin = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(origin, "sqlstate", None)
    return code if isinstance(code, str) else None


def _source(error: BaseException) -> str | None:
    """The file of the server's source that an error comes from."""
    origin: Any = error.orig if isinstance(error, DBAPIError) else error
    for one in (origin, getattr(origin, "__cause__", None)):
        found = getattr(one, "server_source_filename", None) or getattr(
            getattr(one, "diag", None), "source_file", None
        )
        if isinstance(found, str):
            return found
    return None


def cause(error: BaseException) -> Cause | None:
    """Why a statement was refused; None for an error that is not the database's."""
    code = sqlstate(error)
    if code is not None:
        return cause_of(code, _source(error))
    if isinstance(error, SchemaMissing):
        return Cause.SCHEMA
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return Cause.AWAY
    # A driver whose connection breaks raises its own errors, without a SQLSTATE.
    broken = isinstance(
        error,
        OSError
        | TimeoutError
        | InterfaceError
        | OperationalError
        | PoolTimeout
        | DriverInterfaceError
        | InternalClientError,
    )
    return Cause.AWAY if broken else None


def is_transient(error: BaseException) -> bool:
    """Whether the same statement may succeed later: a conflict, or the database out of reach."""
    if sqlstate(error) in _SOON:
        return True
    return cause(error) in {Cause.CONFLICT, Cause.AWAY} or is_queue_full(error)


def is_queue_full(error: BaseException) -> bool:
    """Whether the server's queue of notifications is full: without one, it would have passed."""
    return sqlstate(error) == "54000" and cause(error) is Cause.FULL


def is_lost(error: BaseException) -> bool:
    """Whether it says nothing of what was sent: a conflict, or the database out of reach.

    A statement that was cancelled for taking too long (57014) may have been too large.
    """
    return is_transient(error) and sqlstate(error) != "57014"


def is_of_the_statement(error: BaseException) -> bool:
    """Whether a smaller statement might have passed: it took too long, met a lock, or a bad row."""
    if isinstance(error, StatementTimeout):
        return True
    return cause(error) in {
        Cause.VALUE,
        Cause.RULE,
        Cause.SLOW,
        Cause.LOCKED,
        Cause.CONFLICT,
    }


def trouble(error: BaseException) -> str:
    """What kind of trouble a transient error means, in a few words for the log."""
    code = sqlstate(error)
    if isinstance(error, StatementTimeout):
        return "a statement took longer than command_timeout"
    if code == "57014":
        return "a statement was cancelled, as statement_timeout does"
    if code == "55P03":
        return "a lock was not free in time"
    if cause(error) is Cause.CONFLICT:
        return "another transaction stood in the way"
    if is_queue_full(error):
        return "the server's queue of notifications is full"
    return "no database" if is_transient(error) else "a statement failed"


def is_undefined(error: BaseException) -> bool:
    """Whether a statement names what is not there: a column, a table or a function."""
    return sqlstate(error) in {"42703", "42P01", "42883"}


def as_sqlalchemy(error: Exception) -> Exception:
    """What SQLAlchemy's session would have raised for an error of the driver."""
    if isinstance(error, IntegrityConstraintViolationError):
        return IntegrityError(None, None, error)
    if isinstance(error, DriverInterfaceError | InternalClientError | PostgresConnectionError):
        return OperationalError(None, None, error)
    if isinstance(error, PostgresError):
        return DBAPIError(None, None, error)
    return error


def _first_line(error: DBAPIError | PostgresError) -> str:
    """What the server says, without the statement that the driver may quote below it."""
    said = error.orig if isinstance(error, DBAPIError) else error
    return str(said).partition("\n")[0]


@contextmanager
def translated() -> Generator[None]:
    """Raise ``SchemaMissing`` where the database says that our schema is not there.

    What is missing may be the user's: his session is flushed before our statement, and his triggers
    are executed within it. Those errors are left as they are.
    """
    try:
        yield
    except (DBAPIError, PostgresError) as error:
        if sqlstate(error) in _MISSING and _OURS.search(_first_line(error)):
            raise SchemaMissing from error
        raise
