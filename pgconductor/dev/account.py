"""The system account that a server is started as: Postgres refuses to serve root."""

from __future__ import annotations

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pgconductor.dev.errors import EmbeddedServerError

_UNPRIVILEGED = ("nobody", "postgres")


@dataclass(frozen=True, slots=True)
class Account:
    """Who the server's processes belong to.

    Attributes:
        uid: User id, or None when the server keeps our own identity.
        gid: Group id, or None likewise.
    """

    uid: int | None = None
    gid: int | None = None

    @classmethod
    def choose(cls, data: Path | None = None) -> Self:
        """Pick the account for a server.

        An ordinary user keeps his own. Root hands the server to the owner of an existing data
        directory, or else to ``nobody`` or ``postgres``.

        Args:
            data: The server's data directory, where one is given; it may not exist yet.

        Returns:
            The account.

        Raises:
            EmbeddedServerError: We are root and no unprivileged account exists.
        """
        if os.geteuid() != 0:
            return cls()
        if data is not None and data.exists():
            owner = data.stat()
            if owner.st_uid != 0:
                return cls(owner.st_uid, owner.st_gid)
        for name in _UNPRIVILEGED:
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            return cls(entry.pw_uid, entry.pw_gid)
        raise EmbeddedServerError(
            f"Postgres does not serve root, and none of the accounts {', '.join(_UNPRIVILEGED)} "
            "exists to start it as."
        )

    def succeeds(self, *argv: str | os.PathLike[str]) -> bool:
        """Tell whether a command ends well under this account.

        Args:
            argv: The program and its arguments.

        Returns:
            True if it could be started and exited with 0.
        """
        try:
            finished = subprocess.run(  # noqa: S603 - the callers' own commands
                argv,
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                user=self.uid,
                group=self.gid,
                extra_groups=None if self.uid is None else [],
            )
        except OSError:
            return False
        return finished.returncode == 0

    def can_enter(self, directory: Path) -> bool:
        """Tell whether this account can make a directory its current one.

        Args:
            directory: An existing directory.

        Returns:
            True if it can. The system is asked, so access lists and mounts count too.
        """
        return self.succeeds("/bin/sh", "-c", 'cd "$1"', "sh", directory)

    def give(self, path: Path) -> None:
        """Make this account the owner of a file or directory.

        Args:
            path: What to hand over; nothing is done when the account is our own.
        """
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)
