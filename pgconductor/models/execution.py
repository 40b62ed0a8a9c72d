"""``executions``: one row for each invocation, from invoke to retention, changed in place."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Index, SmallInteger, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship

from pgconductor.models.base import CLOCK, OFTEN_VACUUMED, Base
from pgconductor.types import ExecutionState

if TYPE_CHECKING:
    from pgconductor.models.step import Step

__all__ = ["Execution"]

_STATES = ", ".join(f"'{state}'" for state in ExecutionState)
_LIFE = (
    f"state IN ({_STATES})"
    " AND (state = 'running') = (locked_by IS NOT NULL)"
    " AND (state = 'running') = (locked_at IS NOT NULL)"
    " AND (state = 'running') = (claim_number IS NOT NULL)"
    " AND (claim_number IS NULL OR claim_number > 0)"
    " AND (state IN ('completed', 'failed', 'cancelled')) = (finished_at IS NOT NULL)"
    " AND (finished_by IS NULL OR finished_at IS NOT NULL)"
    " AND (finished_by IS NULL) = (finished_claim IS NULL)"
    " AND (result IS NULL OR state = 'completed')"
    " AND (state <> 'failed' OR last_error IS NOT NULL)"
    " AND (state <> 'cancelled' OR cancel_requested_at IS NOT NULL)"
    " AND max_attempts >= 1 AND attempts BETWEEN 0 AND max_attempts"
    " AND max_crashes >= 1 AND crashes BETWEEN 0 AND max_crashes"
    " AND wakes >= 0 AND (parent_key IS NULL OR parent_id IS NOT NULL)"
)
# A regular expression with a bound, as in {0,47}, takes ten times as long as one without and a look
# at the length.
_INPUT = (
    "queue ~ '^[a-z][a-z0-9_-]*$' AND octet_length(queue) <= 48"
    " AND task_key ~ '^[A-Za-z_][A-Za-z0-9_.:/-]*$' AND octet_length(task_key) <= 128"
    " AND priority BETWEEN -32767 AND 32767"
    " AND isfinite(run_at)"
    " AND (dedupe_key IS NULL OR octet_length(dedupe_key) BETWEEN 1 AND 512)"
    " AND (dedupe_scope IS NULL"
    " OR dedupe_key IS NOT NULL AND dedupe_scope IN ('unstarted', 'started'))"
    " AND (payload IS NULL OR pg_column_size(payload) <= 8388608)"
)


class Execution(Base):
    """One invocation of a task. Read and join it freely; write it through the services only.

    The constraints hold what ``docs/concepts.md`` says of the states: no row is half-finished.
    """

    __tablename__ = "executions"
    __table_args__ = (
        # Two constraints, not a dozen: each statement makes all of them ready anew, which takes
        # longer than looking at a row, and a fifth of a single invoke.
        CheckConstraint(_LIFE, name="state"),
        CheckConstraint(_INPUT, name="input"),
        # What a fetch reads, in its order. Ascending throughout, so that a row comparison can
        # start it anywhere: a higher priority comes first, hence the minus.
        Index(
            "executions_ready_idx",
            "queue",
            text("(-priority)"),
            "run_at",
            "id",
            postgresql_where=text("state = 'available'"),
        ),
        # At most one unfinished execution of a dedupe key; and, of those that were invoked with the
        # scope "unstarted", at most one that nobody has fetched yet. Those that somebody has are
        # no rivals of anybody: null is equal to nothing.
        Index(
            "executions_dedupe_key",
            "task_key",
            "queue",
            "dedupe_key",
            text("NULLIF(COALESCE(dedupe_scope, ''::text), 'started'::text)"),
            unique=True,
            postgresql_where=text("dedupe_key IS NOT NULL AND finished_at IS NULL"),
        ),
        # Finished ones of a dedupe key, for callers who count these too.
        Index(
            "executions_dedupe_finished_idx",
            "task_key",
            "queue",
            "dedupe_key",
            "finished_at",
            postgresql_where=text("dedupe_key IS NOT NULL AND finished_at IS NOT NULL"),
        ),
        # What an orchestrator holds, for recovery. The predicate is one that the statements of
        # the hot path do not imply: with an index on the owner at hand, the planner would finish
        # executions through it and its dead entries instead of the primary key.
        Index(
            "executions_held_idx",
            "locked_by",
            "claim_number",
            postgresql_where=text("claim_number > 0"),
        ),
        # The few whose cancellation is asked for and whose handler has not ended yet.
        Index(
            "executions_cancelling_idx",
            "locked_by",
            postgresql_where=text("cancel_requested_at IS NOT NULL AND state = 'running'"),
        ),
        # The children of an execution.
        Index(
            "executions_parent_idx",
            "parent_id",
            postgresql_where=text("parent_id IS NOT NULL"),
        ),
        # Children whose end their parent has not been told.
        Index(
            "executions_untold_idx",
            "parent_id",
            postgresql_where=text("parent_key IS NOT NULL AND awaited AND finished_at IS NOT NULL"),
        ),
        {"postgresql_with": OFTEN_VACUUMED},
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    task_key: Mapped[str]
    queue: Mapped[str] = mapped_column(server_default=text("'default'"))
    state: Mapped[str] = mapped_column(server_default=text("'available'"))
    priority: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    run_at: Mapped[datetime] = mapped_column(server_default=text(CLOCK))
    payload: Mapped[Any | None] = mapped_column(JSONB(none_as_null=True))
    result: Mapped[Any | None] = mapped_column(JSONB(none_as_null=True))
    last_error: Mapped[str | None]
    last_error_type: Mapped[str | None]
    last_error_traceback: Mapped[str | None]
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    max_attempts: Mapped[int] = mapped_column(server_default=text("3"))
    crashes: Mapped[int] = mapped_column(server_default=text("0"))
    max_crashes: Mapped[int] = mapped_column(server_default=text("3"))
    dedupe_key: Mapped[str | None]
    dedupe_scope: Mapped[str | None]
    locked_by: Mapped[UUID | None]
    locked_at: Mapped[datetime | None]
    claim_number: Mapped[int | None] = mapped_column(BigInteger)
    finished_by: Mapped[UUID | None]
    finished_claim: Mapped[int | None] = mapped_column(BigInteger)
    cancel_requested_at: Mapped[datetime | None]
    cancel_reason: Mapped[str | None]
    awaited: Mapped[bool] = mapped_column(server_default=text("false"))
    parent_id: Mapped[UUID | None]
    parent_key: Mapped[str | None]
    wakes: Mapped[int] = mapped_column(server_default=text("0"))
    created_at: Mapped[datetime] = mapped_column(server_default=text(CLOCK))
    finished_at: Mapped[datetime | None]

    steps: Mapped[list[Step]] = relationship(
        back_populates="execution", viewonly=True, order_by="Step.created_at"
    )
