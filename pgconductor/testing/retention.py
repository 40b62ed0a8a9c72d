"""Removing what is older than it is kept, in memory."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from pgconductor.domain.retention import Removal, Retention
from pgconductor.testing.database import FakeTransaction
from pgconductor.testing.old_events import FakeOldEvents
from pgconductor.testing.rows import ExecutionRow, Tables, WalkRow
from pgconductor.types import ExecutionState

__all__ = ["FakeRetentionRepository"]

_HOUR = timedelta(hours=1)
_LONGEST_REST = timedelta(hours=6)
_LAST = UUID(int=2**128 - 1)


class FakeRetentionRepository(FakeOldEvents):
    """Implements :class:`~pgconductor.repositories.RetentionRepository`."""

    def __init__(self, transaction: FakeTransaction) -> None:
        self._transaction = transaction

    async def remove_expired(self, retention: Retention, *, limit: int) -> Removal | None:
        """See the protocol."""
        tables = await self._transaction.write()
        now = self._transaction.now()
        walk = tables.retention_walk
        if walk.next_walk_at is not None and walk.next_walk_at > now:
            return None
        shortest = _shortest(tables, retention)
        seen = _seen(tables, walk, None if shortest is None else now - shortest, limit)
        removed = [row.id for row in seen if _expired(row, _kept(tables, retention, row), now)]
        for one in removed:
            del tables.executions[one]
            for key in [key for key in tables.steps if key[0] == one]:
                del tables.steps[key]
        ended = len(seen) < limit
        started_at = walk.started_at or now
        if ended:
            pause = max(min(_HOUR, (shortest or _HOUR) / 12), min(_LONGEST_REST, now - started_at))
            tables.retention_walk = WalkRow(walk.walks + 1, None, None, now + pause)
        else:
            tables.retention_walk = WalkRow(walk.walks, seen[-1].id, started_at, walk.next_walk_at)
        return Removal(len(seen), len(removed), ended)


def _shortest(tables: Tables, retention: Retention) -> timedelta | None:
    policies = [retention, *(task.retention for task in tables.tasks.values())]
    kept = [one for policy in policies for one in (policy.completed, policy.failed)]
    return min((one for one in kept if one is not None), default=None)


def _seen(
    tables: Tables, walk: WalkRow, youngest: datetime | None, limit: int
) -> list[ExecutionRow]:
    if youngest is None:
        return []
    bound = UUID(int=round(youngest.timestamp() * 1000) << 80) if walk.walks % 24 else _LAST
    after = walk.walked_to or UUID(int=0)
    found = [row for row in tables.executions.values() if after < row.id <= bound]
    return sorted(found, key=lambda row: row.id)[:limit]


def _kept(tables: Tables, retention: Retention, row: ExecutionRow) -> timedelta | None:
    """How long it is kept: by its task's declaration, or by what holds without one."""
    task = tables.tasks.get(row.task_key)
    policy = retention if task is None else task.retention
    return policy.completed if row.state is ExecutionState.COMPLETED else policy.failed


def _expired(row: ExecutionRow, kept: timedelta | None, now: datetime) -> bool:
    if row.untold or kept is None:
        return False
    return row.finished_at is not None and row.finished_at < now - kept
