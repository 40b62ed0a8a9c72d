"""For tests: the engine without a database, and clocks that a test moves."""

from pgconductor.testing.catalog import FakeQueueRepository, FakeTaskRepository
from pgconductor.testing.clock import VirtualClock
from pgconductor.testing.database import FakeDatabase, FakeTransaction
from pgconductor.testing.database_clock import DatabaseClock
from pgconductor.testing.executions import FakeExecutionRepository
from pgconductor.testing.orchestrators import FakeOrchestratorRepository, FakeSchemaRepository
from pgconductor.testing.retention import FakeRetentionRepository
from pgconductor.testing.rows import EventRow, ExecutionRow, StepRow
from pgconductor.testing.steps import FakeStepRepository
from pgconductor.testing.unit_of_work import FakeUnitOfWork, fake_repositories

__all__ = [
    "DatabaseClock",
    "EventRow",
    "ExecutionRow",
    "FakeDatabase",
    "FakeExecutionRepository",
    "FakeOrchestratorRepository",
    "FakeQueueRepository",
    "FakeRetentionRepository",
    "FakeSchemaRepository",
    "FakeStepRepository",
    "FakeTaskRepository",
    "FakeTransaction",
    "FakeUnitOfWork",
    "StepRow",
    "VirtualClock",
    "fake_repositories",
]
