"""Give a server SQL commands from blocking code."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import asyncpg

from pgconductor.dev.address import SUPERUSER, Address
from pgconductor.dev.errors import EmbeddedServerError

_TIMEOUT = 60.0


def execute(address: Address, commands: Sequence[str]) -> None:
    """Carry out commands in the database ``postgres``, each in a transaction of its own.

    A thread of its own makes this work below a running event loop too. (Not every provider
    ships psql, and asyncpg is there anyway.)

    Args:
        address: The server.
        commands: The commands.

    Raises:
        EmbeddedServerError: The server refused one, or could not be reached.
    """
    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(asyncio.run, _execute(address, commands)).result()


async def _execute(address: Address, commands: Sequence[str]) -> None:
    try:
        connection = await asyncpg.connect(
            host=str(address.socket_dir),
            port=address.port,
            user=SUPERUSER,
            database="postgres",
            ssl=False,
            timeout=_TIMEOUT,
            command_timeout=_TIMEOUT,
        )
        try:
            for command in commands:
                await connection.execute(command)
        finally:
            await connection.close()
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise EmbeddedServerError(f"The embedded server did not obey: {error}") from error


def quote_identifier(name: str) -> str:
    """Return a name as SQL spells it.

    Args:
        name: Any name.

    Returns:
        The quoted name.

    Raises:
        ValueError: Postgres cannot have such a name.
    """
    if not name or "\0" in name:
        raise ValueError(f"Not a name in Postgres: {name!r}")
    return '"' + name.replace('"', '""') + '"'
