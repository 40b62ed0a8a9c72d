"""Alembic's environment for the schema ``pgconductor``: online and offline, asyncpg or psycopg.

Around an upgrade or a downgrade stands :class:`pgconductor.services.migrating.Migration`, which
asks orchestrators to stop where a revision breaks them, and waits.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from importlib.util import find_spec
from logging.config import fileConfig
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import context
from sqlalchemy.ext.asyncio import AsyncEngine

from pgconductor.domain.migrations import MigrationOutcome
from pgconductor.models import SCHEMA, VERSION_TABLE, Base
from pgconductor.schema import record_stamp, revisions
from pgconductor.schema.authoring import needs_no_database, number_revision
from pgconductor.schema.history import check_script, check_section
from pgconductor.services.gate import GateLink
from pgconductor.services.interrupts import terminable, terminable_here
from pgconductor.services.migrating import Migration
from pgconductor.services.migration_arguments import read_arguments
from pgconductor.services.pooling import make_engine
from pgconductor.settings import Settings, normalise_url

config = context.config
wanted = config.attributes.get("configure_logger", True)
# An application's own ini file may leave logging to the application.
if wanted and config.config_file_name is not None and config.file_config.has_section("loggers"):
    fileConfig(config.config_file_name, disable_existing_loggers=False)


def compared(name: str | None, type_: str, parents: Mapping[str, str | None]) -> bool:
    """Whether the comparison with the models looks at it."""
    if type_ == "schema":
        return name == SCHEMA
    # An application's history, where somebody's search_path begins with our schema.
    theirs = type_ == "table" and name == "alembic_version"
    return parents.get("schema_name") == SCHEMA and not theirs


OPTIONS: dict[str, Any] = {
    "target_metadata": Base.metadata,
    "include_schemas": True,
    "include_name": compared,
    "version_table": VERSION_TABLE,
    "version_table_schema": SCHEMA,
    "transaction_per_migration": True,
    "on_version_apply": record_stamp,
    "process_revision_directives": number_revision,
    "compare_server_default": False,
}
if find_spec("alembic.ext") and find_spec("alembic.ext.checkconstraint_byname"):
    # Since 1.19.2, and left out unless it is asked for: CHECK constraints, by their names alone.
    OPTIONS["autogenerate_plugins"] = [
        "alembic.autogenerate.*",
        "alembic.ext.checkconstraint_byname",
    ]
# Alembic's own names of what it was asked to do.
WAYS = {"upgrade": True, "downgrade": False}
# Whoever calls Alembic from Python gets errors of their types; the command line, exit codes.
BY_COMMAND_LINE = config.cmd_opts is not None
logger = logging.getLogger("pgconductor.migration")


def database_url(settings: Settings, url: str | None) -> sa.URL:
    given = url or config.attributes.get("database_url") or config.get_main_option("sqlalchemy.url")
    if not given:
        return settings.require_url(direct=True)
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
    # IF NOT EXISTS would demand the right to create schemas even where there is nothing to do.
    context.execute(
        f"DO $$ BEGIN IF to_regnamespace('{SCHEMA}') IS NULL THEN"
        f" CREATE SCHEMA {SCHEMA}; END IF; END $$"
    )
    with context.begin_transaction():
        context.run_migrations()


def run_on(connection: sa.Connection, settings: Settings) -> None:
    if connection.in_transaction():
        # Alembic would take this transaction for the caller's own and commit nothing.
        raise RuntimeError("the connection for migrations must not be in a transaction")
    raw = connection.connection.dbapi_connection
    if raw is not None and connection.dialect.detect_autocommit_setting(raw):
        raise RuntimeError("the connection for migrations must not commit every statement")
    context.configure(connection=connection, **OPTIONS)
    opts = context.get_context().opts
    asked = opts.get("fn")
    link = GateLink(connection, config.attributes.get("report") or told)
    migration = Migration(
        link,
        config.attributes.get("migration_options") or settings.migration_options,
        revisions(Path(context.script.dir)),
        pooled=config.attributes.get("pooled", settings.pooled),
    )
    # For whoever has to say how far it came when it was told to stop.
    config.attributes["migration"] = migration
    way = WAYS.get(getattr(asked, "__name__", ""))
    if way is None or asked is None:
        # `current` only reads, also on a database where nothing is installed.
        if not opts.get("dont_mutate"):
            migration.make_version_table()
        with link.plain_names(), context.begin_transaction():
            context.run_migrations()
        return

    def steps(heads: Any, migration_context: Any) -> Iterable[Any]:
        return migration.steps(lambda: asked(heads, migration_context), upgrade=way)

    def attempt() -> None:
        context.configure(connection=connection, fn=steps, **OPTIONS)
        with context.begin_transaction():
            context.run_migrations()

    finished(migration.execute(attempt), migration)


def told(line: str) -> None:
    if BY_COMMAND_LINE:
        print(f"pgconductor: {line}", file=sys.stderr, flush=True)  # noqa: T201 - Alembic's command line
    else:
        logger.warning("%s", line)


def finished(outcome: MigrationOutcome, migration: Migration) -> None:
    keep: Callable[[MigrationOutcome], None] | None = config.attributes.get("finished")
    if keep is not None:
        keep(outcome)
    elif migration.too_new is not None:
        raise migration.too_new
    elif BY_COMMAND_LINE:
        told(str(outcome))


async def run_async(engine: AsyncEngine, settings: Settings) -> None:
    try:
        async with engine.connect() as connection:
            await connection.run_sync(run_on, settings)
    finally:
        await engine.dispose()


def run_online() -> None:
    settings, url = read_arguments(list(context.get_x_argument()))
    given = config.attributes.get("connection")
    if isinstance(given, sa.Connection):
        run_on(given, settings)
        return
    if isinstance(given, sa.Engine):
        with given.connect() as connection:
            run_on(connection, settings)
        return
    if given is not None:
        # Ignored, it would have another database migrated than the one that was meant.
        raise TypeError(
            f"the connection for migrations must be a Connection or an Engine of SQLAlchemy, not "
            f"{type(given).__name__}; of an AsyncConnection, use run_sync"
        )
    address = database_url(settings, url)
    if address.drivername == "postgresql+psycopg":
        engine = sa.create_engine(address, poolclass=sa.NullPool)
        ended = terminable_here() if BY_COMMAND_LINE else nullcontext()
        with ended, engine.connect() as connection:
            run_on(connection, settings)
        return
    work = run_async(make_engine(address, pooled=settings.pooled, poolclass=sa.NullPool), settings)
    asyncio.run(terminable(work) if BY_COMMAND_LINE else work)


def run() -> None:
    check_section(config)
    check_script(context.script)
    # Refuses to go on if any revision does not declare what it must.
    revisions(Path(context.script.dir))
    if needs_no_database(context):
        return
    if context.is_offline_mode():
        run_offline()
    else:
        run_online()


if BY_COMMAND_LINE and not getattr(config.cmd_opts, "raiseerr", False):
    from pgconductor.cli.errors import exiting

    with exiting():
        run()
else:
    run()
