"""``steps``: what an execution remembers and waits for, keyed by name."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship

from pgconductor.domain.steps import StepKind
from pgconductor.models.base import CLOCK, OFTEN_VACUUMED, Base
from pgconductor.models.execution import Execution

__all__ = ["Step"]

_KINDS = ", ".join(f"'{kind}'" for kind in StepKind)
_WAITING = ", ".join(f"'{kind}'" for kind in StepKind if kind.waits)


class Step(Base):
    """A step's recorded result, or a wait; it lives and dies with its execution."""

    __tablename__ = "steps"
    __table_args__ = (
        CheckConstraint(
            "octet_length(key) >= 1 AND octet_length(key) <= 512"
            f" AND kind IN ({_KINDS})"
            f" AND (NOT pending OR kind IN ({_WAITING}))"
            " AND (NOT pending OR (result IS NULL AND ended_at IS NULL AND event_id IS NULL))"
            " AND (error IS NULL) = (error_type IS NULL)"
            " AND (error IS NULL OR result IS NULL)",
            name="life",
        ),
        # The waits that end by their time.
        Index(
            "steps_wake_idx",
            "wake_at",
            postgresql_where=text("pending AND wake_at IS NOT NULL"),
        ),
        # The waits for an event, by its name.
        Index(
            "steps_event_idx",
            "detail",
            postgresql_where=text("pending AND kind = 'event'"),
        ),
        # All waits, those first that have lasted longest, for operators. The predicate is one that
        # the statements of the hot path do not imply: with an index on what is pending at hand, the
        # planner would look for an execution's waits in it and its dead entries.
        Index(
            "steps_pending_idx",
            "created_at",
            postgresql_where=text("pending AND kind <> 'step'"),
        ),
        {"postgresql_with": OFTEN_VACUUMED},
    )

    execution_id: Mapped[UUID] = mapped_column(
        ForeignKey(Execution.id, ondelete="CASCADE"), primary_key=True
    )
    key: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(server_default=text("'step'"))
    place: Mapped[int | None]
    pending: Mapped[bool] = mapped_column(server_default=text("false"))
    result: Mapped[Any | None] = mapped_column(JSONB(none_as_null=True))
    error_type: Mapped[str | None]
    error: Mapped[str | None]
    detail: Mapped[str | None]
    wake_at: Mapped[datetime | None]
    match: Mapped[Any | None] = mapped_column(JSONB(none_as_null=True))
    child_id: Mapped[UUID | None]
    event_id: Mapped[UUID | None]
    woke: Mapped[int | None]
    #: Whether a wait has seen all events that were committed until then.
    looked: Mapped[bool] = mapped_column(server_default=text("false"))
    #: Its place among those that began at the same time, by one statement.
    ordinal: Mapped[int | None]
    turn: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(server_default=text(CLOCK))
    ended_at: Mapped[datetime | None]

    execution: Mapped[Execution] = relationship(back_populates="steps", viewonly=True)
