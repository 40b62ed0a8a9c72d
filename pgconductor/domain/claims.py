"""Who holds what: registrations, claims, and executions as they were fetched."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

__all__ = ["Claim", "Fetched", "Position", "Registration"]


@dataclass(frozen=True, slots=True)
class Claim:
    """An owner: one orchestrator and the number of one of its fetches.

    The number counts up within one orchestrator's life and an orchestrator's id is new at every
    start, so an execution is never held twice by the same owner, even when a failover rewinds its
    row.

    Attributes:
        orchestrator_id: The orchestrator.
        number: Counts its fetches, from 1.
    """

    orchestrator_id: UUID
    number: int


@dataclass(frozen=True, slots=True)
class Registration:
    """Proof that an orchestrator has a committed row; only registering makes one.

    Attributes:
        orchestrator_id: Its identity, new at every start.
        schema_version: The highest revision that its code knows.
    """

    orchestrator_id: UUID
    schema_version: int
    _numbers: itertools.count[int] = field(
        default_factory=lambda: itertools.count(1), repr=False, compare=False
    )

    def next_claim(self) -> Claim:
        """The owner for the next fetch; never the same one twice."""
        return Claim(self.orchestrator_id, next(self._numbers))


@dataclass(frozen=True, slots=True)
class Fetched:
    """An execution that its owner now holds.

    Attributes:
        id: The execution.
        claim: Its owner, to be shown with everything written for it.
        task_key: Which handler is due.
        queue: Where it was fetched from.
        payload: JSON text as the database holds it, not decoded; None for no payload.
        attempt: 1 at the first try.
        max_attempts: How many tries it has.
        crashes: How often it was running when its process vanished.
        max_crashes: At how many of these it ends as failed.
        priority: Higher was sooner.
        run_at: When it was due.
        created_at: When it was invoked.
        parent_id: The execution that waits for it, or None.
        alone: It is one crash short of its limit: nothing else may start in the process until it
            ends, so that if it is the guilty one, it is found alone.
    """

    id: UUID
    claim: Claim
    task_key: str
    queue: str
    payload: str | None
    attempt: int
    max_attempts: int
    crashes: int
    max_crashes: int
    priority: int
    run_at: datetime
    created_at: datetime
    parent_id: UUID | None = None

    @property
    def alone(self) -> bool:
        """Whether nothing else may start in the process until it ends; see above."""
        return self.crashes > 0 and self.crashes >= self.max_crashes - 1


class Position(NamedTuple):
    """A place in the order in which a queue's executions are due.

    Attributes:
        rank: The priority with its sign changed, so that all three count upwards.
        run_at: When it was due.
        id: The execution.
    """

    rank: int
    run_at: datetime
    id: UUID

    @classmethod
    def of(cls, fetched: Fetched) -> Position:
        """Where an execution stood."""
        return cls(-fetched.priority, fetched.run_at, fetched.id)
