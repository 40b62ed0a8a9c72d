"""A real Postgres server as a child of this process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from pgconductor.dev.account import Account
from pgconductor.dev.address import Address
from pgconductor.dev.binaries import Binaries, find
from pgconductor.dev.commands import execute, quote_identifier
from pgconductor.dev.errors import EmbeddedServerError, ServerStateError
from pgconductor.dev.keeper import SIGNALS, Keeper, KeeperGoneError, StopMode
from pgconductor.dev.launch import Launch, Options, release
from pgconductor.dev.layout import Layout, Running
from pgconductor.dev.private_copy import readable
from pgconductor.dev.processes import alive, parent_of

_ATTACH_PATIENCE = 90.0


class EmbeddedServer:
    """A Postgres server that this process started, or that it attached to.

    A server that this process started ends with it, whatever ends it, also a kill -9. Use
    ``start`` or ``attach``; the constructor is private.
    """

    def __init__(
        self,
        layout: Layout,
        running: Running,
        *,
        keeper: Keeper | None = None,
        launch: Launch | None = None,
        kept: bool = True,
    ) -> None:
        self._layout = layout
        self._running: Running | None = running
        self._keeper = keeper
        self._launch = launch
        self._kept = kept
        self._process = os.getpid()

    @classmethod
    def start(
        cls,
        data_dir: str | os.PathLike[str] | None = None,
        *,
        binaries: Binaries | str | os.PathLike[str] | None = None,
        fsync: bool = True,
        tcp: bool = False,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
        temp_dir: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Start a server, or attach to the one that runs in the same directory.

        Args:
            data_dir: Where the server is kept: its data, log and lock. Made and filled when it
                does not exist. Without it the server is temporary and removed when it stops.
            binaries: The installation, or its bin directory, to start; else the first found
                (of the version that an existing data directory needs).
            fsync: False trades safety against a crash of the machine for speed. For tests.
            tcp: Listen on 127.0.0.1 too, with a random password. Else on a Unix socket only.
            port: The port to listen on; implies nothing about ``tcp``. Else a free one.
            settings: Settings of Postgres' own, as postgresql.conf has them.
            temp_dir: Where a temporary server lies; else in the system's temp directory.

        Returns:
            The server. Where one runs in ``data_dir`` already, the other arguments are ignored
            and stopping it is left to the process that started it.

        Raises:
            BinariesNotFoundError: There is no Postgres here.
            ServerStartError: The server, or initdb before it, failed.
            EmbeddedServerError: Anything else is in the way.
        """
        options = Options(
            fsync=fsync,
            tcp=tcp,
            port=port,
            settings=dict(settings or {}),
            temp_dir=None if temp_dir is None else Path(temp_dir).resolve(),
        )
        try:
            if data_dir is None:
                found = _binaries(binaries, None)
                return cls._started(Launch(found, Account.choose(), options), None, None)
            layout = Layout(Path(data_dir).resolve())
            _make_home(layout.home)
            return cls._started_or_attached(layout, binaries, options)
        except OSError as error:
            raise EmbeddedServerError(f"The embedded server cannot start: {error}") from error

    @classmethod
    def attach(cls, data_dir: str | os.PathLike[str]) -> Self:
        """Attach to a server that another process keeps.

        Args:
            data_dir: The directory that the other process named.

        Returns:
            The server; stopping it is left to the other process.

        Raises:
            ServerStateError: No server runs there, or it is another user's.
        """
        layout = Layout(Path(data_dir).resolve())
        attached = cls._attached(layout)
        if attached is None:
            raise ServerStateError.not_running(layout.home)
        return attached

    @classmethod
    def _attached(cls, layout: Layout) -> Self | None:
        try:
            running = layout.published()
            if running is None or not running.address.answers():
                return None
        except PermissionError:
            raise ServerStateError(
                f"The server in {layout.home} is another user's; this one may not attach to it."
            ) from None
        return cls(layout, running)

    @classmethod
    def _started_or_attached(
        cls,
        layout: Layout,
        binaries: Binaries | str | os.PathLike[str] | None,
        options: Options,
    ) -> Self:
        deadline = time.monotonic() + _ATTACH_PATIENCE
        while time.monotonic() < deadline:
            lock = layout.lock()
            if lock is not None:
                try:
                    found = _binaries(binaries, layout.data_version())
                    launch = Launch(found, Account.choose(layout.data), options)
                    return cls._started(launch, layout, lock)
                finally:
                    os.close(lock)
            # The holder is running, starting or stopping.
            attached = cls._attached(layout)
            if attached is not None:
                return attached
            time.sleep(0.01)
        raise ServerStateError(
            f"Another process has held the lock of {layout.home} for long without a server."
        )

    @classmethod
    def _started(cls, launch: Launch, layout: Layout | None, lock: int | None) -> Self:
        launch.binaries = readable(launch.binaries, launch.account)
        keeper = Keeper("immediate" if layout is None else "fast", lock)
        try:
            kept = layout is not None
            layout = layout or launch.temporary_home(keeper)
            running = launch.start_first(keeper, layout)
            layout.publish(running)
        except BaseException:
            release(keeper)
            raise
        return cls(layout, running, keeper=keeper, launch=launch, kept=kept)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = f"pid={self._running.pid}" if self._running is not None else "stopped"
        return f"<{type(self).__name__} {self._layout.home} {state}>"

    @property
    def url(self) -> str:
        """The SQLAlchemy asyncpg URL of the database ``postgres``."""
        return self.url_for("postgres")

    def url_for(self, database: str, driver: str = "asyncpg") -> str:
        """Return the SQLAlchemy URL of a database, which need not exist.

        Args:
            database: The database's name.
            driver: A Postgres driver of SQLAlchemy's, such as ``asyncpg`` or ``psycopg``.

        Returns:
            The URL; on TCP it contains the password.

        Raises:
            ServerStateError: The server has been stopped.
        """
        return self._now.address.url_for(database, driver)

    @property
    def version(self) -> int:
        """The server's major version."""
        return self._now.version

    @property
    def pid(self) -> int:
        """The process id of the postmaster."""
        return self._now.pid

    @property
    def address(self) -> Address:
        """Where the server is reached."""
        return self._now.address

    @property
    def bin_dir(self) -> Path:
        """The binaries that the server was started from."""
        return self._now.bin_dir

    @property
    def home(self) -> Path:
        """The directory of the server: its data, log and lock."""
        return self._layout.home

    @property
    def owned(self) -> bool:
        """Whether this process started the server, so that it may stop it."""
        return self._keeper is not None and self._process == os.getpid()

    def log_tail(self, lines: int = 20) -> list[str]:
        """Return the end of the server's log.

        Args:
            lines: How many lines at most.

        Returns:
            The lines, oldest first.
        """
        return self._layout.log_tail(lines)

    def create_database(
        self,
        name: str,
        template: str | None = None,
        *,
        strategy: Literal["file_copy", "wal_log"] | None = None,
    ) -> None:
        """Create a database.

        Args:
            name: Its name.
            template: A database to clone, with nobody connected to it.
            strategy: How Postgres copies it; else as Postgres likes.

        Raises:
            EmbeddedServerError: The server refused, or could not be reached.
            ValueError: Postgres cannot have such a name.
        """
        command = f"CREATE DATABASE {quote_identifier(name)}"
        if template is not None:
            command += f" TEMPLATE {quote_identifier(template)}"
        if strategy is not None:
            command += f" STRATEGY {quote_identifier(strategy)}"
        execute(self._now.address, [command])

    def drop_database(self, name: str) -> None:
        """Drop a database, and the connections to it; nothing happens if there is none.

        Args:
            name: Its name.

        Raises:
            EmbeddedServerError: The server refused, or could not be reached.
            ValueError: Postgres cannot have such a name.
        """
        command = f"DROP DATABASE IF EXISTS {quote_identifier(name)} WITH (FORCE)"
        execute(self._now.address, [command])

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop the server and start it again at the same address.

        Args:
            mode: ``fast`` rolls back what is open; ``immediate`` is a crash, from which the
                server recovers by its write-ahead log.

        Raises:
            ServerStateError: The server is not ours to stop, or has been stopped.
            ServerStartError: It did not come up again.
        """
        now, keeper, launch = self._now, self._keeper, self._launch
        if not self.owned or keeper is None or launch is None:
            raise ServerStateError("Only the process that started the server may restart it.")
        keeper.stop(mode)
        pid = launch.start(keeper, self._layout, now.address)
        self._running = Running(now.address, pid, now.version, now.bin_dir)
        self._layout.publish(self._running)

    def kill_backend(self, pid: int) -> None:
        """Kill one of the server's processes with SIGKILL; the server then recovers.

        Args:
            pid: Its process id, as ``pg_backend_pid()`` tells.

        Raises:
            ServerStateError: No such process belongs to this server.
        """
        if parent_of(pid) != self._now.pid:
            raise ServerStateError(f"Process {pid} is not a child of this server.")
        os.kill(pid, signal.SIGKILL)

    def stop(self, mode: StopMode | None = None) -> None:
        """Stop the server and remove what is temporary; only forget an attached one.

        Args:
            mode: How; else ``immediate`` for a temporary server and ``fast`` for a kept one.
        """
        running, keeper = self._running, self._keeper
        if running is None:
            return
        if keeper is not None and self.owned:
            mode = mode or ("fast" if self._kept else "immediate")
            try:
                keeper.end(mode)
            except KeeperGoneError:
                self._stop_without_keeper(running, mode)
        self._running = None

    def _stop_without_keeper(self, running: Running, mode: StopMode) -> None:
        # Somebody killed the keeper. The process id is believed only as far as the server's own
        # file still names it.
        try:
            named = self._layout.pid_file.read_text().split("\n", 1)[0]
        except FileNotFoundError:
            named = ""
        if named == str(running.pid):
            with suppress(ProcessLookupError):
                os.kill(running.pid, SIGNALS[mode])
            deadline = time.monotonic() + 60
            while alive(running.pid) and time.monotonic() < deadline:
                time.sleep(0.01)
        if self._launch is not None:
            self._launch.remove_leftovers(self._layout)

    @property
    def _now(self) -> Running:
        if self._running is None:
            raise ServerStateError("The embedded server has been stopped.")
        return self._running


def _binaries(wanted: Binaries | str | os.PathLike[str] | None, version: int | None) -> Binaries:
    if isinstance(wanted, Binaries):
        return wanted
    return find(wanted, version=version)


def _make_home(home: Path) -> None:
    if not home.is_dir():
        home.mkdir(parents=True)
        if os.geteuid() == 0:
            # The server's account passes through; what is private in here is so by itself.
            home.chmod(0o711)
