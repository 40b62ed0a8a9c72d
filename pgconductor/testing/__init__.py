"""For tests: rehearsals, the engine without a database, and clocks that a test moves."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgconductor.testing.boundaries import Boundary, Plan, Point
    from pgconductor.testing.catalog import FakeQueueRepository, FakeTaskRepository
    from pgconductor.testing.clock import VirtualClock
    from pgconductor.testing.crashing import CrashPass, assert_survives_crashes, crash_everywhere
    from pgconductor.testing.database import FakeDatabase, FakeTransaction
    from pgconductor.testing.database_clock import DatabaseClock
    from pgconductor.testing.executions import FakeExecutionRepository
    from pgconductor.testing.orchestrators import FakeOrchestratorRepository, FakeSchemaRepository
    from pgconductor.testing.rehearsal import Rehearsal
    from pgconductor.testing.reports import Drained, StepError, Waiting
    from pgconductor.testing.retention import FakeRetentionRepository
    from pgconductor.testing.rows import EventRow, ExecutionRow, StepRow
    from pgconductor.testing.steps import FakeStepRepository
    from pgconductor.testing.unit_of_work import FakeUnitOfWork, fake_repositories

__all__ = [
    "Boundary",
    "CrashPass",
    "DatabaseClock",
    "Drained",
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
    "Plan",
    "Point",
    "Rehearsal",
    "StepError",
    "StepRow",
    "VirtualClock",
    "Waiting",
    "assert_survives_crashes",
    "crash_everywhere",
    "fake_repositories",
]

# Imported at first use: pytest loads the plugin in here wherever this package is installed.
_HOMES = {
    "boundaries": ("Boundary", "Plan", "Point"),
    "catalog": ("FakeQueueRepository", "FakeTaskRepository"),
    "clock": ("VirtualClock",),
    "crashing": ("CrashPass", "assert_survives_crashes", "crash_everywhere"),
    "database": ("FakeDatabase", "FakeTransaction"),
    "database_clock": ("DatabaseClock",),
    "executions": ("FakeExecutionRepository",),
    "orchestrators": ("FakeOrchestratorRepository", "FakeSchemaRepository"),
    "rehearsal": ("Rehearsal",),
    "reports": ("Drained", "StepError", "Waiting"),
    "retention": ("FakeRetentionRepository",),
    "rows": ("EventRow", "ExecutionRow", "StepRow"),
    "steps": ("FakeStepRepository",),
    "unit_of_work": ("FakeUnitOfWork", "fake_repositories"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            value = getattr(import_module(f"{__name__}.{home}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
