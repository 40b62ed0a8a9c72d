"""Orchestrators and the schema's own word on itself, by SQLAlchemy."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import select

from pgconductor import sql
from pgconductor.domain.fleet import FleetMember
from pgconductor.domain.orchestrators import Beat, Heartbeat, OrchestratorSnapshot
from pgconductor.domain.revisions import SchemaStatus
from pgconductor.exceptions import SchemaMissing
from pgconductor.models import Orchestrator
from pgconductor.repositories.executor import SqlRepository

__all__ = ["SqlOrchestratorRepository", "SqlSchemaRepository"]

_FIELDS = tuple(OrchestratorSnapshot.__dataclass_fields__)
_COLUMNS = tuple(getattr(Orchestrator, name) for name in _FIELDS)


class SqlOrchestratorRepository(SqlRepository):
    """Implements :class:`~pgconductor.repositories.protocols.OrchestratorRepository`."""

    async def add(
        self,
        orchestrator_id: UUID,
        *,
        version: str,
        schema_version: int,
        schema_required: int,
        hostname: str,
        pid: int,
        queues: Sequence[str] = (),
    ) -> bool:
        """See the protocol."""
        await self._rows(sql.SHARE_GATE)
        rows = await self._rows(
            sql.REGISTER,
            {
                "id": orchestrator_id,
                "version": version,
                "schema_version": schema_version,
                "schema_required": schema_required,
                "hostname": hostname,
                "pid": pid,
                "queues": list(queues),
            },
        )
        return bool(rows)

    async def heartbeat(self, orchestrator_id: UUID) -> Heartbeat | None:
        """See the protocol."""
        rows = await self._rows(sql.HEARTBEAT, {"id": orchestrator_id})
        if not rows:
            return None
        (row,) = rows
        return Heartbeat(
            number=row.heartbeat_number,
            shutdown_requested=row.shutdown_requested,
            shutdown_reason=row.shutdown_reason,
            schema_floor=row.schema_floor,
            schema_ceiling=row.schema_ceiling,
            cancellations=frozenset(row.cancellations),
        )

    async def beats(self, observer: UUID | None, *, stale_after: timedelta) -> list[Beat]:
        """See the protocol."""
        rows = await self._rows(sql.BEATS, {"observer": observer, "stale_after": stale_after})
        return [Beat(row.id, row.heartbeat_number, row.late) for row in rows]

    async def lock_stale(self, beat: Beat, *, stale_after: timedelta) -> bool:
        """See the protocol."""
        rows = await self._rows(
            sql.LOCK_STALE,
            {
                "id": beat.orchestrator_id,
                "heartbeat_number": beat.number,
                "stale_after": stale_after,
            },
        )
        return bool(rows)

    async def lock(self, orchestrator_id: UUID) -> bool:
        """See the protocol."""
        return bool(await self._rows(sql.LOCK_ORCHESTRATOR, {"id": orchestrator_id}))

    async def remove(self, orchestrator_id: UUID) -> bool:
        """See the protocol."""
        return bool(await self._rows(sql.REMOVE_ORCHESTRATOR, {"id": orchestrator_id}))

    async def request_shutdown(
        self,
        *,
        reason: str,
        orchestrator_id: UUID | None = None,
        below_version: int | None = None,
        above_required: int | None = None,
    ) -> list[UUID]:
        """See the protocol."""
        rows = await self._rows(
            sql.REQUEST_SHUTDOWN,
            {
                "reason": reason,
                "id": orchestrator_id,
                "below_version": below_version,
                "above_required": above_required,
            },
        )
        return [row.id for row in rows]

    async def members(self) -> list[FleetMember]:
        """See the protocol."""
        rows = await self._rows(sql.FLEET)
        return [FleetMember(_snapshot(row), row.silent_for, row.running) for row in rows]

    async def list(self) -> list[OrchestratorSnapshot]:
        """See the protocol."""
        rows = await self._rows(
            select(*_COLUMNS).order_by(Orchestrator.started_at, Orchestrator.id)
        )
        return [_snapshot(row) for row in rows]


def _snapshot(row: Any) -> OrchestratorSnapshot:
    values: dict[str, Any] = {name: getattr(row, name) for name in _FIELDS}
    values["queues"] = tuple(row.queues)
    return OrchestratorSnapshot(**values)


class SqlSchemaRepository(SqlRepository):
    """Implements :class:`~pgconductor.repositories.protocols.SchemaRepository`."""

    async def status(self) -> SchemaStatus:
        """See the protocol."""
        rows = await self._rows(sql.SCHEMA_STATUS)
        if not rows:
            # The tables are there and no revision has recorded itself: downgraded or tampered with.
            raise SchemaMissing
        return SchemaStatus(*rows[0])
