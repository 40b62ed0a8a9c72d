"""The declarative base: one schema, one naming convention, one mapping of types."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import DateTime, MetaData, Text, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase

__all__ = ["CLOCK", "OFTEN_VACUUMED", "SCHEMA", "VERSION_TABLE", "Base"]

#: The schema that holds everything of ours.
SCHEMA = "pgconductor"
#: Alembic's version table there. An application's own Alembic would find its usual name, too, where
#: a ``search_path`` names our schema; see ``docs/decisions/0040-own-version-table.md``.
VERSION_TABLE = "pgconductor_version"
#: The database's clock; tests may set it, see ``pgconductor.testing``.
CLOCK = f"{SCHEMA}.clock()"
#: Storage parameters of tables that grow large and change fast: vacuum comes at a hundredth of dead
#: rows, not at a fifth. See ``docs/decisions/0015-autovacuum.md``.
OFTEN_VACUUMED: Mapping[str, str] = MappingProxyType(
    {
        "autovacuum_vacuum_threshold": "10000",
        "autovacuum_vacuum_scale_factor": "0.01",
        "autovacuum_vacuum_cost_delay": "2",
        "autovacuum_vacuum_cost_limit": "2000",
        "autovacuum_analyze_threshold": "10000",
        "autovacuum_analyze_scale_factor": "0.02",
    }
)


class Base(DeclarativeBase):
    """Base of all models; ``Base.metadata`` is what Alembic compares the database with."""

    metadata = MetaData(
        schema=SCHEMA,
        naming_convention={
            "pk": "%(table_name)s_pkey",
            "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
            "ck": "%(table_name)s_%(constraint_name)s_check",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        },
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Text(),
        datetime: DateTime(timezone=True),
        UUID: Uuid(),
        dict[str, Any]: JSONB(none_as_null=True),
    }
