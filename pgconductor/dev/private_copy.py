"""Copy binaries to where the server's account can read them.

Root's environment often lies below ``/root``, which no other account may enter. The copies are
kept in the temp directory, one for each release and installation, for the next start.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from dataclasses import replace
from pathlib import Path

from pgconductor.dev.account import Account
from pgconductor.dev.binaries import Binaries
from pgconductor.dev.errors import EmbeddedServerError

_CACHE = "pgconductor-postgres"
_PARTS = ("bin", "lib", "share")
# A directory of more programs than this is shared (/root/.local/bin, a conda environment), and
# its lib may hold gigabytes.
_MOST_PROGRAMS = 100


def readable(binaries: Binaries, account: Account) -> Binaries:
    """Return binaries that an account can start.

    Args:
        binaries: The installation that was found.
        account: The account that the server gets.

    Returns:
        The same, or a copy with its sibling libraries where the account cannot reach the original.

    Raises:
        EmbeddedServerError: The account can start neither the original nor a copy.
    """
    if account.uid is None or _starts(binaries, account):
        return binaries
    copy = replace(binaries, bin_dir=_copied(binaries))
    if not _starts(copy, account):
        raise EmbeddedServerError(
            f"User {account.uid} can start Postgres neither from {binaries.bin_dir} nor from its "
            f"copy {copy.bin_dir} (is the temp directory mounted noexec?)."
        )
    return copy


def _starts(binaries: Binaries, account: Account) -> bool:
    programs = (binaries.bin_dir / "postgres", binaries.bin_dir / "initdb")
    return all(account.succeeds(program, "--version") for program in programs)


def _copied(binaries: Binaries) -> Path:
    prefix = binaries.bin_dir.parent
    if len(list(binaries.bin_dir.iterdir())) > _MOST_PROGRAMS:
        raise EmbeddedServerError(
            f"The server's account cannot start Postgres from {binaries.bin_dir}, and that "
            "directory holds too much else to be copied. Install Postgres where every user can "
            'read it, or: pip install "pgconductor[dev]"'
        )
    base, libraries = _sibling_libraries(prefix)
    cache = _cache_directory()
    name = f"{binaries.release}-{_fingerprint(binaries.bin_dir)}"
    target = cache / name
    lock = os.open(cache / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            for leftover in cache.glob("*.partial"):
                shutil.rmtree(leftover)
            partial = cache / f"{name}.partial"
            relative = prefix.relative_to(base)
            for part in _PARTS:
                if (prefix / part).is_dir():
                    shutil.copytree(prefix / part, partial / relative / part, symlinks=True)
            if libraries is not None:
                shutil.copytree(libraries, partial / libraries.name, symlinks=True)
            _open_for_reading(partial)
            partial.rename(target)
    finally:
        os.close(lock)
    return target / binaries.bin_dir.relative_to(base)


def _sibling_libraries(prefix: Path) -> tuple[Path, Path | None]:
    # auditwheel puts a wheel's libraries beside the package, and the binaries look for them by
    # a relative path.
    for ancestor in (prefix, *prefix.parents):
        libraries = ancestor.with_name(f"{ancestor.name}.libs") if ancestor.name else None
        if libraries is not None and libraries.is_dir():
            return ancestor.parent, libraries
    return prefix.parent, None


def _cache_directory() -> Path:
    cache = Path(tempfile.gettempdir()) / _CACHE
    try:
        cache.mkdir(mode=0o755)
        cache.chmod(0o755)
    except FileExistsError:
        found = cache.lstat()
        ours = stat.S_ISDIR(found.st_mode) and found.st_uid == 0
        if not ours or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise EmbeddedServerError(
                f"{cache} is not a directory that only root can write: somebody else put it "
                "there. Remove it."
            ) from None
    return cache


def _fingerprint(bin_dir: Path) -> str:
    postgres = (bin_dir / "postgres").stat()
    identity = f"{bin_dir.resolve()}:{postgres.st_mtime_ns}:{postgres.st_size}"
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def _open_for_reading(tree: Path) -> None:
    for folder, _, files in os.walk(tree):
        Path(folder).chmod(0o755)
        for name in files:
            path = Path(folder, name)
            if not path.is_symlink():
                executable = path.stat().st_mode & stat.S_IXUSR
                path.chmod(0o755 if executable else 0o644)
