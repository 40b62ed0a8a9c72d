"""The rows of the in-memory tables: values, replaced and never changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from pgconductor.domain.claims import Claim, Fetched
from pgconductor.domain.orchestrators import OrchestratorSnapshot
from pgconductor.domain.payloads import decode
from pgconductor.domain.snapshots import ExecutionSnapshot, Progress
from pgconductor.domain.tasks import TaskOptions
from pgconductor.exceptions import PayloadDecodeError
from pgconductor.types import ExecutionState

__all__ = ["ExecutionRow", "StepRow", "Tables", "WalkRow"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionRow:
    """A row of ``executions``, with the columns and the constraints of the real table."""

    id: UUID
    task_key: str
    queue: str
    state: ExecutionState = ExecutionState.AVAILABLE
    priority: int = 0
    run_at: datetime
    payload: str | None = None
    result: str | None = None
    last_error: str | None = None
    last_error_type: str | None = None
    last_error_traceback: str | None = None
    attempts: int = 0
    max_attempts: int
    crashes: int = 0
    max_crashes: int
    dedupe_key: str | None = None
    locked_by: UUID | None = None
    locked_at: datetime | None = None
    claim_number: int | None = None
    finished_by: UUID | None = None
    finished_claim: int | None = None
    cancel_requested_at: datetime | None = None
    cancel_reason: str | None = None
    awaited: bool = False
    parent_id: UUID | None = None
    created_at: datetime
    finished_at: datetime | None = None

    def __post_init__(self) -> None:
        if not self._consistent():
            raise ValueError(f"the row violates executions_state_check: {self}")

    def _consistent(self) -> bool:
        running = self.state is ExecutionState.RUNNING
        finished = self.finished_at is not None
        owner = (self.locked_by, self.locked_at, self.claim_number)
        return (
            all((value is not None) is running for value in owner)
            and self.state.finished is finished
            and (self.finished_by is None or finished)
            and (self.finished_by is None) is (self.finished_claim is None)
            and (self.result is None or self.state is ExecutionState.COMPLETED)
            and (self.state is not ExecutionState.FAILED or self.last_error is not None)
            and (self.state is not ExecutionState.CANCELLED or self.cancel_requested_at is not None)
            and 0 <= self.attempts <= self.max_attempts
            and 0 <= self.crashes <= self.max_crashes
        )

    @property
    def suspect(self) -> bool:
        """One crash short of its limit: fetched alone."""
        return self.crashes > 0 and self.crashes >= self.max_crashes - 1

    @property
    def due_order(self) -> tuple[int, datetime, UUID]:
        """What a fetch sorts by."""
        return (-self.priority, self.run_at, self.id)

    @property
    def dedupe(self) -> tuple[str, str, str | None]:
        """What a dedupe key is unique in."""
        return (self.task_key, self.queue, self.dedupe_key)

    def held_by(self, orchestrator_id: UUID) -> bool:
        """Whether that orchestrator holds it."""
        return self.state is ExecutionState.RUNNING and self.locked_by == orchestrator_id

    def fetched(self, claim: Claim) -> Fetched:
        """The row as its new owner gets it."""
        return Fetched(
            id=self.id,
            claim=claim,
            task_key=self.task_key,
            queue=self.queue,
            payload=self.payload,
            attempt=self.attempts,
            max_attempts=self.max_attempts,
            crashes=self.crashes,
            max_crashes=self.max_crashes,
            priority=self.priority,
            run_at=self.run_at,
            created_at=self.created_at,
        )

    def snapshot(self) -> ExecutionSnapshot:
        """The row as it is read."""
        values = {name: getattr(self, name) for name in _SNAPSHOT_FIELDS}
        values |= {"payload": _readable(self.payload), "result": _readable(self.result)}
        return ExecutionSnapshot(**values)

    def progress(self) -> Progress:
        """The row as those read it who wait for its end."""
        values = {name: getattr(self, name) for name in Progress.__dataclass_fields__}
        return Progress(**{**values, "result": _readable(self.result)})


_SNAPSHOT_FIELDS = tuple(ExecutionSnapshot.__dataclass_fields__)


def _readable(text: str | None) -> Any:
    try:
        return decode(text)
    except PayloadDecodeError:
        return text


@dataclass(frozen=True, slots=True)
class StepRow:
    """A row of ``steps``."""

    execution_id: UUID
    key: str
    result: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class WalkRow:
    """The row of ``retention_walk``; without a time, the next walk is due."""

    walks: int = 0
    walked_to: UUID | None = None
    started_at: datetime | None = None
    next_walk_at: datetime | None = None


@dataclass(slots=True)
class Tables:
    """All tables at one moment. Rows are values, so a copy of the dictionaries is a copy."""

    executions: dict[UUID, ExecutionRow] = field(default_factory=dict[UUID, ExecutionRow])
    orchestrators: dict[UUID, OrchestratorSnapshot] = field(
        default_factory=dict[UUID, OrchestratorSnapshot]
    )
    steps: dict[tuple[UUID, str], StepRow] = field(default_factory=dict[tuple[UUID, str], StepRow])
    tasks: dict[str, TaskOptions] = field(default_factory=dict[str, TaskOptions])
    queues: set[str] = field(default_factory=set[str])
    retention_walk: WalkRow = WalkRow()

    def copy(self) -> Tables:
        """Tables that may be changed without changing these."""
        return Tables(
            dict(self.executions),
            dict(self.orchestrators),
            dict(self.steps),
            dict(self.tasks),
            set(self.queues),
            self.retention_walk,
        )
