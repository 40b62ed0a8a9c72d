"""What an error means to the user of a command: one line and an exit code."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import click

from pgconductor.cli.exit_codes import ExitCode
from pgconductor.cli.output import one_line

__all__ = ["CommandFailed", "exiting", "explain"]


class CommandFailed(Exception):
    """A command cannot do what it was asked for.

    Attributes:
        code: How the process ends.
    """

    def __init__(self, message: str, code: ExitCode = ExitCode.USAGE) -> None:
        super().__init__(message)
        self.code = code


@contextmanager
def exiting() -> Generator[None]:
    """End the process by what went wrong, for a command line that is not ours: Alembic's.

    What Alembic says itself, and what is nobody's intention, is left to it.
    """
    from pydantic import ValidationError
    from sqlalchemy.exc import DBAPIError

    from pgconductor.exceptions import PgconductorError

    try:
        yield
    except KeyboardInterrupt:
        print("pgconductor: interrupted", file=sys.stderr)
        sys.exit(ExitCode.INTERRUPTED)
    except (PgconductorError, DBAPIError, OSError, ValidationError) as error:
        if os.environ.get("PGCONDUCTOR_TRACEBACK"):
            traceback.print_exception(error)
        line, code = explain(error)
        print(f"pgconductor: {line}", file=sys.stderr)
        sys.exit(code)


def explain(error: BaseException) -> tuple[str, ExitCode]:
    """The line to print for an error, and the exit code.

    Args:
        error: What a command raised.
    """
    if isinstance(error, CommandFailed):
        return one_line(error), error.code
    if isinstance(error, click.UsageError):
        hint = f" (see {error.ctx.command_path} --help)" if error.ctx is not None else ""
        return one_line(error.format_message()) + hint, ExitCode.USAGE
    if isinstance(error, click.ClickException):
        return one_line(error.format_message()), ExitCode.USAGE
    return _ours(error) or _of_settings(error) or _of_the_database(error) or _unexpected(error)


def _ours(error: BaseException) -> tuple[str, ExitCode] | None:
    from pgconductor import exceptions as ours
    from pgconductor.dev import EmbeddedServerError

    codes: dict[type[BaseException], ExitCode] = {
        ours.ConfigurationError: ExitCode.USAGE,
        ours.InvalidInput: ExitCode.USAGE,
        ours.UnknownQueue: ExitCode.USAGE,
        ours.UnknownTask: ExitCode.NOT_FOUND,
        ours.ExecutionNotFound: ExitCode.NOT_FOUND,
        ours.StepNotFound: ExitCode.NOT_FOUND,
        ours.DedupeConflict: ExitCode.REFUSED,
        ours.ExecutionFailed: ExitCode.FAILED,
        ours.ExecutionCancelled: ExitCode.FAILED,
        ours.ResultTimeout: ExitCode.TIMEOUT,
        ours.SchemaTooNew: ExitCode.SCHEMA_TOO_NEW,
        ours.SchemaBehind: ExitCode.SCHEMA_BEHIND,
        ours.SchemaMissing: ExitCode.SCHEMA_BEHIND,
        ours.RegistrationRefused: ExitCode.SHUTDOWN,
        ours.NotRegistered: ExitCode.EVICTED,
        ours.LeaseTimeout: ExitCode.LEASE_HELD,
        ours.LeaseLost: ExitCode.LEASE_HELD,
        ours.DrainTimeout: ExitCode.NOT_DRAINED,
        ours.NotDrained: ExitCode.NOT_DRAINED,
        ours.LockWaitTimeout: ExitCode.NOT_LOCKED,
        ours.PrivilegeMissing: ExitCode.PRIVILEGE,
        ours.NotPrimary: ExitCode.NOT_PRIMARY,
        ours.PoolerDetected: ExitCode.POOLED,
        ours.RevisionFailed: ExitCode.REVISION_FAILED,
        ours.HistoryMismatch: ExitCode.HISTORY,
        ours.RevisionMetadataError: ExitCode.HISTORY,
        ours.DowngradeRefused: ExitCode.DOWNGRADE_REFUSED,
        ours.MigrationAborted: ExitCode.TERMINATED,
        ours.PgconductorError: ExitCode.ERROR,
    }
    for kind, code in codes.items():
        if isinstance(error, kind):
            return one_line(error), code
    if isinstance(error, EmbeddedServerError):
        # The end of the server's log follows, and is worth its lines.
        return "\n".join(map(one_line, str(error).splitlines())), ExitCode.ERROR
    return None


def _of_settings(error: BaseException) -> tuple[str, ExitCode] | None:
    """Pydantic's findings about the environment, without the values: one may be a password."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError) or error.title != "Settings":
        return None
    found = error.errors(include_url=False, include_input=False, include_context=False)
    return one_line("; ".join(_finding(one["loc"], one["msg"]) for one in found)), ExitCode.USAGE


def _finding(where: tuple[int | str, ...], message: str) -> str:
    name = "_".join(str(part) for part in where).upper()
    if name and not name.endswith("DATABASE_URL"):
        name = f"PGCONDUCTOR_{name}"
    return f"{name}: {message}" if name else f"settings: {message}"


def _of_the_database(error: BaseException) -> tuple[str, ExitCode] | None:
    from sqlalchemy.exc import DBAPIError

    from pgconductor.repositories.errors import is_transient, sqlstate, trouble

    state = sqlstate(error)
    # SQLAlchemy's text would repeat the statement; the driver's own is one sentence.
    origin = (error.orig or error) if isinstance(error, DBAPIError) else error
    said = str(origin).rpartition(">: ")[2]
    if state == "42501":
        return one_line(f"the database refuses: {said}"), ExitCode.PRIVILEGE
    if state == "25006":
        return (
            one_line(
                f"the server is a read-only standby: {said}; try target_session_attrs=primary"
            ),
            ExitCode.NOT_PRIMARY,
        )
    if isinstance(error, socket.gaierror):
        return f"the database's host is not known: {said}", ExitCode.UNREACHABLE
    if state is not None and (state[:2] in {"28", "08", "53"} or state in {"3D000", "57P03"}):
        return one_line(f"the database cannot be used: {said}"), ExitCode.UNREACHABLE
    if is_transient(error) and not isinstance(error, FileNotFoundError | PermissionError):
        said = said or "it did not answer in time"
        what = trouble(error)
        what = "the database is out of reach" if what == "no database" else what
        return one_line(f"{what}: {said}"), ExitCode.UNREACHABLE
    return None


def _unexpected(error: BaseException) -> tuple[str, ExitCode]:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    text = one_line(f"{type(error).__name__}: {error}{where}")
    return f"{text}; PGCONDUCTOR_TRACEBACK=1 shows more", ExitCode.ERROR
