"""The rows of the in-memory tables: values, replaced and never changed."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from pgconductor.domain.claims import Claim, Fetched
from pgconductor.domain.invocations import DedupeScope
from pgconductor.domain.limits import MAX_KEY_BYTES
from pgconductor.domain.orchestrators import OrchestratorSnapshot
from pgconductor.domain.payloads import decode
from pgconductor.domain.snapshots import ExecutionSnapshot, Progress
from pgconductor.domain.steps import Recorded, StepKind
from pgconductor.domain.tasks import TaskOptions
from pgconductor.exceptions import PayloadDecodeError
from pgconductor.types import ExecutionState

__all__ = [
    "STARTED",
    "Dedupe",
    "EventRow",
    "ExecutionRow",
    "StepRow",
    "Tables",
    "WalkRow",
    "holds",
    "next_number",
]


STARTED: Final = "started"
_SCOPES: Final = (None, DedupeScope.UNSTARTED.value, STARTED)

#: Task, queue, dedupe key, and the scope where that is one of its own.
Dedupe = tuple[str, str, str | None, str | None]

_numbers = itertools.count(1)


def next_number() -> int:
    """A number that is greater than all before: what came first, when the clock stands still."""
    return next(_numbers)


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
    dedupe_scope: str | None = None
    locked_by: UUID | None = None
    locked_at: datetime | None = None
    claim_number: int | None = None
    finished_by: UUID | None = None
    finished_claim: int | None = None
    cancel_requested_at: datetime | None = None
    cancel_reason: str | None = None
    awaited: bool = False
    parent_id: UUID | None = None
    parent_key: str | None = None
    wakes: int = 0
    created_at: datetime
    finished_at: datetime | None = None
    # Drawn when the transaction began that has invoked it.
    _number: int = field(default_factory=next_number, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self._consistent():
            raise ValueError(f"the row violates executions_state_check: {self}")

    @property
    def invoked(self) -> tuple[datetime, int]:
        """When it was invoked, to be compared with events."""
        return self.created_at, self._number

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
            and self.wakes >= 0
            and self.dedupe_scope in _SCOPES
            and (self.dedupe_scope is None or self.dedupe_key is not None)
            and (self.parent_key is None or self.parent_id is not None)
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
    def dedupe(self) -> Dedupe:
        """What a dedupe key is unique in; nobody is a rival of what has started."""
        return (self.task_key, self.queue, self.dedupe_key, self.dedupe_scope)

    @property
    def started_scope(self) -> str | None:
        """What its scope is from its first fetch on."""
        return None if self.dedupe_scope is None else STARTED

    @property
    def untold(self) -> bool:
        """A child that its parent waits for, and has not been told of yet."""
        return self.parent_key is not None and self.awaited

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
            parent_id=None if self.parent_key is None else self.parent_id,
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


def holds(row: ExecutionRow | None, claim: Claim) -> bool:
    """Whether that owner, and no earlier claim of the same orchestrator, holds the row (I1)."""
    return (
        row is not None and row.held_by(claim.orchestrator_id) and row.claim_number == claim.number
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRow:
    """A row of ``steps``, with the columns and the constraints of the real table."""

    execution_id: UUID
    key: str
    kind: StepKind = StepKind.STEP
    place: int | None = None
    pending: bool = False
    result: str | None = None
    error_type: str | None = None
    error: str | None = None
    detail: str | None = None
    wake_at: datetime | None = None
    match: str | None = None
    child_id: UUID | None = None
    event_id: UUID | None = None
    woke: int | None = None
    turn: int | None = None
    created_at: datetime
    ended_at: datetime | None = None
    # The clock of a test may stand still. What comes first is told by that of the process then.
    _began: float = field(default_factory=time.monotonic, compare=False, repr=False)
    _ended: float | None = field(default=None, compare=False, repr=False)
    _number: int = field(default_factory=next_number, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self._consistent():
            raise ValueError(f"the row violates steps_life_check: {self}")

    def _consistent(self) -> bool:
        nothing_came = self.result is None and self.ended_at is None and self.event_id is None
        return (
            1 <= len(self.key.encode()) <= MAX_KEY_BYTES
            and (not self.pending or (self.kind.waits and nothing_came))
            and (self.error is None) is (self.error_type is None)
            and (self.error is None or self.result is None)
        )

    @property
    def begun(self) -> tuple[datetime, float]:
        """When it began, to be compared."""
        return self.created_at, self._began

    @property
    def over(self) -> tuple[datetime, float]:
        """When it ended, to be compared with what began."""
        if self.ended_at is None:
            return self.begun
        return self.ended_at, self._began if self._ended is None else self._ended

    def began_before(self, other: StepRow) -> bool:
        """Whether it began before another one: by their numbers, where both have one."""
        if self.place is not None and other.place is not None:
            return self.place < other.place
        return self.begun < other.begun

    def began_after_end_of(self, other: StepRow) -> bool:
        """Whether it began when another one had ended."""
        if self.place is not None and other.place is not None:
            return self.place > other.place
        return self.begun > other.over

    @property
    def order(self) -> tuple[datetime, float, int]:
        """What a history is sorted by."""
        return *self.begun, self._number

    def recorded(self, now: datetime) -> Recorded:
        """The row as a history has it."""
        return Recorded(
            key=self.key,
            kind=self.kind,
            pending=self.pending,
            place=self.place,
            result=self.result,
            error_type=self.error_type,
            error=self.error,
            detail=self.detail,
            child_id=self.child_id,
            remaining=None if self.wake_at is None else self.wake_at - now,
            woke=self.woke,
            turn=self.turn,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    """A row of ``events``."""

    id: UUID
    name: str
    payload: str | None = None
    matched: bool = False
    dedupe_key: str | None = None
    emitted_at: datetime
    _number: int = field(default_factory=next_number, compare=False, repr=False)

    @property
    def emitted(self) -> tuple[datetime, int]:
        """When it was emitted, to be compared."""
        return self.emitted_at, self._number

    @property
    def place(self) -> tuple[str, datetime, UUID]:
        """What they are looked at by, while nobody has."""
        return self.name, self.emitted_at, self.id


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
    events: dict[UUID, EventRow] = field(default_factory=dict[UUID, EventRow])
    retention_walk: WalkRow = WalkRow()
    #: Drawn when the transaction began that these are for.
    number: int = 0

    def steps_of(self, execution_id: UUID) -> list[StepRow]:
        """The steps of an execution, in the order in which they began."""
        mine = [row for row in self.steps.values() if row.execution_id == execution_id]
        return sorted(mine, key=lambda row: row.order)

    def waits_for(self, child: ExecutionRow) -> bool:
        """Whether the parent of a child still waits for it."""
        if child.parent_id is None or child.parent_key is None:
            return False
        wait = self.steps.get((child.parent_id, child.parent_key))
        return wait is not None and wait.pending and wait.child_id == child.id

    def copy(self) -> Tables:
        """Tables that may be changed without changing these."""
        return Tables(
            dict(self.executions),
            dict(self.orchestrators),
            dict(self.steps),
            dict(self.tasks),
            set(self.queues),
            dict(self.events),
            self.retention_walk,
        )
