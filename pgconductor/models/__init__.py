"""Declarative models of the schema ``pgconductor``, for reading and joining.

They mirror the tables that the Alembic revisions make. Tests compare the catalogs of the two:
``alembic check`` sees no defaults, no storage parameters and no definitions of constraints.
"""

from pgconductor.models.base import SCHEMA, VERSION_TABLE, Base
from pgconductor.models.catalog import Queue, TaskDefinition
from pgconductor.models.event import Event
from pgconductor.models.execution import Execution
from pgconductor.models.orchestrator import Orchestrator
from pgconductor.models.retention import RetentionWalk
from pgconductor.models.schema import SchemaGate, SchemaMigration
from pgconductor.models.step import Step

__all__ = [
    "SCHEMA",
    "VERSION_TABLE",
    "Base",
    "Event",
    "Execution",
    "Orchestrator",
    "Queue",
    "RetentionWalk",
    "SchemaGate",
    "SchemaMigration",
    "Step",
    "TaskDefinition",
]
