"""What is accepted at the boundary: alphabets, ranges, sizes. The database checks them too."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from pgconductor.exceptions import ConfigurationError, InvalidInput, InvalidName, NaiveDatetime

__all__ = [
    "DEFAULT_MAX_ATTEMPTS",
    "DEFAULT_MAX_CRASHES",
    "MAX_BATCH",
    "MAX_DELAY",
    "MAX_ERROR_CHARS",
    "MAX_KEY_BYTES",
    "MAX_PRIORITY",
    "MAX_STEP_KEY_BYTES",
    "MAX_TRACEBACK_CHARS",
    "check_concurrency",
    "check_count",
    "check_dedupe_key",
    "check_delay",
    "check_duration",
    "check_event",
    "check_id",
    "check_priority",
    "check_queue",
    "check_recorded_key",
    "check_run_at",
    "check_step_key",
    "check_task_key",
    "check_text",
]

MAX_BATCH: Final = 10_000
MAX_KEY_BYTES: Final = 512
MAX_STEP_KEY_BYTES: Final = 500
MAX_DELAY: Final = timedelta(days=3653)
MAX_PRIORITY: Final = 32_767
MAX_ATTEMPTS: Final = 1_000_000
MAX_ERROR_CHARS: Final = 8_000
MAX_TRACEBACK_CHARS: Final = 16_000
DEFAULT_MAX_ATTEMPTS: Final = 3
DEFAULT_MAX_CRASHES: Final = 3

_QUEUE = re.compile(r"[a-z][a-z0-9_-]{0,47}", re.ASCII)
_TASK_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.:/-]{0,127}", re.ASCII)
_REMEMBERED = "a step is remembered by its name"
_FAILED_CALL = re.compile(r"~[0-9]+\Z")
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime(9000, 1, 1, tzinfo=UTC)


def check_queue(name: object, field: str = "queue") -> str:
    """Return ``name`` if it may name a queue: a lower-case letter, then up to 47 of ``a-z0-9_-``.

    Raises:
        InvalidName: It is not a string, or outside that alphabet.
    """
    if not isinstance(name, str) or _QUEUE.fullmatch(name) is None:
        raise InvalidName(
            field,
            f"{name!r} cannot name a queue; use a lower-case letter, then at most 47 of "
            "a-z, 0-9, '_' and '-'",
        )
    return name


def check_task_key(name: object, field: str = "task") -> str:
    """Return ``name`` if it may name a task: a letter or ``_``, then up to 127 more characters.

    Raises:
        InvalidName: It is not a string, or outside ``A-Z a-z 0-9 _ . : / -``.
    """
    return _check_dotted(name, field, "a task")


def _check_dotted(name: object, field: str, what: str) -> str:
    if not isinstance(name, str) or _TASK_KEY.fullmatch(name) is None:
        raise InvalidName(
            field,
            f"{name!r} cannot name {what}; use a letter or '_', then at most 127 of "
            "A-Z, a-z, 0-9, '_', '.', ':', '/' and '-'",
        )
    return name


def check_event(name: object, field: str = "event") -> str:
    """Return ``name`` if it may name an event; the alphabet is that of tasks.

    Raises:
        InvalidName: It is not a string, or outside that alphabet.
    """
    return _check_dotted(name, field, "an event")


def check_id(value: object, field: str) -> UUID:
    """Return ``value`` if it is a UUID.

    Raises:
        InvalidInput: It is not, though it may be the text of one.
    """
    if not isinstance(value, UUID):
        raise InvalidInput(field, f"a UUID is due, not {type(value).__name__}")
    return value


def check_text(value: object, field: str) -> str:
    """Return ``value`` if Postgres can store it as text.

    Raises:
        InvalidInput: It is not a string, or holds a NUL or a lone surrogate.
    """
    if not isinstance(value, str):
        raise InvalidInput(field, f"a string is due, not {type(value).__name__}")
    if "\x00" in value:
        raise InvalidInput(field, "holds a NUL character, which Postgres cannot store")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(field, f"holds a lone surrogate at position {error.start}") from error
    return value


def check_dedupe_key(key: object, field: str = "dedupe_key") -> str:
    """Return ``key`` if it may be a dedupe key: 1 to 512 bytes, no control characters.

    Raises:
        InvalidName: It is empty, too long, or holds a control character.
        InvalidInput: It is not a string that Postgres can store.
    """
    return _check_key(key, field, "leave it out, or name what must not happen twice")


def check_step_key(key: object, field: str = "key") -> str:
    """Return ``key`` if it may name a step: 1 to 500 bytes, no control characters.

    Nor may it end like ``~1``: so the record of a call that failed is named, which needs some room.

    Raises:
        InvalidName: It is empty, too long, holds a control character, or ends so.
        InvalidInput: It is not a string that Postgres can store.
    """
    text = _check_key(key, field, _REMEMBERED, MAX_STEP_KEY_BYTES)
    if _FAILED_CALL.search(text):
        raise InvalidName(field, "ends in '~' and a number, as the record of a failed call does")
    return text


def check_recorded_key(key: object, field: str) -> str:
    """Return ``key`` if it may be on record: as a step's, or as that of a call that failed.

    Raises:
        InvalidName: It is empty, longer than 512 bytes, or holds a control character.
        InvalidInput: It is not a string that Postgres can store.
    """
    return _check_key(key, field, _REMEMBERED)


def _check_key(key: object, field: str, why: str, most: int = MAX_KEY_BYTES) -> str:
    # Of an enumeration's member, the value: how it is formatted depends on its class.
    text = str.__str__(check_text(key, field))
    if not text.strip():
        raise InvalidName(field, f"is empty; {why}")
    if len(text.encode()) > most:
        raise InvalidName(field, f"is longer than {most} bytes; hash it")
    if not text.isprintable():
        raise InvalidName(field, "holds a control or otherwise invisible character")
    return text


def check_run_at(when: object, field: str = "run_at") -> datetime:
    """Return ``when`` if it is an aware datetime from 1970 to 8999.

    Raises:
        NaiveDatetime: It has no time zone.
        InvalidInput: It is no datetime, or out of range.
    """
    if not isinstance(when, datetime):
        raise InvalidInput(field, f"a datetime is due, not {type(when).__name__}")
    if when.tzinfo is None or when.utcoffset() is None:
        raise NaiveDatetime(field)
    if not _EARLIEST <= when < _LATEST:
        raise InvalidInput(field, f"{when} is out of range (years 1970 to 8999)")
    return when


def check_delay(delay: object, field: str = "delay") -> timedelta:
    """Return ``delay`` if it is a timedelta from zero to ten years.

    Raises:
        InvalidInput: It is no timedelta, negative, or longer than that.
    """
    if not isinstance(delay, timedelta):
        raise InvalidInput(field, f"a timedelta is due, not {type(delay).__name__}")
    if delay < timedelta(0):
        raise InvalidInput(field, f"{delay} is negative; use timedelta(0) for at once")
    if delay > MAX_DELAY:
        raise InvalidInput(field, f"{delay} is longer than ten years")
    return delay


def check_duration(duration: object, field: str) -> timedelta:
    """Return ``duration`` if it is a timedelta above zero, at most ten years.

    Raises:
        InvalidInput: It is not.
    """
    checked = check_delay(duration, field)
    if checked == timedelta(0):
        raise InvalidInput(field, "must be longer than zero")
    return checked


def check_count(value: object, field: str, *, least: int = 1, most: int = MAX_ATTEMPTS) -> int:
    """Return ``value`` if it is a whole number in the range; a bool is none.

    Raises:
        InvalidInput: It is not.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidInput(field, f"a whole number is due, not {type(value).__name__}")
    if not least <= value <= most:
        raise InvalidInput(field, f"{value} is out of range ({least} to {most})")
    return value


def check_concurrency(value: int | None, default: int) -> int:
    """Return ``value``, or the default for None, if so many handlers may be executed at once.

    Raises:
        ConfigurationError: It is not 1 to 10,000.
    """
    if value is None:
        return default
    if isinstance(value, bool) or not 1 <= value <= 10_000:
        raise ConfigurationError(f"concurrency must be 1 to 10,000, not {value!r}")
    return value


def check_priority(priority: object, field: str = "priority") -> int:
    """Return ``priority`` if it is a whole number from -32767 to 32767; higher is sooner.

    Raises:
        InvalidInput: It is not.
    """
    return check_count(priority, field, least=-MAX_PRIORITY, most=MAX_PRIORITY)
