"""``events``: what was emitted, for executions that wait for it now or later."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, Index, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from pgconductor.models.base import OFTEN_VACUUMED, Base

__all__ = ["Event"]


class Event(Base):
    """An emitted event. Read and join it freely; emit through a conductor or ``emit_event``."""

    __tablename__ = "events"
    __table_args__ = (
        CheckConstraint(
            "name ~ '^[A-Za-z_][A-Za-z0-9_.:/-]*$' AND octet_length(name) <= 128"
            " AND (dedupe_key IS NULL OR octet_length(dedupe_key) BETWEEN 1 AND 512)"
            " AND (payload IS NULL OR pg_column_size(payload) <= 8388608)",
            name="input",
        ),
        # One event of a dedupe key, for as long as it is kept.
        Index(
            "events_dedupe_key",
            "name",
            "dedupe_key",
            unique=True,
            postgresql_where=text("dedupe_key IS NOT NULL"),
        ),
        Index("events_name_idx", "name", "emitted_at", "id"),
        # Those that nobody has looked at.
        Index("events_unmatched_idx", "id", postgresql_where=text("NOT matched")),
        # For retention.
        Index("events_emitted_idx", "emitted_at"),
        {"postgresql_with": OFTEN_VACUUMED},
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str]
    payload: Mapped[Any | None] = mapped_column(JSONB(none_as_null=True))
    matched: Mapped[bool] = mapped_column(server_default=text("false"))
    dedupe_key: Mapped[str | None]
    emitted_at: Mapped[datetime] = mapped_column(server_default=text("pgconductor.wall_clock()"))
