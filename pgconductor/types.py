"""Types that every layer shares, and that a user of the package meets."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

__all__ = ["ExecutionState", "First", "Json"]

Which_co = TypeVar("Which_co", bound=int, covariant=True)
Value_co = TypeVar("Value_co", covariant=True)

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


@dataclass(frozen=True, slots=True)
class First(Generic[Which_co, Value_co]):
    """Whichever of several came first; ``ctx.first`` returns it.

    Attributes:
        index: Which one: 0 for the first that was given.
        value: What it has returned.
    """

    index: Which_co
    value: Value_co


class ExecutionState(StrEnum):
    """Where an execution is in its life; the words that ``executions.state`` reads as.

    Attributes:
        AVAILABLE: May be fetched as soon as its ``run_at`` has come.
        RUNNING: Held by an owner: an orchestrator and one of its claim numbers.
        WAITING: Suspended until a timer, a child or an event; no worker is held.
        COMPLETED: Finished with a result.
        FAILED: Finished with an error.
        CANCELLED: Finished because somebody asked for it.
    """

    AVAILABLE = "available"
    RUNNING = "running"
    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def finished(self) -> bool:
        """Whether nothing but an operator's retry changes the execution any more."""
        return self in _FINISHED


_FINISHED = frozenset({ExecutionState.COMPLETED, ExecutionState.FAILED, ExecutionState.CANCELLED})
