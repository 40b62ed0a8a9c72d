"""``queues`` and ``fleet``: what there is to do, and who does it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from pgconductor.cli.database import with_conductor
from pgconductor.cli.options import as_json, database_url
from pgconductor.cli.output import one_line, print_json, print_table
from pgconductor.types import ExecutionState

if TYPE_CHECKING:
    from pgconductor import Conductor
    from pgconductor.domain.fleet import Fleet, FleetMember
    from pgconductor.schema import Revision

__all__ = ["fleet_command", "queues_command"]


_HEADS = (
    *("ID", "RELEASE", "SCHEMA", "HOST", "PID", "SINCE", "HEARTBEAT"),
    *("RUNNING", "QUEUES", "STATE"),
)


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


@click.command("fleet")
@as_json
@database_url
def fleet_command(as_json: bool, database_url: str | None) -> None:
    """List the orchestrators, the worker processes, and whom the next breaking revision waits for.

    Revisions are those that this release ships: ask the release that you are going to deploy.
    """
    from pgconductor.schema import revisions

    fleet = with_conductor(database_url, lambda conductor: conductor.orchestrators.fleet())
    known = revisions()
    breaking = (one for one in known if one.breaking and one.version > fleet.schema.installed)
    found = _Found(fleet, max(fleet.schema.installed, known[-1].version), next(breaking, None))
    if as_json:
        print_json(found.as_json())
        return
    print_table(
        _HEADS,
        [found.row(one) for one in fleet.members],
    )
    click.echo(f"\n{found.summary()}")


@dataclass(frozen=True)
class _Found:
    """The fleet, and what it is measured by."""

    fleet: Fleet
    newest: int
    breaking: Revision | None

    @property
    def blockers(self) -> list[FleetMember]:
        return self.fleet.not_knowing(self.breaking.version) if self.breaking else []

    @property
    def behind(self) -> list[FleetMember]:
        return self.fleet.not_knowing(self.newest)

    def row(self, member: FleetMember) -> tuple[object, ...]:
        one, why = member.orchestrator, self.fleet.why_draining(member)
        return (
            one.id,
            one.version,
            f"{one.schema_version:04d}",
            one.hostname,
            one.pid,
            one.started_at.strftime("%Y-%m-%d %H:%M:%S%z"),
            f"{member.silent_for.total_seconds():.1f} s ago",
            member.running,
            ", ".join(one.queues),
            "working" if why is None else f"draining: {why}",
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "installed": self.fleet.schema.installed,
            "newest": self.newest,
            "next_breaking": self.breaking
            and {"version": self.breaking.version, "name": self.breaking.name},
            "blockers": [one.orchestrator.id for one in self.blockers],
            "behind": [one.orchestrator.id for one in self.behind],
            "orchestrators": [
                {
                    **asdict(one.orchestrator),
                    "silent_for": one.silent_for,
                    "running": one.running,
                    "draining": self.fleet.why_draining(one),
                }
                for one in self.fleet.members
            ],
        }

    def summary(self) -> str:
        many = len(self.fleet.members)
        if self.breaking is None:
            counted = f"{len(self.behind)} of {many} do not know {self.newest:04d}, the newest"
            return one_line(f"no breaking revision is pending; {counted}{_named(self.behind)}")
        named = f"{self.breaking.version:04d} ({self.breaking.name})"
        counted = f"waits for {len(self.blockers)} of {many}"
        return one_line(f"the next breaking revision, {named}, {counted}{_named(self.blockers)}")


def _named(members: list[FleetMember]) -> str:
    names = (f"{one.orchestrator.hostname} pid {one.orchestrator.pid}" for one in members)
    return f": {', '.join(names)}" if members else ""
