"""``retention_walk``: how far the removal of old executions has come."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from pgconductor.models.base import CLOCK, Base

__all__ = ["RetentionWalk"]


class RetentionWalk(Base):
    """One row, for all orchestrators: whoever has locked it walks on from where it says.

    ``walked_to`` and ``started_at`` are those of a walk that is under way.
    """

    __tablename__ = "retention_walk"
    __table_args__ = (
        CheckConstraint("singleton", name="singleton"),
        CheckConstraint("walks >= 0", name="walks"),
    )

    singleton: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    walks: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    walked_to: Mapped[UUID | None]
    started_at: Mapped[datetime | None]
    next_walk_at: Mapped[datetime] = mapped_column(server_default=text(CLOCK))
