"""How a server is set up and started."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pgconductor.dev.account import Account
from pgconductor.dev.address import SUPERUSER, Address, free_port
from pgconductor.dev.binaries import Binaries
from pgconductor.dev.commands import execute
from pgconductor.dev.errors import EmbeddedServerError, ServerStartError
from pgconductor.dev.keeper import Keeper, KeeperGoneError
from pgconductor.dev.layout import Layout, Running

_PORT = 5432
_PORT_ATTEMPTS = 5
_LONGEST_SOCKET_PATH = 99
_PREFIX = "pgc-"
_SHORT_TEMP = Path("/tmp")  # noqa: S108 - a socket's path must be short; mkdtemp makes it safe.

_ACCESS_RULES = """\
local all         all              trust
local replication all              trust
host  all         all 127.0.0.1/32 scram-sha-256
host  replication all 127.0.0.1/32 scram-sha-256
"""
_DEFAULTS = {"timezone": "UTC", "log_timezone": "UTC"}
_UNSAFE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
# All that a server needs of our environment. The rest may hold secrets, and the server's account
# is at times one that others use too.
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TZ")


@dataclass(frozen=True, slots=True)
class Options:
    """What the caller wants of a server.

    Attributes:
        fsync: Whether it is to survive a crash of the machine.
        tcp: Whether it listens on 127.0.0.1 too.
        port: Its port, or None for any.
        settings: Settings of Postgres' own.
        temp_dir: Where a server that is not kept lies, or None for the system's choice.
    """

    fsync: bool
    tcp: bool
    port: int | None
    settings: Mapping[str, str]
    temp_dir: Path | None = None


@dataclass(slots=True)
class Launch:
    """Everything that is needed to start a server, and to start it again.

    Attributes:
        binaries: The installation; the account can start it.
        account: Who the server belongs to.
        options: What the caller wants.
        temporary: Directories that go when the server stops.
    """

    binaries: Binaries
    account: Account
    options: Options
    temporary: list[Path] = field(default_factory=list[Path])

    def temporary_home(self, keeper: Keeper) -> Layout:
        """Make the directory of a server that is not kept.

        Args:
            keeper: The keeper that will remove it.

        Returns:
            Its layout.

        Raises:
            EmbeddedServerError: It could not be made.
        """
        base = self.options.temp_dir or Path(tempfile.gettempdir())
        example = Layout(base / f"{_PREFIX}12345678").socket_dir
        usable = _fits_a_socket(example) and self.account.can_enter(base)
        if self.options.temp_dir is None and not usable:
            base = _SHORT_TEMP
        mode = 0o700 if self.account.uid is None else 0o711
        return Layout(self._temporary(keeper, base, mode))

    def start_first(self, keeper: Keeper, layout: Layout) -> Running:
        """Initialise the data where there is none, and start the server.

        Args:
            keeper: The keeper that is to own it.
            layout: Where it lies.

        Returns:
            The running server.

        Raises:
            ServerStartError: initdb or the server failed.
            EmbeddedServerError: The server's account cannot work in that directory.
        """
        keeper.remove_at_end(layout.state)
        layout.state.unlink(missing_ok=True)
        layout.log.unlink(missing_ok=True)
        if not self.account.can_enter(layout.home):
            raise EmbeddedServerError(
                f"Postgres does not serve root; it is started as user {self.account.uid}, who "
                f"cannot enter {layout.home}. Choose a directory that every user can reach, or "
                "work as an ordinary user."
            )
        self._initialise(keeper, layout)
        layout.access_rules.write_text(_ACCESS_RULES)
        self.account.give(layout.access_rules)
        socket_dir = self._socket_dir(keeper, layout)
        address, pid = self._start_somewhere(keeper, layout, socket_dir)
        if address.password is not None:
            _set_password(address, address.password)
        return Running(address, pid, self.binaries.version, self.binaries.bin_dir)

    def start(self, keeper: Keeper, layout: Layout, address: Address) -> int:
        """Start the server on data that exists.

        Args:
            keeper: The keeper that is to own it.
            layout: Where it lies.
            address: Where it is to be reached.

        Returns:
            The process id of the postmaster.

        Raises:
            ServerStartError: It failed.
        """
        settings = {
            **_DEFAULTS,
            **({} if self.options.fsync else _UNSAFE),
            **self.options.settings,
            "hba_file": str(layout.access_rules),
            "unix_socket_directories": str(address.socket_dir),
            "listen_addresses": address.host or "",
            "port": str(address.port),
        }
        argv = [str(self.binaries.bin_dir / "postgres"), "-D", str(layout.data)]
        for name, value in settings.items():
            argv += ["-c", f"{name}={value}"]
        try:
            return keeper.start(
                argv,
                env=_environment(),
                log=layout.log,
                account=self.account,
                pid_file=layout.pid_file,
            )
        except ServerStartError as error:
            raise ServerStartError(str(error), layout.log_tail()) from None

    def remove_leftovers(self, layout: Layout) -> None:
        """Remove what is temporary in place of a keeper that was killed.

        Args:
            layout: Where the server lay.
        """
        layout.state.unlink(missing_ok=True)
        for path in self.temporary:
            shutil.rmtree(path, ignore_errors=True)

    def _start_somewhere(
        self, keeper: Keeper, layout: Layout, socket_dir: Path
    ) -> tuple[Address, int]:
        attempts = 1
        while True:
            address = self._address(layout, socket_dir)
            try:
                return address, self.start(keeper, layout, address)
            except ServerStartError as error:
                # A port that was free a moment ago may be taken by now.
                taken = any("Address already in use" in line for line in error.log_tail)
                if not taken or self.options.port is not None or attempts == _PORT_ATTEMPTS:
                    raise
                attempts += 1

    def _initialise(self, keeper: Keeper, layout: Layout) -> None:
        if layout.data_version() is not None:
            return
        unfinished = layout.unfinished_data
        # The lock is ours, so a leftover is one of a power cut.
        with suppress(FileNotFoundError):
            shutil.rmtree(unfinished)
        keeper.remove_at_end(unfinished)
        unfinished.mkdir(mode=0o700)
        self.account.give(unfinished)
        argv = [
            str(self.binaries.bin_dir / "initdb"),
            f"--pgdata={unfinished}",
            f"--username={SUPERUSER}",
            "--encoding=UTF8",
            "--locale=C",
            # The server is given its own rules; these are for who starts the data otherwise.
            "--auth-local=trust",
            "--auth-host=reject",
            "--no-instructions",
        ]
        if layout.home in self.temporary or not self.options.fsync:
            argv.append("--no-sync")
        code = keeper.call(argv, env=_environment(), log=layout.log, account=self.account)
        if code != 0:
            raise ServerStartError(f"initdb ended with code {code}.", layout.log_tail())
        unfinished.rename(layout.data)

    def _socket_dir(self, keeper: Keeper, layout: Layout) -> Path:
        path = layout.socket_dir
        # The setting is a list, in which these characters would need quotes.
        if _fits_a_socket(path) and not set(str(path)) & set(',"'):
            path.mkdir(mode=0o700, exist_ok=True)
        else:
            path = self._temporary(keeper, _SHORT_TEMP, 0o700)
        self.account.give(path)
        return path

    def _temporary(self, keeper: Keeper, base: Path, mode: int) -> Path:
        path = keeper.make_directory(base, prefix=_PREFIX, mode=mode)
        self.temporary.append(path)
        return path

    def _address(self, layout: Layout, socket_dir: Path) -> Address:
        if not self.options.tcp:
            return Address(socket_dir, self.options.port or _PORT)
        port = self.options.port or free_port()
        return Address(socket_dir, port, "127.0.0.1", layout.password())


def _fits_a_socket(directory: Path) -> bool:
    return len(os.fsencode(directory / ".s.PGSQL.65535")) <= _LONGEST_SOCKET_PATH


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    return {**kept, "LC_ALL": "C"}


def _set_password(address: Address, password: str) -> None:
    literal = password.replace("'", "''")
    execute(
        address,
        [
            # The password shall not get into the log, whatever the settings say.
            "SET log_statement = 'none'",
            "SET log_min_duration_statement = -1",
            "SET log_min_error_statement = 'panic'",
            # Else an immediate restart would lose it on a server without fsync.
            "SET synchronous_commit = 'on'",
            f"ALTER ROLE {SUPERUSER} PASSWORD '{literal}'",
        ],
    )


def release(keeper: Keeper) -> None:
    """End a keeper whose server did not come up.

    Args:
        keeper: The keeper; it may be gone already.
    """
    with suppress(KeeperGoneError):
        keeper.end("immediate")
