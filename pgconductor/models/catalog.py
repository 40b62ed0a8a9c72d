"""``tasks`` and ``queues``: what the orchestrators have declared, for SQL and for operators."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import CheckConstraint, Interval, text
from sqlalchemy.orm import Mapped, mapped_column

from pgconductor.models.base import CLOCK, Base

__all__ = ["Queue", "TaskDefinition"]


class TaskDefinition(Base):
    """A task as an orchestrator last declared it; an invoke from SQL takes its limits from here."""

    __tablename__ = "tasks"
    __table_args__ = (
        CheckConstraint(r"key ~ '^[A-Za-z_][A-Za-z0-9_.:/-]{0,127}$'", name="key"),
        CheckConstraint(r"queue ~ '^[a-z][a-z0-9_-]{0,47}$'", name="queue"),
        CheckConstraint("max_attempts >= 1", name="max_attempts"),
        CheckConstraint("max_crashes >= 1", name="max_crashes"),
        CheckConstraint(
            "retain_completed > interval '0' AND retain_failed > interval '0'", name="retain"
        ),
    )

    key: Mapped[str] = mapped_column(primary_key=True)
    queue: Mapped[str]
    max_attempts: Mapped[int]
    max_crashes: Mapped[int]
    timeout: Mapped[timedelta | None] = mapped_column(Interval)
    # NULL is for ever.
    retain_completed: Mapped[timedelta | None] = mapped_column(Interval)
    retain_failed: Mapped[timedelta | None] = mapped_column(Interval)
    created_at: Mapped[datetime] = mapped_column(server_default=text(CLOCK))
    updated_at: Mapped[datetime] = mapped_column(server_default=text(CLOCK))


class Queue(Base):
    """A queue that some orchestrator serves or has served."""

    __tablename__ = "queues"
    __table_args__ = (CheckConstraint(r"name ~ '^[a-z][a-z0-9_-]{0,47}$'", name="name"),)

    name: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = mapped_column(server_default=text(CLOCK))
