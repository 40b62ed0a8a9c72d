"""The gate as migrations use it: the lease, the intent, and what stands in their way."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from pgconductor import sql
from pgconductor.domain.migrations import History, LeaseHolder, LockHolder, Server, WaitedFor
from pgconductor.repositories.executor import SqlRepository

__all__ = ["SqlGateRepository"]


class SqlGateRepository(SqlRepository):
    """One row that migrations and registrations share; it has no fake, for it is about servers."""

    async def server(self) -> Server:
        """What must be known before anything is changed; needs nothing of ours to be there."""
        (row,) = await self._rows(sql.PREFLIGHT)
        return Server(
            in_recovery=row.in_recovery,
            read_only=row.read_only,
            role=row.role,
            database=row.database,
            has_schema=row.has_schema,
            may_use=row.may_use,
            may_create=row.may_create,
            has_version_table=row.has_version_table,
            has_gate=row.has_gate,
            not_owned=tuple(row.not_owned),
            backend_pid=row.backend_pid,
        )

    async def history(self) -> History:
        """What version table, ledger and gate say, as far as they are there.

        These are several questions. Ask them in one snapshot: between two others, somebody may
        install or go back.
        """
        server = await self.server()
        if not server.has_gate:
            there = server.has_version_table
            heads: Sequence[Any] = await self._rows(sql.VERSION_HEADS) if there else ()
            return History(tuple(row.head for row in heads), 0, 0, 0, 0, tables=False)
        rows = await self._rows(sql.SCHEMA_HISTORY)
        if not rows:
            return History((), 0, 0, 0, 0)
        (row,) = rows
        return History(tuple(row.heads), row.recorded or 0, row.entries, row.installed, row.floor)

    async def lock_installation(self) -> bool:
        """Be the only one who makes the schema, in this transaction.

        Returns:
            False if somebody else does.
        """
        (row,) = await self._rows(sql.INSTALL_LOCK)
        return bool(row.taken)

    async def take_lease(self, lease_id: UUID, holder: str) -> bool:
        """Take the lease of migrations, without waiting.

        Args:
            lease_id: The caller's.
            holder: What to tell others who want it.

        Returns:
            False if it is another's, or the row is locked.
        """
        return bool(await self._rows(sql.LEASE_TAKE, {"lease_id": lease_id, "holder": holder}))

    async def lease_holder(self) -> LeaseHolder:
        """Who has the lease."""
        (row,) = await self._rows(sql.LEASE_HOLDER)
        return LeaseHolder(*row)

    async def end_holder(self, lease_id: UUID, state_change: datetime) -> bool:
        """End the server process of a holder that stands still.

        Args:
            lease_id: Its lease.
            state_change: When it was last seen to do something.

        Returns:
            False if it has done something since.
        """
        rows = await self._rows(
            sql.LEASE_END_HOLDER, {"lease_id": lease_id, "state_change": state_change}
        )
        return any(row.ended for row in rows)

    async def note(
        self,
        lease_id: UUID,
        note: str,
        *,
        floor: int | None,
        ceiling: int | None,
        expires_after: timedelta,
    ) -> bool:
        """Say what the holder of the lease does, and whom it keeps from registering meanwhile.

        Args:
            lease_id: The caller's.
            note: For people.
            floor: Who does not know this revision must not register.
            ceiling: Who needs more than this revision must not register.
            expires_after: When that ends, unless it is said again.

        Returns:
            False if the lease is another's by now.
        """
        rows = await self._rows(
            sql.LEASE_NOTE,
            {
                "lease_id": lease_id,
                "note": note,
                "floor": floor,
                "ceiling": ceiling,
                "expires_after": expires_after,
            },
        )
        return bool(rows)

    async def release_lease(self, lease_id: UUID) -> bool:
        """Give the lease up, and the intent with it.

        Returns:
            False if it is another's by now.
        """
        return bool(await self._rows(sql.LEASE_RELEASE, {"lease_id": lease_id}))

    async def waited_for(
        self, *, below_version: int | None, above_required: int | None
    ) -> list[WaitedFor]:
        """Orchestrators that a migration shuts out, the oldest first.

        Args:
            below_version: They do not know this revision.
            above_required: They need more than this revision.
        """
        rows = await self._rows(
            sql.WAITED_FOR, {"below_version": below_version, "above_required": above_required}
        )
        return [WaitedFor(*row) for row in rows]

    async def registered(
        self, *, below_version: int | None, above_required: int | None
    ) -> list[WaitedFor]:
        """The same, without what they hold: by columns alone that no revision changes.

        Args:
            below_version: They do not know this revision.
            above_required: They need more than this revision.
        """
        rows = await self._rows(
            sql.REGISTERED, {"below_version": below_version, "above_required": above_required}
        )
        return [
            WaitedFor(
                id=row.id,
                version=row.version,
                schema_version=row.schema_version,
                hostname=row.hostname,
                pid=row.pid,
                silent_seconds=row.silent_seconds,
                running=None,
            )
            for row in rows
        ]

    async def lock_holders(self) -> list[LockHolder]:
        """Transactions that hold locks on tables of ours, the oldest first."""
        rows = await self._rows(sql.LOCK_HOLDERS)
        return [
            LockHolder(
                pid=row.pid,
                role=row.role,
                application_name=row.application_name,
                state=row.state,
                seconds=row.seconds,
                query=row.query,
                tables=tuple(row.tables),
            )
            for row in rows
        ]
