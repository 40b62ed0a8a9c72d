"""``steps``: remembered results inside an execution, keyed by name."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship

from pgconductor.models.base import CLOCK, OFTEN_VACUUMED, Base
from pgconductor.models.execution import Execution

__all__ = ["Step"]


class Step(Base):
    """A step's recorded result; it lives and dies with its execution."""

    __tablename__ = "steps"
    __table_args__ = (
        CheckConstraint("octet_length(key) BETWEEN 1 AND 512", name="key"),
        {"postgresql_with": OFTEN_VACUUMED},
    )

    execution_id: Mapped[UUID] = mapped_column(
        ForeignKey(Execution.id, ondelete="CASCADE"), primary_key=True
    )
    key: Mapped[str] = mapped_column(primary_key=True)
    result: Mapped[Any | None] = mapped_column(JSONB(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(server_default=text(CLOCK))

    execution: Mapped[Execution] = relationship(back_populates="steps", viewonly=True)
