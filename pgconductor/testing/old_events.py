"""Removing old events, in memory."""

from __future__ import annotations

from datetime import timedelta

from pgconductor.testing.database import FakeTransaction

__all__ = ["FakeOldEvents"]


class FakeOldEvents:
    """Implements what of a retention repository is about events."""

    _transaction: FakeTransaction

    async def remove_events(self, retain: timedelta, *, limit: int) -> int:
        """See the protocol."""
        tables = await self._transaction.write()
        bound = self._transaction.now() - retain
        old = [one for one in tables.events.values() if one.matched and one.emitted_at < bound]
        old.sort(key=lambda one: one.emitted_at)
        for one in old[:limit]:
            del tables.events[one.id]
        return len(old[:limit])
