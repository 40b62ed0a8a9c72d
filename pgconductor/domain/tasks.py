"""What a task declares about itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from pgconductor.domain.limits import (
    DEFAULT_MAX_ATTEMPTS,
    DEFAULT_MAX_CRASHES,
    check_count,
    check_duration,
    check_queue,
    check_task_key,
)
from pgconductor.domain.retention import Retention
from pgconductor.domain.retry import RetryPolicy

__all__ = ["TaskOptions"]


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """A task's name and how its executions are treated.

    Attributes:
        key: The task's name, unique in a conductor.
        queue: Where its executions go unless the caller says otherwise.
        max_attempts: How often an execution may be tried before it ends as failed.
        max_crashes: How often it may take its process down before it ends as failed; 1 makes the
            task at-most-once with regard to crashes.
        timeout: How long one attempt may take; None for no limit.
        retry: When a failed attempt is tried again.
        retention: How long executions are kept after they have finished.
    """

    key: str
    queue: str = "default"
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    max_crashes: int = DEFAULT_MAX_CRASHES
    timeout: timedelta | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    retention: Retention = field(default_factory=Retention)

    def __post_init__(self) -> None:
        check_task_key(self.key, "name")
        check_queue(self.queue)
        check_count(self.max_attempts, "max_attempts")
        check_count(self.max_crashes, "max_crashes")
        if self.timeout is not None:
            check_duration(self.timeout, "timeout")
