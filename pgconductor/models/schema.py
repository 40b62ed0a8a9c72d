"""``schema_migrations`` and ``schema_gate``: which revisions are there, and who may work here."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from pgconductor.models.base import Base

__all__ = ["SchemaGate", "SchemaMigration"]


class SchemaMigration(Base):
    """The ledger: one row for each revision that the database holds."""

    __tablename__ = "schema_migrations"
    __table_args__ = (CheckConstraint("version > 0", name="version"),)

    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str]
    applied_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    # No default: a revision that does not say whether it is breaking cannot be recorded.
    breaking: Mapped[bool]


class SchemaGate(Base):
    """One row that serialises registration and migration.

    A registration reads it in share mode in the statement that inserts the orchestrator, a
    migration updates it; so no older orchestrator slips past a migration that has just counted.
    """

    __tablename__ = "schema_gate"
    __table_args__ = (
        CheckConstraint("singleton", name="singleton"),
        CheckConstraint("floor BETWEEN 0 AND installed", name="floor"),
    )

    singleton: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    installed: Mapped[int]
    floor: Mapped[int]
