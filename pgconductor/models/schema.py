"""``schema_migrations`` and ``schema_gate``: which revisions are there, and who may work here."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

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

    The lease is the migration that is at work; it is free as soon as the holder's server process
    (``lease_pid``, which bears the lease in its ``application_name``) has ended. The intent is what
    it prepares, and is renewed while it waits: nobody registers who knows less than
    ``intent_floor`` or needs more than ``intent_ceiling``. Where its migration has died, it
    expires.
    """

    __tablename__ = "schema_gate"
    __table_args__ = (
        CheckConstraint("singleton", name="singleton"),
        CheckConstraint("floor BETWEEN 0 AND installed", name="floor"),
        CheckConstraint(
            "(lease_id IS NULL) = (lease_holder IS NULL)"
            " AND (lease_id IS NULL) = (lease_pid IS NULL)"
            " AND (lease_id IS NULL) = (lease_since IS NULL)"
            " AND (intent_expires_at IS NULL)"
            " = (intent_floor IS NULL AND intent_ceiling IS NULL)",
            name="lease",
        ),
    )

    singleton: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    installed: Mapped[int]
    floor: Mapped[int]
    lease_id: Mapped[UUID | None]
    lease_holder: Mapped[str | None]
    lease_pid: Mapped[int | None]
    lease_since: Mapped[datetime | None]
    lease_note: Mapped[str | None]
    intent_floor: Mapped[int | None]
    intent_ceiling: Mapped[int | None]
    intent_expires_at: Mapped[datetime | None]
