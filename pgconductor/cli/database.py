"""A conductor for the length of a command, on the database that the user named."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from pgconductor.cli.options import given_url

if TYPE_CHECKING:
    from pgconductor import Conductor, Settings

__all__ = ["settings_for", "with_conductor"]

T = TypeVar("T")


def settings_for(url: str | None) -> Settings:
    """The settings, with the database that was given on the command line.

    Args:
        url: The value of ``--database-url``.

    Raises:
        ConfigurationError: No database is given, or its URL cannot be read.
    """
    from pydantic import SecretStr

    from pgconductor import Settings
    from pgconductor.exceptions import ConfigurationError

    url = given_url(url)
    # The way around a pooler that the environment names may lead to another database.
    overridden: dict[str, Any] = {}
    if url is not None:
        overridden = {"database_url": SecretStr(url), "direct_url": None}
    settings = Settings(**overridden)
    if settings.database_url is None:
        raise ConfigurationError(
            "no database given: pass --database-url, or set PGCONDUCTOR_DATABASE_URL or "
            "DATABASE_URL"
        )
    settings.require_url()
    return settings


def with_conductor(url: str | None, use: Callable[[Conductor], Awaitable[T]]) -> T:
    """Make a conductor, use it, close it.

    Args:
        url: The value of ``--database-url``.
        use: What to do with it.
    """
    from pgconductor import Conductor

    conductor = Conductor(settings_for(url))

    async def used() -> T:
        async with conductor:
            return await use(conductor)

    return asyncio.run(used())
