"""Transactions over the in-memory database, as the services want them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from pgconductor.repositories import Repositories
from pgconductor.testing.catalog import FakeQueueRepository, FakeTaskRepository
from pgconductor.testing.database import FakeDatabase, FakeTransaction
from pgconductor.testing.executions import FakeExecutionRepository
from pgconductor.testing.orchestrators import FakeOrchestratorRepository, FakeSchemaRepository
from pgconductor.testing.retention import FakeRetentionRepository
from pgconductor.testing.steps import FakeStepRepository

__all__ = ["FakeUnitOfWork", "fake_repositories"]


def fake_repositories(transaction: FakeTransaction) -> Repositories:
    """All repositories over one transaction."""
    return Repositories(
        executions=FakeExecutionRepository(transaction),
        orchestrators=FakeOrchestratorRepository(transaction),
        tasks=FakeTaskRepository(transaction),
        queues=FakeQueueRepository(transaction),
        steps=FakeStepRepository(transaction),
        schema=FakeSchemaRepository(transaction),
        retention=FakeRetentionRepository(transaction),
    )


class FakeUnitOfWork:
    """Implements :class:`~pgconductor.services.UnitOfWork` without a database.

    Give it to a service in place of an engine: ``ExecutionService(FakeUnitOfWork(database))``.

    Args:
        database: The tables; a new one unless given.
    """

    def __init__(self, database: FakeDatabase | None = None) -> None:
        self.database = database or FakeDatabase()

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator[Repositories]:
        """Enter a transaction: committed at the end, rolled back by an exception."""
        transaction = self.database.transaction()
        try:
            yield self.repositories(transaction)
        except BaseException:
            transaction.rollback()
            raise
        transaction.commit()

    def repositories(self, transaction: FakeTransaction) -> Repositories:
        """What :meth:`begin` gives; override it to have one of them misbehave."""
        return fake_repositories(transaction)
