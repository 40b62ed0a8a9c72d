"""Small questions to the operating system about processes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_PROC = Path("/proc")


def _fields(pid: int) -> list[str] | None:
    """Return what Linux says of a process, from its state on, or None if there is no such."""
    try:
        content = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The field before these, a name in parentheses, may contain anything.
    return content.rpartition(")")[2].split()


def parent_of(pid: int) -> int | None:
    """Return the parent of a process.

    Args:
        pid: The process.

    Returns:
        The parent's process id, or None if there is no such process.
    """
    if (_PROC / "self" / "stat").exists():
        fields = _fields(pid)
        return int(fields[1]) if fields is not None else None
    answer = subprocess.run(  # noqa: S603 - a number is all that varies
        ["/bin/ps", "-o", "ppid=", "-p", str(pid)], check=False, capture_output=True, text=True
    ).stdout.strip()
    return int(answer) if answer else None


def alive(pid: int) -> bool:
    """Tell whether a process is alive.

    Args:
        pid: The process.

    Returns:
        True if so. Where Linux can tell, an ended process that init has yet to reap is not.
    """
    if (_PROC / "self" / "stat").exists():
        fields = _fields(pid)
        return fields is not None and fields[0] not in "ZX"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
