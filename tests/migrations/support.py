"""Alembic by its command line and by its Python interface, and what a database's catalogs say."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar

from alembic.config import Config

from pgconductor.schema import alembic_config, script_location
from tests.support.processes import UNMEASURED
from tests.support.servers import connect

ROOT = Path(__file__).resolve().parents[2]
T = TypeVar("T")
Rows = list[tuple[Any, ...]]

# What makes up a schema, each query ordered, names and definitions as Postgres itself writes them.
CATALOG = {
    "relations": """
        SELECT c.relname, c.relkind::text, c.relpersistence::text, c.reloptions
        FROM pg_class c WHERE c.relnamespace = 'pgconductor'::regnamespace ORDER BY 1
    """,
    "columns": """
        SELECT c.relname, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
               pg_get_expr(d.adbin, d.adrelid), a.attidentity::text, a.attgenerated::text
        FROM pg_attribute a
        JOIN pg_class c ON c.oid = a.attrelid
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE c.relnamespace = 'pgconductor'::regnamespace AND c.relkind IN ('r', 'c')
          AND a.attnum > 0 AND NOT a.attisdropped
        ORDER BY 1, 2
    """,
    "constraints": """
        SELECT k.conrelid::regclass::text, k.conname, pg_get_constraintdef(k.oid)
        FROM pg_constraint k WHERE k.connamespace = 'pgconductor'::regnamespace ORDER BY 1, 2
    """,
    "indexes": """
        SELECT pg_get_indexdef(i.indexrelid), i.indisvalid
        FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
        WHERE c.relnamespace = 'pgconductor'::regnamespace ORDER BY 1
    """,
    "functions": """
        SELECT pg_get_functiondef(p.oid), p.proacl::text
        FROM pg_proc p WHERE p.pronamespace = 'pgconductor'::regnamespace
        ORDER BY p.proname, pg_get_function_identity_arguments(p.oid)
    """,
    "triggers": """
        SELECT pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
        WHERE c.relnamespace = 'pgconductor'::regnamespace AND NOT t.tgisinternal ORDER BY 1
    """,
}

# What an application's own environment may look like: it knows nothing of us.
PLAIN_ENVIRONMENT = """
import sqlalchemy as sa
from alembic import context

url = sa.make_url(context.config.attributes["database_url"]).set(drivername="postgresql+psycopg")
with sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
    context.configure(
        connection=connection,
        version_table="pgconductor_version",
        version_table_schema="pgconductor",
    )
    with context.begin_transaction():
        context.run_migrations()
"""


def catalog(url: str) -> dict[str, Rows]:
    """Everything in our schema."""
    with connect(url) as connection:
        if connection.execute("SELECT to_regnamespace('pgconductor')").fetchone() == (None,):
            return {}
        return {part: list(connection.execute(query.encode())) for part, query in CATALOG.items()}


def rows(url: str, query: str) -> Rows:
    with connect(url) as connection:
        return list(connection.execute(query.encode()))


def execute(url: str, script: str) -> None:
    """Execute a script of many statements as psql does, without parameters."""
    with connect(url) as connection:
        connection.execute(script.encode())


def gate(url: str) -> Rows:
    return rows(url, "SELECT installed, floor FROM pgconductor.schema_gate")


def ledger(url: str) -> Rows:
    return rows(
        url, "SELECT version, name, breaking FROM pgconductor.schema_migrations ORDER BY version"
    )


def current(url: str) -> Rows:
    return rows(url, "SELECT version_num FROM pgconductor.pgconductor_version")


def in_thread(function: Callable[..., T], *arguments: Any, **keywords: Any) -> T:
    """Call it in a thread of its own: our env.py starts an event loop, the tests have one."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(function, *arguments, **keywords).result()


def config_for(url: str | None, location: Path | None = None) -> Config:
    """A configuration as a program makes it, for our revisions or for a copy of them."""
    config = alembic_config(url)
    config.output_buffer = StringIO()
    if location is not None:
        config.set_main_option("script_location", str(location))
    return config


def written(config: Config) -> str:
    """What commands with ``--sql`` have written."""
    assert isinstance(config.output_buffer, StringIO)
    return config.output_buffer.getvalue()


def alembic(
    *arguments: str,
    url: str | None = None,
    cwd: Path | None = None,
    environment: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Call the command line, from the checkout unless told otherwise; warnings are errors."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in {"DATABASE_URL", "PYTHONPATH"} and not name.startswith("PGCONDUCTOR_")
    }
    given = {"PGCONDUCTOR_DATABASE_URL": url} if url else {}
    return subprocess.run(
        [str(Path(sys.executable).parent / "alembic"), *arguments],
        cwd=cwd or ROOT,
        env=inherited | UNMEASURED | {"PYTHONWARNINGS": "error"} | given | (environment or {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def succeeded(done: subprocess.CompletedProcess[str]) -> str:
    """The standard output of a command that must have succeeded."""
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def copy_of_revisions(folder: Path) -> Path:
    """A copy of our script location, to be changed."""
    copy = folder / "revisions"
    shutil.copytree(script_location(), copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def add_revision(
    location: Path,
    revision: str,
    down_revision: str,
    *,
    metadata: str,
    change: str = "def change(): pass",
    change_back: str = "def change_back(): pass",
) -> Path:
    """Write a revision that changes nothing but the ledger, unless it is told what."""
    path = location / "versions" / f"{revision}_added.py"
    path.write_text(
        "from alembic import op\n"
        "from pgconductor.schema import applying, reverting\n"
        f"revision = {revision!r}\n"
        f"down_revision = {down_revision!r}\n"
        f"{metadata}\n"
        "GIVEN = {key: globals().get(key) for key in ('name', 'breaking')}\n"
        "def upgrade():\n"
        "    with applying(op, revision, **GIVEN):\n"
        "        change()\n"
        "def downgrade():\n"
        "    with reverting(op, revision, **GIVEN):\n"
        "        change_back()\n"
        f"{textwrap.dedent(change)}\n"
        f"{textwrap.dedent(change_back)}\n",
        encoding="utf-8",
    )
    return path
