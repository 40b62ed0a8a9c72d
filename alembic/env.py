"""Alembic's environment for the schema ``pgconductor``: online and offline, asyncpg or psycopg."""

from __future__ import annotations

import asyncio
from logging.config import fileConfig

import sqlalchemy as sa
from alembic import context
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from pgconductor.models import SCHEMA, Base
from pgconductor.schema import record_stamp, revisions
from pgconductor.settings import Settings, normalise_url

config = context.config
if config.config_file_name is not None and config.attributes.get("configure_logger", True):
    fileConfig(config.config_file_name, disable_existing_loggers=False)

OPTIONS = {
    "target_metadata": Base.metadata,
    "include_schemas": True,
    "include_name": lambda name, type_, parents: (
        name == SCHEMA if type_ == "schema" else parents.get("schema_name") == SCHEMA
    ),
    "version_table_schema": SCHEMA,
    "transaction_per_migration": True,
    "on_version_apply": record_stamp,
    "compare_server_default": False,
}
# Alembic makes its version table before the first revision, and the table needs the schema.
CREATE_SCHEMA = f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"


def database_url() -> sa.URL:
    given = (
        context.get_x_argument(as_dictionary=True).get("url")
        or config.attributes.get("database_url")
        or config.get_main_option("sqlalchemy.url")
    )
    return sa.make_url(given) if given else Settings().require_url(direct=True)


def run_offline() -> None:
    context.configure(dialect_name="postgresql", literal_binds=True, **OPTIONS)
    context.execute(CREATE_SCHEMA)
    with context.begin_transaction():
        context.run_migrations()


def run_on(connection: sa.Connection) -> None:
    if connection.in_transaction():
        # Alembic would take this transaction for the caller's own and commit nothing.
        raise RuntimeError("the connection for migrations must not be in a transaction")
    with connection.begin():
        connection.execute(sa.text(CREATE_SCHEMA))
    context.configure(connection=connection, **OPTIONS)
    with context.begin_transaction():
        context.run_migrations()


async def run_async(engine: AsyncEngine) -> None:
    try:
        async with engine.connect() as connection:
            await connection.run_sync(run_on)
    finally:
        await engine.dispose()


def run_online() -> None:
    given = config.attributes.get("connection")
    if isinstance(given, sa.Connection):
        run_on(given)
        return
    if isinstance(given, sa.Engine):
        with given.connect() as connection:
            run_on(connection)
        return
    url = database_url()
    if url.get_driver_name() in {"psycopg", "psycopg2"}:
        engine = sa.create_engine(url, poolclass=sa.NullPool)
        with engine.connect() as connection:
            run_on(connection)
        return
    asyncio.run(run_async(create_async_engine(normalise_url(url), poolclass=sa.NullPool)))


revisions()  # Refuses to go on if any revision does not declare what it must.
if context.is_offline_mode():
    run_offline()
else:
    run_online()
