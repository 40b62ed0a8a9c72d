"""Alembic's environment for the schema ``pgconductor``: online and offline, asyncpg or psycopg."""

from __future__ import annotations

import asyncio
from logging.config import fileConfig
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import context
from sqlalchemy.ext.asyncio import AsyncEngine

from pgconductor.models import SCHEMA, Base
from pgconductor.schema import record_stamp, revisions
from pgconductor.services.pooling import make_engine
from pgconductor.settings import Settings, normalise_url

config = context.config
wanted = config.attributes.get("configure_logger", True)
# An application's own ini file may leave logging to the application.
if wanted and config.config_file_name is not None and config.file_config.has_section("loggers"):
    fileConfig(config.config_file_name, disable_existing_loggers=False)

OPTIONS: dict[str, Any] = {
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
# Asked first: IF NOT EXISTS demands the right to create schemas even where it has nothing to do.
FIND_SCHEMA = sa.text("SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = :name")


def database_url() -> sa.URL:
    given = (
        context.get_x_argument(as_dictionary=True).get("url")
        or config.attributes.get("database_url")
        or config.get_main_option("sqlalchemy.url")
    )
    if not given:
        return Settings().require_url(direct=True)
    # psycopg only where it is asked for: it is not among our dependencies.
    asked = str(given).partition(":")[0] in {"postgresql+psycopg", "postgresql+psycopg_async"}
    return normalise_url(given, driver="psycopg" if asked else "asyncpg")


def run_offline() -> None:
    # The paramstyle of the usual driver would double every % in the script.
    context.configure(
        dialect_name="postgresql",
        dialect_opts={"paramstyle": "named"},
        literal_binds=True,
        **OPTIONS,
    )
    context.execute(CREATE_SCHEMA)
    with context.begin_transaction():
        context.run_migrations()


def run_on(connection: sa.Connection) -> None:
    if connection.in_transaction():
        # Alembic would take this transaction for the caller's own and commit nothing.
        raise RuntimeError("the connection for migrations must not be in a transaction")
    context.configure(connection=connection, **OPTIONS)
    # `current` only reads, also on a database where nothing is installed.
    if not context.get_context().opts.get("dont_mutate"):
        with connection.begin():
            if connection.scalar(FIND_SCHEMA, {"name": SCHEMA}) is None:
                connection.execute(sa.text(CREATE_SCHEMA))
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
    if given is not None:
        # Ignored, it would have another database migrated than the one that was meant.
        raise TypeError(
            f"the connection for migrations must be a Connection or an Engine of SQLAlchemy, not "
            f"{type(given).__name__}; of an AsyncConnection, use run_sync"
        )
    url = database_url()
    if url.drivername == "postgresql+psycopg":
        engine = sa.create_engine(url, poolclass=sa.NullPool)
        with engine.connect() as connection:
            run_on(connection)
        return
    asyncio.run(run_async(make_engine(url, pooled=None, poolclass=sa.NullPool)))


# Refuses to go on if any revision does not declare what it must.
revisions(Path(context.script.dir))
if context.is_offline_mode():
    run_offline()
else:
    run_online()
