"""Use cases. A service owns the transaction, unless the caller brings one."""

from pgconductor.services.coordinator import MigrationCoordinator
from pgconductor.services.executions import ExecutionService
from pgconductor.services.health import HealthService
from pgconductor.services.orchestrators import OrchestratorService
from pgconductor.services.retention import RetentionService
from pgconductor.services.unit_of_work import Bind, UnitOfWork, unit_of_work

__all__ = [
    "Bind",
    "ExecutionService",
    "HealthService",
    "MigrationCoordinator",
    "OrchestratorService",
    "RetentionService",
    "UnitOfWork",
    "unit_of_work",
]
