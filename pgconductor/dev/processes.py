"""Small questions to the operating system about processes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def parent_of(pid: int) -> int | None:
    """Return the parent of a process.

    Args:
        pid: The process.

    Returns:
        The parent's process id, or None if there is no such process.
    """
    stat = Path(f"/proc/{pid}/stat")
    if stat.parent.parent.joinpath("self").exists():
        try:
            # The second field, a name in parentheses, may contain anything.
            return int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            return None
    answer = subprocess.run(  # noqa: S603 - a number is all that varies
        ["/bin/ps", "-o", "ppid=", "-p", str(pid)], check=False, capture_output=True, text=True
    ).stdout.strip()
    return int(answer) if answer else None


def alive(pid: int) -> bool:
    """Tell whether a process exists (a zombie does).

    Args:
        pid: The process.

    Returns:
        True if it exists.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
