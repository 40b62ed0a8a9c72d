"""Where a server is reached."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import URL

SUPERUSER = "postgres"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is reached.

    Attributes:
        socket_dir: The directory of its Unix socket; whoever may enter it is trusted.
        port: Its port, which also names the socket.
        host: The TCP address, or None if it does not listen on TCP.
        password: The superuser's password on TCP.
    """

    socket_dir: Path
    port: int
    host: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def socket(self) -> Path:
        """The path of the Unix socket."""
        return self.socket_dir / f".s.PGSQL.{self.port}"

    def url_for(self, database: str, driver: str) -> str:
        """Return a SQLAlchemy URL.

        Args:
            database: The database's name.
            driver: A Postgres driver of SQLAlchemy's, such as ``asyncpg`` or ``psycopg``.

        Returns:
            The URL, with the password where there is one.
        """
        name = f"postgresql+{driver}"
        if self.host is not None:
            url = URL.create(name, SUPERUSER, self.password, self.host, self.port, database)
        else:
            # The port is spelled out, or the drivers would take it from PGPORT.
            query = {"host": str(self.socket_dir), "port": str(self.port)}
            url = URL.create(name, SUPERUSER, database=database, query=query)
        return url.render_as_string(hide_password=False)

    def answers(self) -> bool:
        """Tell whether somebody accepts connections at the Unix socket.

        Returns:
            True if so.

        Raises:
            PermissionError: We may not enter the socket's directory.
        """
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.socket))
            except PermissionError:
                raise
            except OSError:
                return False
        return True


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
