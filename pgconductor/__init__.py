"""Durable execution for Python on nothing but Postgres, native to SQLAlchemy and Alembic."""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pgconductor._version import __version__

if TYPE_CHECKING:
    from pgconductor.conductor import Conductor
    from pgconductor.domain.retry import RetryPolicy
    from pgconductor.handles import ExecutionHandle
    from pgconductor.runtime.context_waits import TaskContext
    from pgconductor.settings import Settings
    from pgconductor.tasks import Task, TaskRef
    from pgconductor.types import ExecutionState

__all__ = [
    "Conductor",
    "ExecutionHandle",
    "ExecutionState",
    "RetryPolicy",
    "Settings",
    "Task",
    "TaskContext",
    "TaskRef",
    "__version__",
]

# Imported at first use: a command line that only prints its help must not wait for SQLAlchemy.
_HOMES = {
    "Conductor": "pgconductor.conductor",
    "ExecutionHandle": "pgconductor.handles",
    "ExecutionState": "pgconductor.types",
    "RetryPolicy": "pgconductor.domain.retry",
    "Settings": "pgconductor.settings",
    "Task": "pgconductor.tasks",
    "TaskContext": "pgconductor.runtime.context_waits",
    "TaskRef": "pgconductor.tasks",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# Quiet unless the application says otherwise.
logging.getLogger("pgconductor").addHandler(logging.NullHandler())
