"""An ordinary async environment. What is special is `include_name`."""

from __future__ import annotations

import asyncio
import os

from alembic import context
from models import Base
from sqlalchemy import Connection, NullPool, make_url
from sqlalchemy.ext.asyncio import create_async_engine

from pgconductor.schema import include_name


def migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        include_schemas=True,
        include_name=include_name,  # or autogenerate proposes to drop every table of pgconductor
    )
    with context.begin_transaction():
        context.run_migrations()


async def main() -> None:
    url = make_url(os.environ["PGCONDUCTOR_DATABASE_URL"])
    engine = create_async_engine(url.set(drivername="postgresql+asyncpg"), poolclass=NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(migrate)
    await engine.dispose()


asyncio.run(main())
