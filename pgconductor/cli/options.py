"""Options and types of arguments that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import click

__all__ = ["as_json", "database_url", "duration", "execution_id", "given_url", "instant"]

F = TypeVar("F", bound=Callable[..., Any])


def duration(value: str) -> timedelta:
    """A type of option: seconds, or ISO 8601; from zero to ten years."""
    from pgconductor.domain.limits import MAX_DELAY

    found = _duration(value)
    if found < timedelta(0):
        raise click.BadParameter(f"{value!r} is negative: give 0 for at once")
    if found > MAX_DELAY:
        raise click.BadParameter(f"{value!r} is longer than ten years")
    return found


def _duration(value: str) -> timedelta:
    try:
        return timedelta(seconds=float(value))
    except (ValueError, OverflowError):
        pass
    from pydantic import TypeAdapter, ValidationError

    try:
        # Pydantic takes a time of day as well, which is no duration to anybody else.
        if "P" not in value.upper():
            raise ValueError
        return TypeAdapter(timedelta).validate_python(value)
    except (ValidationError, ValueError):
        raise click.BadParameter(
            f"{value!r} is no duration: give seconds (90) or ISO 8601 (PT1M30S)"
        ) from None


def instant(value: str) -> datetime:
    """A type of option: ISO 8601 with a time zone."""
    example = datetime(2026, 3, 14, 9, 30, tzinfo=UTC).isoformat()
    try:
        when = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(
            f"{value!r} is no date and time in ISO 8601, as in {example}"
        ) from None
    if when.tzinfo is None:
        raise click.BadParameter(f"{value!r} has no time zone; give one, as in {example}")
    return when


def database_url(command: F) -> F:
    """``--database-url``; it may stand before the command as well."""
    return click.option(
        "--database-url",
        metavar="URL",
        help="The database; else PGCONDUCTOR_DATABASE_URL or DATABASE_URL, also from .env.",
    )(command)


def given_url(url: str | None) -> str | None:
    """The command's own ``--database-url``, or the one given before the command."""
    if url is None:
        root = click.get_current_context().find_root()
        url = root.params.get("database_url")
    return url


def as_json(command: F) -> F:
    """``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def execution_id(command: F) -> F:
    """The argument ``ID``."""
    return click.argument("execution_id", metavar="ID", type=click.UUID)(command)
