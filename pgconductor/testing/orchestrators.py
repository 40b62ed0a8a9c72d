"""Orchestrators and the schema's own word on itself, in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from pgconductor.domain.fleet import FleetMember
from pgconductor.domain.orchestrators import Beat, Heartbeat, OrchestratorSnapshot
from pgconductor.domain.revisions import SchemaStatus
from pgconductor.testing.database import FakeTransaction

__all__ = ["FakeOrchestratorRepository", "FakeSchemaRepository"]


class FakeOrchestratorRepository:
    """Implements :class:`~pgconductor.repositories.OrchestratorRepository`."""

    def __init__(self, transaction: FakeTransaction) -> None:
        self._transaction = transaction

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
        tables = await self._transaction.write()
        gate = self._transaction.schema()
        if schema_version < _floor(gate) or schema_required > _ceiling(gate):
            return False
        now = self._transaction.now()
        tables.orchestrators[orchestrator_id] = OrchestratorSnapshot(
            id=orchestrator_id,
            version=version,
            schema_version=schema_version,
            schema_required=schema_required,
            hostname=hostname,
            pid=pid,
            queues=tuple(queues),
            started_at=now,
            last_heartbeat_at=now,
            heartbeat_number=0,
            shutdown_requested_at=None,
            shutdown_reason=None,
        )
        return True

    async def heartbeat(self, orchestrator_id: UUID) -> Heartbeat | None:
        """See the protocol."""
        tables = await self._transaction.write()
        row = tables.orchestrators.get(orchestrator_id)
        if row is None:
            return None
        row = replace(
            row,
            last_heartbeat_at=self._transaction.now(),
            heartbeat_number=row.heartbeat_number + 1,
        )
        tables.orchestrators[orchestrator_id] = row
        return Heartbeat(
            number=row.heartbeat_number,
            shutdown_requested=row.shutdown_requested_at is not None,
            shutdown_reason=row.shutdown_reason,
            schema_floor=_floor(self._transaction.schema()),
            schema_ceiling=_ceiling(self._transaction.schema()),
            cancellations=frozenset(
                one.id
                for one in tables.executions.values()
                if one.held_by(orchestrator_id) and one.cancel_requested_at is not None
            ),
        )

    async def beats(self, observer: UUID | None, *, stale_after: timedelta) -> list[Beat]:
        """See the protocol."""
        return [
            Beat(one.id, one.heartbeat_number, self._is_late(one, stale_after))
            for one in self._transaction.read().orchestrators.values()
            if one.id != observer
        ]

    def _is_late(self, row: OrchestratorSnapshot, stale_after: timedelta) -> bool:
        return row.last_heartbeat_at < self._transaction.now() - stale_after

    async def lock_stale(self, beat: Beat, *, stale_after: timedelta) -> bool:
        """See the protocol."""
        tables = await self._transaction.write()
        row = tables.orchestrators.get(beat.orchestrator_id)
        if row is None or row.heartbeat_number != beat.number:
            return False
        if not self._is_late(row, stale_after):
            return False
        tables.orchestrators[row.id] = self._asked(row, "found stale")
        return True

    def _asked(self, row: OrchestratorSnapshot, reason: str) -> OrchestratorSnapshot:
        return replace(
            row,
            shutdown_requested_at=row.shutdown_requested_at or self._transaction.now(),
            shutdown_reason=reason if row.shutdown_reason is None else row.shutdown_reason,
        )

    async def lock(self, orchestrator_id: UUID) -> bool:
        """See the protocol."""
        return orchestrator_id in (await self._transaction.write()).orchestrators

    async def remove(self, orchestrator_id: UUID) -> bool:
        """See the protocol."""
        tables = await self._transaction.write()
        if any(one.held_by(orchestrator_id) for one in tables.executions.values()):
            return False
        return tables.orchestrators.pop(orchestrator_id, None) is not None

    async def request_shutdown(
        self,
        *,
        reason: str,
        orchestrator_id: UUID | None = None,
        below_version: int | None = None,
        above_required: int | None = None,
    ) -> list[UUID]:
        """See the protocol."""
        tables = await self._transaction.write()
        asked = [
            one
            for one in tables.orchestrators.values()
            if orchestrator_id in (None, one.id)
            and (below_version is None or one.schema_version < below_version)
            and (above_required is None or one.schema_required > above_required)
        ]
        for one in asked:
            tables.orchestrators[one.id] = self._asked(one, reason)
            self._transaction.notify("pgconductor_control", one.id)
        return [one.id for one in asked]

    async def members(self) -> list[FleetMember]:
        """See the protocol."""
        held = Counter(
            one.locked_by for one in self._transaction.read().executions.values() if one.locked_by
        )
        now = self._transaction.now()
        return [
            FleetMember(one, now - one.last_heartbeat_at, held[one.id]) for one in await self.list()
        ]

    async def list(self) -> list[OrchestratorSnapshot]:
        """See the protocol."""
        rows = self._transaction.read().orchestrators.values()
        return sorted(rows, key=lambda one: (one.started_at, one.id))


def _floor(gate: SchemaStatus) -> int:
    return max(gate.floor, gate.intent_floor or 0)


def _ceiling(gate: SchemaStatus) -> int:
    ceiling = gate.intent_ceiling
    return gate.installed if ceiling is None else min(gate.installed, ceiling)


class FakeSchemaRepository:
    """Implements :class:`~pgconductor.repositories.SchemaRepository`."""

    def __init__(self, transaction: FakeTransaction) -> None:
        self._transaction = transaction

    async def status(self) -> SchemaStatus:
        """See the protocol."""
        return self._transaction.schema()
