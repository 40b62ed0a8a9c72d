"""An execution with what it remembers, what it waits for, and whom it has invoked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from pgconductor.domain.snapshots import ExecutionSnapshot
from pgconductor.domain.steps import StepKind
from pgconductor.types import ExecutionState

__all__ = [
    "MAX_DEPTH",
    "MAX_FAMILY",
    "MAX_STEPS",
    "Branch",
    "ExecutionTree",
    "Relative",
    "StepSnapshot",
]

#: How many generations of children a tree may show.
MAX_DEPTH: Final = 20
#: How many executions a tree shows, and how many children are counted where it is cut off.
MAX_FAMILY: Final = 200
#: How many steps of the execution a tree shows, and how many waits of all its descendants.
MAX_STEPS: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSnapshot:
    """A row of ``steps`` as it was at one moment; the result is decoded.

    Attributes:
        execution_id: Its execution.
        key: Its name.
        kind: What it stands for.
        pending: What it waits for has not come.
        result: What it has returned.
        error_type: The type of the error that it has ended by.
        error: That error's message.
        detail: The child's task, or the event's name.
        match: What the event's payload must contain; None for any payload.
        child_id: The child.
        created_at: When it began.
        wake_at: When it ends at the latest.
        ended_at: When it ended; None while it waits, and for what is over as it begins.
    """

    execution_id: UUID
    key: str
    kind: StepKind
    pending: bool
    result: Any
    error_type: str | None
    error: str | None
    detail: str | None
    match: Any
    child_id: UUID | None
    created_at: datetime
    wake_at: datetime | None
    ended_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Relative:
    """An execution of a family: the one that was asked about, or a descendant of it.

    Attributes:
        id: Its id.
        parent_id: Who has invoked it.
        parent_key: By which key the parent waits for it; None if it does not.
        task_key: Its task.
        queue: Its queue.
        state: Its state.
        attempts: How often it was tried.
        max_attempts: How often it may be.
        crashes: How often its process died.
        max_crashes: How often it may.
        last_error_type: The type of its last error.
        last_error: That error's message.
        cancel_reason: Why it was cancelled, or is to be.
        created_at: When it was invoked.
        finished_at: When it finished.
        children: How many children it has; no more than ``MAX_FAMILY + 1`` are counted.
    """

    id: UUID
    parent_id: UUID | None
    parent_key: str | None
    task_key: str
    queue: str
    state: ExecutionState
    attempts: int
    max_attempts: int
    crashes: int
    max_crashes: int
    last_error_type: str | None
    last_error: str | None
    cancel_reason: str | None
    created_at: datetime
    finished_at: datetime | None
    children: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """A child in a tree.

    Attributes:
        key: The key that its parent knows it by; None if that is not known, or is dropped.
        execution: The child.
        waits: What it waits for.
        children: Its own children: unfinished ones first, then in the order of their making.
        hidden: How many of its children are left out.
    """

    key: str | None
    execution: Relative
    waits: tuple[StepSnapshot, ...]
    children: tuple[Branch, ...]
    hidden: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionTree:
    """An execution with its steps, its waits and its descendants.

    Attributes:
        execution: The execution.
        steps: What it has on record and what it waits for, in the order of their beginning; at
            most ``MAX_STEPS``.
        children: As in :class:`Branch`; those that no step of the execution knows are there too.
        hidden: How many of its children are left out.
    """

    execution: ExecutionSnapshot
    steps: tuple[StepSnapshot, ...]
    children: tuple[Branch, ...]
    hidden: int

    @classmethod
    def of(
        cls,
        execution: ExecutionSnapshot,
        steps: Sequence[StepSnapshot],
        family: Sequence[Relative],
        waits: Iterable[StepSnapshot],
    ) -> ExecutionTree:
        """Put together what was read.

        Args:
            execution: The execution.
            steps: Its steps.
            family: It and its descendants, as they are to be listed.
            waits: What the descendants wait for.
        """
        # Spawned ones are known by the step alone.
        keys = {one.child_id: one.key for one in steps if one.child_id is not None}
        children = _children(execution.id, _grouped(family), _waits(waits), keys)
        (counted,) = [one.children for one in family if one.id == execution.id] or [0]
        return cls(
            execution=execution,
            steps=tuple(steps),
            children=children,
            hidden=max(counted - len(children), 0),
        )


def _grouped(family: Iterable[Relative]) -> Mapping[UUID, list[Relative]]:
    found: dict[UUID, list[Relative]] = {}
    for one in family:
        if one.parent_id is not None:
            found.setdefault(one.parent_id, []).append(one)
    return found


def _waits(waits: Iterable[StepSnapshot]) -> Mapping[UUID, list[StepSnapshot]]:
    found: dict[UUID, list[StepSnapshot]] = {}
    for one in waits:
        found.setdefault(one.execution_id, []).append(one)
    return found


def _children(
    parent_id: UUID,
    family: Mapping[UUID, list[Relative]],
    waits: Mapping[UUID, list[StepSnapshot]],
    keys: Mapping[UUID, str],
) -> tuple[Branch, ...]:
    made: list[Branch] = []
    for one in family.get(parent_id, ()):
        children = _children(one.id, family, waits, keys)
        made.append(
            Branch(
                key=keys.get(one.id, one.parent_key),
                execution=one,
                waits=tuple(waits.get(one.id, ())),
                children=children,
                hidden=max(one.children - len(children), 0),
            )
        )
    return tuple(made)
