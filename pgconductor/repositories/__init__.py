"""Storage: protocols, and their implementation over a SQLAlchemy session or connection."""

from pgconductor.repositories.blocking import BlockingExecutor, at_once
from pgconductor.repositories.catalog import SqlQueueRepository, SqlTaskRepository
from pgconductor.repositories.driver import DriverExecutor
from pgconductor.repositories.executions import SqlExecutionRepository
from pgconductor.repositories.executor import Executor
from pgconductor.repositories.gate import SqlGateRepository
from pgconductor.repositories.orchestrators import SqlOrchestratorRepository, SqlSchemaRepository
from pgconductor.repositories.protocols import (
    ExecutionRepository,
    OrchestratorRepository,
    QueueRepository,
    Repositories,
    RetentionRepository,
    SchemaRepository,
    StepRepository,
    TaskRepository,
)
from pgconductor.repositories.retention import SqlRetentionRepository
from pgconductor.repositories.steps import SqlStepRepository

__all__ = [
    "BlockingExecutor",
    "DriverExecutor",
    "ExecutionRepository",
    "Executor",
    "OrchestratorRepository",
    "QueueRepository",
    "Repositories",
    "RetentionRepository",
    "SchemaRepository",
    "SqlExecutionRepository",
    "SqlGateRepository",
    "SqlOrchestratorRepository",
    "SqlQueueRepository",
    "SqlRetentionRepository",
    "SqlSchemaRepository",
    "SqlStepRepository",
    "SqlTaskRepository",
    "StepRepository",
    "TaskRepository",
    "at_once",
    "sql_repositories",
]


def sql_repositories(session: Executor) -> Repositories:
    """All repositories over one session or connection, which stays the caller's to commit."""
    return Repositories(
        executions=SqlExecutionRepository(session),
        orchestrators=SqlOrchestratorRepository(session),
        tasks=SqlTaskRepository(session),
        queues=SqlQueueRepository(session),
        steps=SqlStepRepository(session),
        schema=SqlSchemaRepository(session),
        retention=SqlRetentionRepository(session),
    )
