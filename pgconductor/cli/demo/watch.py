"""What the demo reads of the database while it goes on, and at the end."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from pgconductor.cli.demo.app import count_file
from pgconductor.cli.demo.counting import Counts
from pgconductor.cli.demo.proof import FileRow
from pgconductor.models import Execution, Orchestrator

__all__ = ["Sample", "file_rows", "look"]


@dataclass(frozen=True, slots=True)
class Sample:
    """The demo's executions at one moment.

    Attributes:
        states: How many there are in each state.
        failed_once: How many have had a failed attempt.
        crashed: How many were taken back from a dead worker.
        holders: The process of each registered orchestrator, with how many executions it holds.
        held: How many each orchestrator holds, registered or not.
    """

    states: Mapping[str, int] = field(default_factory=dict[str, int])
    failed_once: int = 0
    crashed: int = 0
    holders: Mapping[int, UUID] = field(default_factory=dict[int, UUID])
    held: Mapping[UUID, int] = field(default_factory=dict[UUID, int])

    @property
    def completed(self) -> int:
        """How many are done."""
        return self.states.get("completed", 0)

    @property
    def finished(self) -> int:
        """How many have ended, one way or another."""
        return sum(self.states.get(one, 0) for one in ("completed", "failed", "cancelled"))

    def held_by(self, pid: int) -> int:
        """How many a process holds."""
        owner = self.holders.get(pid)
        return 0 if owner is None else self.held.get(owner, 0)


def _files(queue: str) -> Any:
    return (Execution.queue == queue) & (Execution.task_key == count_file.name)


async def look(engine: AsyncEngine, queue: str) -> Sample:
    """Take a sample.

    Args:
        engine: The database.
        queue: The demo's queue.
    """
    grouped = (
        select(
            Execution.state,
            Execution.locked_by,
            func.count(),
            func.count(Execution.last_error),
            func.sum(Execution.crashes),
        )
        .where(_files(queue))
        .group_by(Execution.state, Execution.locked_by)
    )
    async with engine.connect() as connection:
        rows: list[Any] = list(await connection.execute(grouped))
        fleet: list[Any] = list(await connection.execute(_fleet()))
    states: dict[str, int] = {}
    held: dict[UUID, int] = {}
    for state, owner, number, _, _ in rows:
        states[state] = states.get(state, 0) + number
        if owner is not None:
            held[owner] = held.get(owner, 0) + number
    return Sample(
        states=states,
        failed_once=sum(row[3] for row in rows),
        crashed=sum(row[4] for row in rows),
        holders={row.pid: row.id for row in fleet},
        held=held,
    )


def _fleet() -> Any:
    # Another host's process of the same number is none of ours; of two rows, the later is right.
    return (
        select(Orchestrator.pid, Orchestrator.id)
        .where(Orchestrator.hostname == socket.gethostname())
        .order_by(Orchestrator.started_at)
    )


async def file_rows(engine: AsyncEngine, queue: str) -> list[FileRow]:
    """Every execution of the demo, with its result.

    Args:
        engine: The database.
        queue: The demo's queue.
    """
    query = select(
        Execution.payload,
        Execution.state,
        Execution.attempts,
        Execution.crashes,
        Execution.result,
    ).where(_files(queue))
    async with engine.connect() as connection:
        rows: list[Any] = list(await connection.execute(query))
    return [
        FileRow(
            path=payload["path"],
            state=state,
            attempts=attempts,
            crashes=crashes,
            result=None if result is None else Counts.model_validate(result),
        )
        for payload, state, attempts, crashes, result in rows
    ]
