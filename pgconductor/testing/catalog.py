"""Declared tasks and queues, in memory."""

from __future__ import annotations

from collections.abc import Sequence

from pgconductor.domain.tasks import TaskOptions
from pgconductor.testing.database import FakeTransaction

__all__ = ["FakeQueueRepository", "FakeTaskRepository"]


class FakeTaskRepository:
    """Implements :class:`~pgconductor.repositories.TaskRepository`."""

    def __init__(self, transaction: FakeTransaction) -> None:
        self._transaction = transaction

    async def declare_many(self, tasks: Sequence[TaskOptions]) -> None:
        """See the protocol."""
        tables = await self._transaction.write()
        tables.tasks.update({task.key: task for task in tasks})

    async def keys(self) -> list[str]:
        """See the protocol."""
        return sorted(self._transaction.read().tasks)


class FakeQueueRepository:
    """Implements :class:`~pgconductor.repositories.QueueRepository`."""

    def __init__(self, transaction: FakeTransaction) -> None:
        self._transaction = transaction

    async def declare_many(self, names: Sequence[str]) -> None:
        """See the protocol."""
        tables = await self._transaction.write()
        tables.queues.update(names)

    async def names(self) -> list[str]:
        """See the protocol."""
        return sorted(self._transaction.read().queues)
