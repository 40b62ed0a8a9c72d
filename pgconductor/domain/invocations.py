"""What it takes to invoke a task, checked before any SQL."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from pgconductor.domain.ids import new_id
from pgconductor.domain.limits import (
    check_count,
    check_dedupe_key,
    check_delay,
    check_priority,
    check_queue,
    check_run_at,
    check_task_key,
)
from pgconductor.exceptions import InvalidInput

__all__ = ["DedupeScope", "Invocation", "Invoked"]


class DedupeScope(StrEnum):
    """Which executions a dedupe key is compared with.

    Attributes:
        UNFINISHED: Those that have not finished: afterwards the key makes a new execution.
        RETAINED: Finished ones too, for as long as retention keeps them.
        UNSTARTED: Those that no worker has fetched yet: one more after the one at work. Only with
            others that were invoked with this scope: its keys are its own.
    """

    UNFINISHED = "unfinished"
    RETAINED = "retained"
    UNSTARTED = "unstarted"


@dataclass(frozen=True, kw_only=True)
class Invocation:
    """One invocation, valid by construction.

    Attributes:
        task_key: The task to execute.
        payload: Its payload as JSON text; None for no payload.
        queue: The queue that its worker serves.
        run_at: Not before this instant; None for at once.
        delay: Not before this long after the invoke, by the database's clock.
        priority: Higher is sooner, within what is due.
        dedupe_key: While an execution of the same task, queue and key is unfinished, invoking
            returns that one.
        dedupe_scope: Which executions count.
        dedupe_replace: An execution that is there, and that nobody has started, gets this payload,
            and is due no later and no less urgent than this would be.
        max_attempts: Overrides what the task declares; None leaves it to the task.
        max_crashes: Likewise.
        id: The execution's id, made here, so that it is known before the commit.
        kind: What invocations that differ in id and payload only have in common.

    Raises:
        InvalidInput: Some field is out of its range; see :mod:`pgconductor.domain.limits`.
    """

    task_key: str
    payload: str | None = None
    queue: str = "default"
    run_at: datetime | None = None
    delay: timedelta | None = None
    priority: int = 0
    dedupe_key: str | None = None
    dedupe_scope: DedupeScope = DedupeScope.UNFINISHED
    dedupe_replace: bool = False
    max_attempts: int | None = None
    max_crashes: int | None = None
    id: UUID = field(default_factory=new_id)
    kind: tuple[Any, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_task_key(self.task_key)
        check_queue(self.queue)
        check_priority(self.priority)
        if self.run_at is not None:
            check_run_at(self.run_at)
        if self.delay is not None:
            check_delay(self.delay)
            if self.run_at is not None:
                raise InvalidInput("delay", "give run_at or delay, not both")
        if self.dedupe_key is not None:
            check_dedupe_key(self.dedupe_key)
        # A plain string equals a scope without being one.
        if type(self.dedupe_scope) is not DedupeScope:
            if self.dedupe_scope not in tuple(DedupeScope):
                raise InvalidInput("dedupe_scope", f"{self.dedupe_scope!r} is no DedupeScope")
            object.__setattr__(self, "dedupe_scope", DedupeScope(self.dedupe_scope))
        if self.dedupe_replace is not False:
            self._check_replace()
        if self.max_attempts is not None:
            check_count(self.max_attempts, "max_attempts")
        if self.max_crashes is not None:
            check_count(self.max_crashes, "max_crashes")
        kind = (
            self.task_key,
            self.queue,
            self.run_at,
            self.delay,
            self.priority,
            self.dedupe_key,
            self.max_attempts,
            self.max_crashes,
        )
        object.__setattr__(self, "kind", kind)

    def _check_replace(self) -> None:
        if self.dedupe_replace is not True:
            raise InvalidInput(
                "dedupe_replace", f"{self.dedupe_replace!r} is neither True nor False"
            )
        if self.dedupe_key is None or self.dedupe_scope is not DedupeScope.UNSTARTED:
            raise InvalidInput(
                "dedupe_replace",
                "replaces what nobody has started: give a dedupe_key and dedupe_scope='unstarted'",
            )

    def alike(self, payload: str | None) -> Invocation:
        """Another invocation that differs in id and payload only; it has no dedupe key.

        Args:
            payload: Its payload as JSON text.
        """
        other = object.__new__(Invocation)
        # Valid already, and copied in one go: thousands may be made for one call.
        vars(other).update(vars(self), payload=payload, id=new_id())
        return other


@dataclass(frozen=True, slots=True)
class Invoked:
    """What came of an invocation.

    Attributes:
        id: The execution that stands for it.
        created: False where a dedupe key led to one that was there already.
    """

    id: UUID
    created: bool
