"""What a database error means, by its SQLSTATE; its text only tells whose object is missing."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from asyncpg.exceptions import (
    IntegrityConstraintViolationError,
    InternalClientError,
    PostgresConnectionError,
    PostgresError,
)
from asyncpg.exceptions import InterfaceError as DriverInterfaceError
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from pgconductor.exceptions import SchemaMissing

__all__ = [
    "StatementTimeout",
    "as_sqlalchemy",
    "is_data_error",
    "is_lost",
    "is_of_the_statement",
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
# Conflicts, a server that stops, starts or is full, a statement that took too long, a server that
# has become a read-only standby: another try may succeed, on another connection if need be.
_TRANSIENT: Final = frozenset(
    {
        "40001",
        "40P01",
        "55P03",
        "57P01",
        "57P02",
        "57P03",
        "57P05",
        "57014",
        "53300",
        "53400",
        "25006",
    }
)


# Somebody else's transaction stood in the way: a serialization failure, a deadlock, a lock_timeout.
_CONFLICTS: Final = frozenset({"40001", "40P01", "55P03"})


class StatementTimeout(TimeoutError):
    """There was a connection, and what was sent had no answer within ``command_timeout``."""


def sqlstate(error: BaseException) -> str | None:
    """The SQLSTATE of a database error, or None where it has none."""
    origin = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(origin, "sqlstate", None)
    return code if isinstance(code, str) else None


def is_transient(error: BaseException) -> bool:
    """Whether the same statement may succeed later: a conflict, or the database out of reach."""
    code = sqlstate(error)
    if code is not None:
        return code in _TRANSIENT or code.startswith("08")
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    # A driver whose connection breaks raises its own errors, without a SQLSTATE.
    return isinstance(
        error,
        OSError
        | TimeoutError
        | InterfaceError
        | OperationalError
        | PoolTimeout
        | DriverInterfaceError
        | InternalClientError,
    )


def is_lost(error: BaseException) -> bool:
    """Whether it says nothing of what was sent: a conflict, or the database out of reach.

    A statement that was cancelled for taking too long (57014) may have been too large.
    """
    return is_transient(error) and sqlstate(error) != "57014"


def is_of_the_statement(error: BaseException) -> bool:
    """Whether a smaller statement might have passed: it took too long, or met a lock."""
    code = sqlstate(error)
    if code is None:
        return isinstance(error, StatementTimeout)
    return code == "57014" or code in _CONFLICTS or code[:2] in {"22", "23", "P0"}


def trouble(error: BaseException) -> str:
    """What kind of trouble a transient error means, in a few words for the log."""
    code = sqlstate(error)
    if isinstance(error, StatementTimeout):
        return "a statement took longer than command_timeout"
    if code == "57014":
        return "a statement was cancelled, as statement_timeout does"
    if code == "55P03":
        return "a lock was not free in time"
    if code in _CONFLICTS:
        return "another transaction stood in the way"
    return "no database" if is_transient(error) else "a statement failed"


def is_undefined(error: BaseException) -> bool:
    """Whether a statement names what is not there: a column, a table or a function."""
    return sqlstate(error) in {"42703", "42P01", "42883"}


def is_data_error(error: BaseException) -> bool:
    """Whether some value in the statement is at fault, so that the rest would pass without it."""
    code = sqlstate(error)
    # P0: raised by a trigger of the user's on our table.
    return code is not None and code[:2] in {"22", "23", "54", "P0"}


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
