"""Declared tasks and queues, by SQLAlchemy."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from pgconductor import sql
from pgconductor.domain.tasks import TaskOptions
from pgconductor.models import Queue, TaskDefinition
from pgconductor.repositories.executor import SqlRepository

__all__ = ["SqlQueueRepository", "SqlTaskRepository"]


class SqlTaskRepository(SqlRepository):
    """Implements :class:`~pgconductor.repositories.protocols.TaskRepository`."""

    async def declare_many(self, tasks: Sequence[TaskOptions]) -> None:
        """See the protocol."""
        await self._write(
            sql.DECLARE_TASKS,
            {
                "keys": [task.key for task in tasks],
                "queues": [task.queue for task in tasks],
                "max_attempts": [task.max_attempts for task in tasks],
                "max_crashes": [task.max_crashes for task in tasks],
                "timeouts": [task.timeout for task in tasks],
                "retain_completed": [task.retention.completed for task in tasks],
                "retain_failed": [task.retention.failed for task in tasks],
            },
        )

    async def keys(self) -> list[str]:
        """See the protocol."""
        rows = await self._rows(select(TaskDefinition.key))
        return sorted(row.key for row in rows)


class SqlQueueRepository(SqlRepository):
    """Implements :class:`~pgconductor.repositories.protocols.QueueRepository`."""

    async def declare_many(self, names: Sequence[str]) -> None:
        """See the protocol."""
        await self._write(sql.DECLARE_QUEUES, {"names": list(names)})

    async def names(self) -> list[str]:
        """See the protocol."""
        rows = await self._rows(select(Queue.name))
        return sorted(row.name for row in rows)
