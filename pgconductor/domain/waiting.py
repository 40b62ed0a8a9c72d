"""What suspended executions wait for, execution by execution, and how to go on behind a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Self
from uuid import UUID

from pgconductor.domain.steps import StepKind
from pgconductor.exceptions import InvalidInput

__all__ = ["MAX_WAITS", "Waiting", "WaitingExecution", "WaitingPage", "WaitingPlace"]

#: How many waits of one execution are shown at most.
MAX_WAITS: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A wait that an execution is suspended for.

    Attributes:
        key: The name of the wait.
        kind: What is waited for.
        detail: The child's task, or the event's name.
        match: What the event's payload must contain; None for any payload.
        child_id: The child.
        since: When it began.
        until: When it ends at the latest; None if it may last for ever.
    """

    key: str
    kind: StepKind
    detail: str | None
    match: Any
    child_id: UUID | None
    since: datetime
    until: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingExecution:
    """A suspended execution and what it waits for.

    Attributes:
        execution_id: The execution.
        task_key: Its task.
        queue: Its queue.
        since: When the first of its waits began.
        count: How many waits it has.
        waits: The first of them.
    """

    execution_id: UUID
    task_key: str
    queue: str
    since: datetime
    count: int
    waits: Sequence[Waiting]


@dataclass(frozen=True, slots=True)
class WaitingPlace:
    """The place of an execution among those that wait; as text it may be kept and passed on.

    Attributes:
        since: When the first of its waits began.
        execution_id: The execution.
    """

    since: datetime
    execution_id: UUID

    def __str__(self) -> str:
        return f"{self.since.isoformat()}/{self.execution_id}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The place that a text names.

        Raises:
            InvalidInput: It names none.
        """
        since, _, execution_id = text.partition("/")
        try:
            place = cls(datetime.fromisoformat(since), UUID(execution_id))
        except ValueError:
            place = None
        if place is None or place.since.tzinfo is None:
            raise InvalidInput("after", f"{text!r} is no place among what waits; see `next`")
        return place


@dataclass(frozen=True, slots=True)
class WaitingPage:
    """A page of suspended executions, those first that have waited longest.

    Attributes:
        items: The executions.
        next: Pass it as ``after`` for the next page; None at the end.
    """

    items: Sequence[WaitingExecution]
    next: WaitingPlace | None

    @classmethod
    def of(cls, found: Sequence[WaitingExecution], limit: int) -> Self:
        """A page of what was found, when one more was looked for than it may have.

        Args:
            found: In their order.
            limit: How many a page.
        """
        items = found[:limit]
        if len(found) <= limit:
            return cls(items, None)
        return cls(items, WaitingPlace(items[-1].since, items[-1].execution_id))
