"""What lies where in a server's directory."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from pgconductor.dev.address import Address


@dataclass(frozen=True, slots=True)
class Running:
    """What a second process must know to attach to a running server.

    Attributes:
        address: Where it is reached.
        pid: The postmaster's process id.
        version: Its major version.
        bin_dir: The binaries that it was started from.
    """

    address: Address
    pid: int
    version: int
    bin_dir: Path


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one server.

    Attributes:
        home: The directory that everything but, at times, the socket lies in.
    """

    home: Path

    @property
    def data(self) -> Path:
        """Postgres' own data directory."""
        return self.home / "data"

    @property
    def unfinished_data(self) -> Path:
        """Where initdb works; renamed to ``data`` when it is done."""
        return self.home / "data.initdb"

    @property
    def pid_file(self) -> Path:
        """The file in which the postmaster reports its state."""
        return self.data / "postmaster.pid"

    @property
    def log(self) -> Path:
        """The log of initdb and of the server."""
        return self.home / "server.log"

    @property
    def access_rules(self) -> Path:
        """The server's pg_hba.conf."""
        return self.home / "pg_hba.conf"

    @property
    def socket_dir(self) -> Path:
        """Where the socket lies, if that path is short enough for one."""
        return self.home / "socket"

    def data_version(self) -> int | None:
        """Return the major version that the data was made by, or None without data."""
        try:
            return int((self.data / "PG_VERSION").read_text().strip())
        except FileNotFoundError:
            return None

    def password(self) -> str:
        """Return the superuser's password on TCP, which is made up once for each directory."""
        path = self.home / "password"
        try:
            return path.read_text().strip()
        except FileNotFoundError:
            password = secrets.token_urlsafe(24)
            _write_private(path, password)
            return password

    def log_tail(self, lines: int = 20) -> list[str]:
        """Return the end of the server's log.

        Args:
            lines: How many lines at most.

        Returns:
            The lines, oldest first; none without a log.
        """
        try:
            text = self.log.read_text(errors="replace")
        except OSError:
            return []
        return text.splitlines()[-lines:]

    def lock(self) -> int | None:
        """Take the lock that says that a server of this directory is running or starting.

        Returns:
            A file descriptor that holds the lock until each copy of it is closed, or None if
            another process holds the lock.
        """
        descriptor = os.open(
            self.home / "server.lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644
        )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    @property
    def state(self) -> Path:
        """The file that says where the running server is reached."""
        return self.home / "server.json"

    def publish(self, running: Running) -> None:
        """Say where the server is reached.

        Args:
            running: What to say.
        """
        address = running.address
        content = {
            "socket_dir": str(address.socket_dir),
            "port": address.port,
            "host": address.host,
            "password": address.password,
            "pid": running.pid,
            "version": running.version,
            "bin_dir": str(running.bin_dir),
        }
        _write_private(self.state, json.dumps(content))

    def published(self) -> Running | None:
        """Return what the running server's process has said, or None if it has not yet.

        Returns:
            How to attach.

        Raises:
            PermissionError: The server is another user's.
        """
        try:
            content = json.loads(self.state.read_text())
        except FileNotFoundError:
            return None
        address = Address(
            Path(content["socket_dir"]), content["port"], content["host"], content["password"]
        )
        return Running(address, content["pid"], content["version"], Path(content["bin_dir"]))


def _write_private(path: Path, content: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(content)
    partial.rename(path)
