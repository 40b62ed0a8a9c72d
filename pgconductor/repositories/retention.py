"""Removing what is older than it is kept, by SQLAlchemy."""

from __future__ import annotations

from datetime import timedelta

from pgconductor import sql
from pgconductor.domain.retention import Removal, Retention
from pgconductor.repositories.executor import SqlRepository

__all__ = ["SqlRetentionRepository"]


class SqlRetentionRepository(SqlRepository):
    """Implements :class:`~pgconductor.repositories.protocols.RetentionRepository`."""

    async def remove_expired(self, retention: Retention, *, limit: int) -> Removal | None:
        """See the protocol."""
        rows = await self._rows(
            sql.REMOVE_EXPIRED,
            {
                "retain_completed": retention.completed,
                "retain_failed": retention.failed,
                "limit": limit,
            },
        )
        return Removal(rows[0].seen, rows[0].removed, rows[0].ended) if rows else None

    async def remove_events(self, retain: timedelta, *, limit: int) -> int:
        """See the protocol."""
        (row,) = await self._rows(sql.REMOVE_EVENTS, {"retain": retain, "limit": limit})
        removed: int = row.removed
        return removed
