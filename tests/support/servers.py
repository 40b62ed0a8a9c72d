"""Which Postgres the tests talk to, and how they make databases in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url

from pgconductor.dev import Binaries, BinariesNotFoundError, EmbeddedServer, find, find_all

URL_VARIABLE = "PGCONDUCTOR_TEST_URL"
BIN_VARIABLE = "PGCONDUCTOR_TEST_POSTGRES_BIN"


def chosen_binaries() -> Binaries:
    """The installation that the environment chooses: a directory, ``embedded`` or ``system``."""
    wanted = os.environ.get(BIN_VARIABLE, "embedded")
    if wanted not in {"embedded", "system"}:
        return find(wanted)
    for found in find_all():
        if (found.provider == "system") == (wanted == "system"):
            return found
    raise BinariesNotFoundError(f"No {wanted} Postgres binaries were found.")


def start_shared_server() -> EmbeddedServer:
    """Start the one server of the test session, as fast as an unsafe one can be."""
    return EmbeddedServer.start(
        binaries=chosen_binaries(),
        fsync=False,
        settings={
            "max_connections": "300",
            "max_prepared_transactions": "5",
            "max_wal_size": "256MB",
        },
        temp_dir=memory_directory(),
    )


def memory_directory() -> Path | None:
    """A file system in memory with room for a server, if there is one.

    A clone makes hundreds of files: 7 ms there, up to 100 ms on a disk that others use too.
    """
    shared_memory = Path("/dev/shm")
    try:
        room = shutil.disk_usage(shared_memory).free
    except OSError:
        return None
    return shared_memory if room >= 2 * 1024**3 else None


class Server:
    """A running Postgres, of whatever origin, seen through a role that may create databases."""

    def __init__(self, url: str) -> None:
        self._url = make_url(url)
        self._admin: psycopg.Connection[tuple[object, ...]] | None = None
        # A file copy is somewhat faster than the default, but it makes checkpoints, which wait
        # for a disk that is synchronised.
        with self._connected() as admin:
            row = admin.execute("SHOW fsync").fetchone()
            self._strategy = "file_copy" if row == ("off",) else "wal_log"
            self.version = admin.info.server_version // 10_000

    def url_for(self, database: str, driver: str = "asyncpg") -> str:
        url = self._url.set(drivername=f"postgresql+{driver}", database=database)
        return url.render_as_string(hide_password=False)

    def create_database(self, name: str, template: str | None = None) -> None:
        command = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        if template is not None:
            command += sql.SQL(" TEMPLATE {} STRATEGY {}").format(
                sql.Identifier(template), sql.Identifier(self._strategy)
            )
        with self._connected() as admin:
            admin.execute(command)

    def drop_database(self, name: str) -> None:
        command = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        with self._connected() as admin:
            admin.execute(command)

    @contextmanager
    def database(self, template: str | None = None) -> Iterator[str]:
        """A database of a fresh name, dropped at the end; yields the name."""
        name = f"pgc_{os.environ.get('PYTEST_XDIST_WORKER', 'main')}_{uuid4().hex[:12]}"
        self.create_database(name, template)
        try:
            yield name
        finally:
            self.drop_database(name)

    def close(self) -> None:
        if self._admin is not None:
            self._admin.close()
            self._admin = None

    @contextmanager
    def _connected(self) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
        if self._admin is None or self._admin.closed:
            self._admin = connect(self._url.render_as_string(hide_password=False))
        yield self._admin


def connect(url: str) -> psycopg.Connection[tuple[object, ...]]:
    """A blocking connection in autocommit mode to the database of a SQLAlchemy URL."""
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(plain, autocommit=True)


def assert_no_orphans(url: str) -> None:
    """Fail if an execution is held by an orchestrator that has no row."""
    with connect(url) as connection:
        if connection.execute("SELECT to_regclass('pgconductor.executions')").fetchone() == (None,):
            return
        orphans = connection.execute(
            """
            SELECT e.id::text, e.locked_by::text FROM pgconductor.executions e
            WHERE e.state = 'running' AND NOT EXISTS (
                SELECT FROM pgconductor.orchestrators o WHERE o.id = e.locked_by
            )
            """
        ).fetchall()
    if orphans:
        pytest.fail(
            f"{len(orphans)} executions are held by orchestrators without a row "
            f"(mark the test orphans_expected if that is its point): {orphans[:5]}"
        )
