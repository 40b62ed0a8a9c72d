"""What may be said after ``-x`` on Alembic's command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pgconductor.exceptions import ConfigurationError
from pgconductor.settings import Settings

__all__ = ["read_arguments"]

_PREFIX: Final = "migration_"
_PLAIN: Final = "pooled"


def read_arguments(given: Sequence[str]) -> tuple[Settings, str | None]:
    """The settings with what was said on the command line, and the database's URL.

    Every setting of migrations may be given without its prefix, as in ``-x drain_timeout=60``.

    Args:
        given: Texts like ``key=value``.

    Returns:
        Settings, and a URL if one was given.

    Raises:
        ConfigurationError: A key is not known, or has no value.
    """
    names = {
        name.removeprefix(_PREFIX): name
        for name in Settings.model_fields
        if name.startswith(_PREFIX) or name == _PLAIN
    }
    said: dict[str, Any] = {}
    url: str | None = None
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not value or key not in {"url", *names}:
            raise ConfigurationError(
                f"-x {key}: not known, or without a value; known are "
                + ", ".join(f"{one}=" for one in ["url", *names])
            )
        if key == "url":
            url = value
        else:
            said[names[key]] = value
    return Settings(**said), url
