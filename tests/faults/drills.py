"""What the drills share: a database with an effects table, worker processes, the final check."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from psycopg.rows import dict_row

from pgconductor.runtime.orchestrator import Orchestrator
from tests.faults.drill_tasks import drill_conductor
from tests.support.processes import UNMEASURED, Child, Children
from tests.support.servers import connect
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

WORKER = Path(__file__).with_name("worker_app.py")
#: Longer than any recovery takes with the drills' settings, even on a busy machine.
RECOVERY = 40.0


class Drill:
    """A database in which something is about to go wrong.

    Args:
        url: Its asyncpg URL.
        children: Starts the worker processes.
    """

    def __init__(self, url: str, children: Children) -> None:
        self.url = url
        self.children = children
        self.conductor = drill_conductor(url)
        self.own_pid = os.getpid()
        self.invoked: list[UUID] = []
        self.execute(
            "CREATE TABLE effects (id bigserial PRIMARY KEY, execution_id uuid NOT NULL,"
            " task text NOT NULL, pid int NOT NULL)"
        )

    # --- work ------------------------------------------------------------------------------------

    async def invoke(self, task: str, payload: Any = None, **options: Any) -> UUID:
        handle = await self.conductor.get_task(task).invoke(payload, **options)
        self.invoked.append(handle.id)
        return handle.id

    async def invoke_many(self, task: str, payloads: Iterable[Any]) -> list[UUID]:
        handles = await self.conductor.get_task(task).invoke_many(list(payloads))
        ids = [handle.id for handle in handles]
        self.invoked += ids
        return ids

    async def worker(
        self,
        point: str = "none",
        *,
        url: str | None = None,
        env: Mapping[str, str] | None = None,
        wait: bool = True,
    ) -> Child:
        """Start a worker process, and wait until it is registered."""
        child = await self.children.start(
            WORKER, env={**UNMEASURED, "DRILL": point, "DRILL_URL": url or self.url, **(env or {})}
        )
        if wait:
            await child.wait_for_line("registered")
        return child

    @asynccontextmanager
    async def rescuer(self, **settings: Any) -> AsyncIterator[Orchestrator]:
        """A healthy orchestrator, in this process."""
        conductor = drill_conductor(self.url, **settings)
        orchestrator = conductor.orchestrator(concurrency=4)
        await orchestrator.start()
        try:
            yield orchestrator
        finally:
            await orchestrator.stop()
            await conductor.close()

    # --- the database, behind everybody's back ---------------------------------------------------

    def execute(self, statement: str, *arguments: Any) -> None:
        with connect(self.url) as connection:
            connection.execute(statement.encode(), arguments)

    def rows(self, statement: str, *arguments: Any) -> list[dict[str, Any]]:
        with connect(self.url) as connection:
            cursor = connection.cursor(row_factory=dict_row)
            return cursor.execute(statement.encode(), arguments).fetchall()

    def value(self, statement: str, *arguments: Any) -> Any:
        (row,) = self.rows(statement, *arguments)
        (value,) = row.values()
        return value

    def execution(self, execution_id: UUID) -> dict[str, Any]:
        (row,) = self.rows("SELECT * FROM pgconductor.executions WHERE id = %s", execution_id)
        return row

    def state(self, execution_id: UUID) -> str:
        return str(self.execution(execution_id)["state"])

    def unfinished(self) -> int:
        return int(
            self.value("SELECT count(*) FROM pgconductor.executions WHERE finished_at IS NULL")
        )

    def effects(self, execution_id: UUID) -> int:
        return int(self.value("SELECT count(*) FROM effects WHERE execution_id = %s", execution_id))

    def registered(self) -> set[int]:
        """The process ids of the registered orchestrators."""
        return {row["pid"] for row in self.rows("SELECT pid FROM pgconductor.orchestrators")}

    # --- waiting and judging ---------------------------------------------------------------------

    async def finished(self, *execution_ids: UUID, timeout: float = RECOVERY) -> None:
        """Wait until these executions, or all, have finished."""
        wanted = list(execution_ids or self.invoked)

        def over() -> bool:
            left = self.rows(
                "SELECT state, count(*) FROM pgconductor.executions"
                " WHERE id = ANY (%s) AND finished_at IS NULL GROUP BY state",
                wanted,
            )
            assert not left, f"unfinished: {left}"
            return True

        await eventually(over, timeout=timeout, interval=0.05)

    async def only_registered(self, *pids: int) -> None:
        """Wait until no other orchestrators have a row: the dead have been cleared away."""

        def cleared() -> bool:
            assert self.registered() == set(pids)
            return True

        await eventually(cleared, timeout=RECOVERY, interval=0.05)

    def assert_settled(
        self, *, failed: Iterable[UUID] = (), cancelled: Iterable[UUID] = (), living: int = 0
    ) -> None:
        """The final check of every drill (I1, I2, I3, I7, I10).

        Everything that was invoked has ended as it should, nothing else is there, nothing is held,
        the dead have no rows, and whatever completed has had its effect at least once.
        """
        expected = dict.fromkeys(self.invoked, "completed")
        expected |= dict.fromkeys(failed, "failed")
        expected |= dict.fromkeys(cancelled, "cancelled")
        found = {
            row["id"]: row for row in self.rows("SELECT * FROM pgconductor.executions ORDER BY id")
        }
        assert {one: row["state"] for one, row in found.items()} == expected
        for row in found.values():
            assert row["locked_by"] is None, row
            assert row["claim_number"] is None, row
            if row["state"] == "completed":
                assert row["finished_by"] is not None, row
                assert row["finished_claim"] is not None, row
        assert len(self.registered()) == living
        without_effect = self.value(
            "SELECT count(*) FROM pgconductor.executions e"
            " WHERE e.state = 'completed' AND e.task_key <> 'plain'"
            " AND NOT EXISTS (SELECT FROM effects f WHERE f.execution_id = e.id)"
        )
        assert without_effect == 0
