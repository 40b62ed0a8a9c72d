"""Write ``catalog.json`` anew, after a change of the revisions: ``python -m`` this module.

It migrates a database of its own, on an embedded server.
"""

from __future__ import annotations

import asyncio
import json

from alembic import command
from sqlalchemy import NullPool, make_url
from sqlalchemy.ext.asyncio import create_async_engine

from pgconductor.dev import EmbeddedServer
from pgconductor.repositories.health import SqlHealthRepository
from pgconductor.schema.catalog import CATALOG_FILE
from pgconductor.schema.locations import alembic_config

__all__ = ["read", "render"]


async def read(url: str) -> dict[str, str]:
    """What a database's catalogs say of our schema.

    Args:
        url: The database.
    """
    address = make_url(url).set(drivername="postgresql+asyncpg")
    engine = create_async_engine(address, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            return await SqlHealthRepository(connection).catalog()
    finally:
        await engine.dispose()


def render(catalog: dict[str, str]) -> str:
    """The text of the file.

    Args:
        catalog: Definitions, by kind and name.
    """
    return json.dumps(catalog, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _write() -> None:
    with EmbeddedServer.start() as server:
        command.upgrade(alembic_config(server.url), "head")
        CATALOG_FILE.write_text(render(asyncio.run(read(server.url))), encoding="utf-8")


if __name__ == "__main__":
    _write()
