"""A real PgBouncer between a test and its server, in transaction mode."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import dict_row
from sqlalchemy import URL, make_url

from pgconductor.dev.account import Account

VARIABLE = "PGCONDUCTOR_TEST_PGBOUNCER"
_PORT = 6432
_PATIENCE = 20.0


def pgbouncer_binary() -> str:
    """The program; the test is skipped where there is none, but for CI, where it fails."""
    # Debian installs it where only root's path leads.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    found = os.environ.get(VARIABLE) or shutil.which("pgbouncer", path=path)
    if found is None:
        missing = f"no pgbouncer is installed; {VARIABLE} may name one"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return found


class PgBouncer:
    """A pooler that gives each transaction one of very few server connections.

    Args:
        binary: The program.
        server: The asyncpg URL of a database behind it; others of that server are found as well.
        folder: For its configuration, its log and its socket.
        pool_size: How many server connections a database has.
        options: Further settings of PgBouncer's own.
    """

    def __init__(
        self, binary: str, server: str, folder: Path, *, pool_size: int, **options: str
    ) -> None:
        self._binary = binary
        self._server = make_url(server)
        self._folder = folder
        self._account = Account.choose()
        self._process: subprocess.Popen[bytes] | None = None
        user = self._server.username or "postgres"
        settings = {
            # A socket in a directory of its own: nobody else can take the port meanwhile.
            "listen_port": str(_PORT),
            "unix_socket_dir": str(folder),
            "auth_type": "trust",
            "auth_file": str(folder / "users.txt"),
            "admin_users": user,
            "logfile": str(folder / "log"),
            "pool_mode": "transaction",
            "default_pool_size": str(pool_size),
            "max_client_conn": "500",
            "server_login_retry": "1",
            **options,
        }
        lines = [f"{name} = {value}" for name, value in settings.items()]
        text = "\n".join(["[databases]", f"* = {self._target()}", "[pgbouncer]", *lines, ""])
        self._config = folder / "pgbouncer.ini"
        self._config.write_text(text)
        (folder / "users.txt").write_text(f'"{user}" ""\n')
        for path in (folder, *folder.iterdir()):
            self._account.give(path)

    def _target(self) -> str:
        url = self._server
        parts = {
            "host": url.host or str(url.query.get("host", "127.0.0.1")),
            "port": str(url.port or url.query.get("port", "5432")),
            "user": url.username,
            "password": url.password,
        }
        return " ".join(f"{name}={value}" for name, value in parts.items() if value is not None)

    def url_for(self, database: str) -> str:
        """The asyncpg URL of a database, through the pooler."""
        query = {"host": str(self._folder), "port": str(_PORT)}
        user = self._server.username or "postgres"
        url = URL.create("postgresql+asyncpg", user, database=database, query=query)
        return url.render_as_string(hide_password=False)

    @property
    def url(self) -> str:
        """The asyncpg URL of the server's own database, through the pooler."""
        assert self._server.database is not None
        return self.url_for(self._server.database)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = subprocess.Popen(
            [self._binary, "-q", str(self._config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=self._account.uid,
            group=self._account.gid,
            extra_groups=None if self._account.uid is None else [],
        )
        deadline = time.monotonic() + _PATIENCE
        while not self._answers():
            assert self._process.poll() is None, self._log()
            assert time.monotonic() < deadline, self._log()
            time.sleep(0.02)

    def stop(self) -> None:
        """End it at once, as a crash would: every client loses its connection."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def ask(self, command: str) -> list[dict[str, object]]:
        """The answer of its console, as in ``SHOW SERVERS``."""
        url = self._plain("pgbouncer")
        with psycopg.connect(url, autocommit=True) as console:
            cursor = psycopg.ClientCursor(console, row_factory=dict_row)
            return cursor.execute(command.encode()).fetchall()

    def _answers(self) -> bool:
        try:
            psycopg.connect(self._plain("pgbouncer"), autocommit=True).close()
        except psycopg.OperationalError:
            return False
        return True

    def _plain(self, database: str) -> str:
        return str(self.url_for(database)).replace("+asyncpg", "", 1)

    def _log(self) -> str:
        log = self._folder / "log"
        return log.read_text() if log.exists() else "pgbouncer does not start, and has no log"


@contextmanager
def pgbouncer(server: str, *, pool_size: int = 3, **options: str) -> Iterator[PgBouncer]:
    """Start a PgBouncer for the server of a URL, and stop it at the end."""
    binary = pgbouncer_binary()
    # Not below pytest's own directories, which other accounts may not enter.
    folder = Path(tempfile.mkdtemp(prefix="pgc-bouncer-"))
    pooler = PgBouncer(binary, server, folder, pool_size=pool_size, **options)
    try:
        pooler.start()
        yield pooler
    finally:
        pooler.stop()
        shutil.rmtree(folder)
