"""``orchestrators``: the processes that may hold executions."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import ARRAY, BigInteger, CheckConstraint, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from pgconductor.models.base import Base

__all__ = ["Orchestrator"]


class Orchestrator(Base):
    """A live orchestrator; its row is there before it may fetch, and goes last.

    The shutdown request is a level: it stays until the orchestrator has left, so that a lost
    answer to a heartbeat loses nothing.
    """

    __tablename__ = "orchestrators"
    __table_args__ = (
        CheckConstraint("schema_required BETWEEN 1 AND schema_version", name="schema_version"),
        CheckConstraint("heartbeat_number >= 0", name="heartbeat_number"),
        CheckConstraint(
            "shutdown_reason IS NULL OR shutdown_requested_at IS NOT NULL", name="shutdown"
        ),
        # A heartbeat changes no index: with room on its page, its old version is pruned at once.
        {
            "postgresql_with": {
                "fillfactor": "50",
                "autovacuum_vacuum_threshold": "500",
                "autovacuum_vacuum_scale_factor": "0",
            }
        },
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    version: Mapped[str]
    schema_version: Mapped[int]
    schema_required: Mapped[int]
    hostname: Mapped[str]
    pid: Mapped[int]
    queues: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    started_at: Mapped[datetime] = mapped_column(server_default=text("pgconductor.wall_clock()"))
    last_heartbeat_at: Mapped[datetime] = mapped_column(
        server_default=text("pgconductor.wall_clock()")
    )
    heartbeat_number: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    shutdown_requested_at: Mapped[datetime | None]
    shutdown_reason: Mapped[str | None]
