"""Executions as they are read: one, or a page of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from pgconductor.domain.limits import check_count, check_queue, check_run_at, check_task_key
from pgconductor.types import ExecutionState

__all__ = ["ExecutionFilter", "ExecutionSnapshot", "Page", "Progress"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionSnapshot:
    """A row of ``executions`` as it was at one moment; payload and result are decoded."""

    id: UUID
    task_key: str
    queue: str
    state: ExecutionState
    priority: int
    run_at: datetime
    payload: Any
    result: Any
    last_error: str | None
    last_error_type: str | None
    last_error_traceback: str | None
    attempts: int
    max_attempts: int
    crashes: int
    max_crashes: int
    dedupe_key: str | None
    locked_by: UUID | None
    locked_at: datetime | None
    claim_number: int | None
    finished_by: UUID | None
    cancel_requested_at: datetime | None
    cancel_reason: str | None
    parent_id: UUID | None
    parent_key: str | None
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What those who wait for an execution have to know; they need no right to read payloads.

    Attributes:
        state: Its state.
        result: What its handler returned, decoded.
        last_error: The error of its last failed attempt.
        last_error_type: That error's type.
        cancel_reason: Why it was cancelled, or is to be.
    """

    state: ExecutionState
    result: Any
    last_error: str | None
    last_error_type: str | None
    cancel_reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionFilter:
    """Which executions to list; every field that is given must hold.

    Attributes:
        states: Any of these.
        task_key: This task.
        queue: This queue.
        created_after: Invoked at this instant or later.
        created_before: Invoked before this instant.
    """

    states: tuple[ExecutionState, ...] = ()
    task_key: str | None = None
    queue: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "states", tuple(ExecutionState(one) for one in self.states))
        if self.task_key is not None:
            check_task_key(self.task_key, "task_key")
        if self.queue is not None:
            check_queue(self.queue)
        if self.created_after is not None:
            check_run_at(self.created_after, "created_after")
        if self.created_before is not None:
            check_run_at(self.created_before, "created_before")


@dataclass(frozen=True, slots=True)
class Page:
    """A page of executions, newest first.

    Attributes:
        items: The executions.
        next: Pass it as ``after`` for the next page; None at the end.
    """

    items: Sequence[ExecutionSnapshot]
    next: UUID | None

    @staticmethod
    def check_size(size: int) -> int:
        """Return ``size`` if a page may have it: 1 to 1,000."""
        return check_count(size, "limit", most=1_000)
