"""The declarative base: one schema, one naming convention, one mapping of types."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import DateTime, MetaData, Text, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase

__all__ = ["CLOCK", "SCHEMA", "Base"]

#: The schema that holds everything of ours.
SCHEMA = "pgconductor"
#: The database's clock; tests may set it, see ``pgconductor.testing``.
CLOCK = f"{SCHEMA}.clock()"


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
