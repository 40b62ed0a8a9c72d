"""All orchestrators of a database at one moment, and what keeps a migration waiting for them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from pgconductor.domain.orchestrators import OrchestratorSnapshot
from pgconductor.domain.revisions import SchemaStatus

__all__ = ["Fleet", "FleetMember"]


@dataclass(frozen=True, slots=True)
class FleetMember:
    """An orchestrator and what it is at.

    Attributes:
        orchestrator: Its row.
        silent_for: The age of its last heartbeat, by the database's clock.
        running: How many executions it holds.
    """

    orchestrator: OrchestratorSnapshot
    silent_for: timedelta
    running: int


@dataclass(frozen=True, slots=True)
class Fleet:
    """All that are registered.

    Attributes:
        schema: What the gate says.
        members: The orchestrators, the oldest first.
    """

    schema: SchemaStatus
    members: tuple[FleetMember, ...]

    def not_knowing(self, version: int) -> list[FleetMember]:
        """Those that do not know a revision; a breaking one waits until they have left.

        Args:
            version: The revision's number.
        """
        return [one for one in self.members if one.orchestrator.schema_version < version]

    def why_draining(self, member: FleetMember) -> str | None:
        """Why an orchestrator has been told to stop, or is told so at its next heartbeat.

        One that stops for a signal of its host drains as well, and the database does not know it.

        Args:
            member: One of the members.

        Returns:
            None if it may go on.
        """
        one, schema = member.orchestrator, self.schema
        if one.shutdown_requested_at is not None:
            return one.shutdown_reason or "asked to stop"
        if schema.floor > one.schema_version:
            return f"the breaking revision {schema.floor:04d} is there, which it does not know"
        if schema.intent_floor is not None and schema.intent_floor > one.schema_version:
            return f"the breaking revision {schema.intent_floor:04d} is being prepared"
        ceiling = schema.installed
        if schema.intent_ceiling is not None:
            ceiling = min(ceiling, schema.intent_ceiling)
        if one.schema_required > ceiling:
            return f"it needs revision {one.schema_required:04d}, and the database goes back"
        return None
