"""Durable execution for Python on nothing but Postgres, native to SQLAlchemy and Alembic."""

import logging

from pgconductor._version import __version__
from pgconductor.conductor import Conductor
from pgconductor.domain.retry import RetryPolicy
from pgconductor.handles import ExecutionHandle
from pgconductor.runtime.context import TaskContext
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

# Quiet unless the application says otherwise.
logging.getLogger("pgconductor").addHandler(logging.NullHandler())
