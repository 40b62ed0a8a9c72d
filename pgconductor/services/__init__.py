"""Use cases. A service owns the transaction, unless the caller brings one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pgconductor.services.events import EventService
from pgconductor.services.executions import ExecutionService
from pgconductor.services.health import HealthService
from pgconductor.services.orchestrators import OrchestratorService
from pgconductor.services.retention import RetentionService
from pgconductor.services.unit_of_work import Bind, UnitOfWork, unit_of_work

if TYPE_CHECKING:
    from pgconductor.services.coordinator import MigrationCoordinator

__all__ = [
    "Bind",
    "EventService",
    "ExecutionService",
    "HealthService",
    "MigrationCoordinator",
    "OrchestratorService",
    "RetentionService",
    "UnitOfWork",
    "unit_of_work",
]


def __getattr__(name: str) -> Any:
    """Import what brings Alembic along only where it is asked for: most processes never migrate."""
    if name == "MigrationCoordinator":
        from pgconductor.services.coordinator import MigrationCoordinator

        return MigrationCoordinator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
