"""What a measurement costs the server and the contestant, seen from outside."""

from __future__ import annotations

from pgconductor.bench.cpu import seconds_of_server
from pgconductor.bench.databases import Databases
from pgconductor.bench.figures import Costs
from pgconductor.bench.process import ContestantProcess

__all__ = ["Meter"]


class Meter:
    """What the server and the contestant's processes have used between two moments.

    Args:
        databases: The server.
        server_pid: The postmaster, where it runs on this machine.
        processes: The contestant's.
    """

    def __init__(
        self, databases: Databases, server_pid: int | None, processes: list[ContestantProcess]
    ) -> None:
        self._databases = databases
        self._server_pid = server_pid
        self._processes = processes
        self._before: tuple[int, float | None, float | None] = (0, None, None)

    async def begin(self) -> None:
        """The first moment."""
        self._before = await self._now()

    async def costs(self, units: int) -> Costs:
        """What was used since.

        Args:
            units: How many executions or steps it was used for.
        """
        wal, server, client = await self._now()
        before_wal, before_server, before_client = self._before
        return Costs(
            wal_bytes=(wal - before_wal) / units,
            server_us=_microseconds(before_server, server, units),
            client_us=_microseconds(before_client, client, units),
        )

    async def _now(self) -> tuple[int, float | None, float | None]:
        used = [process.cpu_seconds() for process in self._processes]
        known = [one for one in used if one is not None]
        client = sum(known) if len(known) == len(used) else None
        return await self._databases.wal_bytes(), seconds_of_server(self._server_pid), client


def _microseconds(before: float | None, after: float | None, units: int) -> float | None:
    if before is None or after is None:
        return None
    return (after - before) * 1_000_000 / units
