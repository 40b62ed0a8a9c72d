"""How much processor time processes have used; Linux only, None elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["seconds_of_server", "seconds_of_tree"]

_PROC = Path("/proc")


def seconds_of_tree(pid: int) -> float | None:
    """Processor time of a process and its living descendants.

    Args:
        pid: The process.

    Returns:
        Seconds, or None where it cannot be told.
    """
    return _sum(pid, with_the_ended=False)


def seconds_of_server(pid: int | None) -> float | None:
    """Processor time of a Postgres server, with the backends that have ended.

    Args:
        pid: The postmaster, or None if it runs elsewhere.

    Returns:
        Seconds, or None where it cannot be told.
    """
    return None if pid is None else _sum(pid, with_the_ended=True)


def _sum(root: int, *, with_the_ended: bool) -> float | None:
    found = _processes()
    if root not in found:
        return None
    ticks, wanted = 0, {root}
    # Children are listed after their parents nearly always; a second look finds the others.
    for _ in range(2):
        wanted |= {pid for pid, (parent, _, _) in found.items() if parent in wanted}
    for pid in wanted:
        _, own, ended = found[pid]
        ticks += own + (ended if with_the_ended and pid == root else 0)
    return ticks / os.sysconf("SC_CLK_TCK")


def _processes() -> dict[int, tuple[int, int, int]]:
    """Of each process its parent, its own ticks, and those of children that have ended."""
    found: dict[int, tuple[int, int, int]] = {}
    for entry in _PROC.glob("[0-9]*/stat"):
        try:
            # The name in parentheses may hold anything; what follows its end is numbers.
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        own, ended = int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
        found[int(entry.parent.name)] = (int(fields[1]), own, ended)
    return found
