"""``queues`` and ``orchestrators``: who serves what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pgconductor.cli.database import with_conductor
from pgconductor.cli.options import as_json, database_url
from pgconductor.cli.output import plain, print_json, print_table
from pgconductor.types import ExecutionState

if TYPE_CHECKING:
    from pgconductor import Conductor

__all__ = ["orchestrators_command", "queues_command"]


@click.command("queues")
@as_json
@database_url
def queues_command(as_json: bool, database_url: str | None) -> None:
    """List queues, and how many executions each has in which state."""
    found = with_conductor(database_url, _counts)
    if as_json:
        print_json(found)
        return
    states = [state.value for state in ExecutionState]
    heads = ("QUEUE", *(state.upper() for state in states))
    print_table(heads, [(one["name"], *(one[state] for state in states)) for one in found])


async def _counts(conductor: Conductor) -> list[dict[str, Any]]:
    from sqlalchemy import func, select

    from pgconductor.models import Execution, Queue
    from pgconductor.repositories.errors import translated

    counted = select(Execution.queue, Execution.state, func.count()).group_by(
        Execution.queue, Execution.state
    )
    async with conductor.sessionmaker() as session:
        with translated():
            names = set((await session.scalars(select(Queue.name))).all())
            rows = [(row[0], row[1], row[2]) for row in await session.execute(counted)]
    empty = dict.fromkeys((state.value for state in ExecutionState), 0)
    found = {name: {"name": name, **empty} for name in sorted(names | {row[0] for row in rows})}
    for queue, state, count in rows:
        found[queue][state] = count
    return list(found.values())


@click.command("orchestrators")
@as_json
@database_url
def orchestrators_command(as_json: bool, database_url: str | None) -> None:
    """List the orchestrators that are registered: the worker processes."""
    found = with_conductor(database_url, lambda conductor: conductor.orchestrators.list())
    if as_json:
        print_json([plain(one) for one in found])
        return
    heads = ("ID", "VERSION", "HOST", "PID", "STARTED", "LAST HEARTBEAT", "ASKED TO STOP")
    print_table(
        heads,
        [
            (
                one.id,
                one.version,
                one.hostname,
                one.pid,
                one.started_at.strftime("%Y-%m-%d %H:%M:%S%z"),
                one.last_heartbeat_at.strftime("%Y-%m-%d %H:%M:%S%z"),
                None if one.shutdown_requested_at is None else one.shutdown_reason or "yes",
            )
            for one in found
        ],
    )
