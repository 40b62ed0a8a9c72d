"""What a rehearsal tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from pgconductor.domain.snapshots import ExecutionSnapshot
from pgconductor.domain.steps import StepKind

__all__ = ["Drained", "StepError", "Waiting"]


class StepError(NamedTuple):
    """How a step has failed for good.

    Attributes:
        type: The error's type.
        message: The error's message.
    """

    type: str
    message: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """Something that an execution waits for.

    Attributes:
        execution_id: The execution.
        task: Its task.
        key: Under which key it waits.
        kind: For what: a time, a child or an event.
        what: The event's name, or the child's task; None for a time.
        remaining: How long it waits at most, from now; None for no limit.
    """

    execution_id: UUID
    task: str
    key: str
    kind: StepKind
    what: str | None = None
    remaining: timedelta | None = None

    def __str__(self) -> str:
        what = f" {self.what!r}" if self.what else ""
        limit = f", for {self.remaining} at most" if self.remaining is not None else ""
        return f"{self.task} waits for {self.kind.value}{what} as {self.key!r}{limit}"


@dataclass(frozen=True, slots=True)
class Drained:
    """What was executed, and what is left.

    Attributes:
        attempts: How many attempts were made; going on after a wait is one more, unless the handler
            has stayed in memory.
        crashes: How many of them died.
        passed: How far the clock was moved.
        waiting: What executions wait for.
        later: Executions that are due later than the clock was to be moved.
        unknown: Executions of tasks that this conductor does not declare.
    """

    attempts: int = 0
    crashes: int = 0
    passed: timedelta = timedelta(0)
    waiting: Sequence[Waiting] = ()
    later: Sequence[ExecutionSnapshot] = ()
    unknown: Sequence[ExecutionSnapshot] = ()

    @property
    def finished(self) -> bool:
        """Whether nothing is left."""
        return not (self.waiting or self.later or self.unknown)

    def __str__(self) -> str:
        lines = [f"{self.attempts} attempts, {self.crashes} crashes, {self.passed} passed"]
        lines += map(str, self.waiting)
        lines += [f"{one.task_key} is due at {one.run_at.isoformat()}" for one in self.later]
        lines += [f"{one.task_key} is not declared here" for one in self.unknown]
        return "\n".join(lines)
