"""What the engine asks of its storage for steps and waits."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

from pgconductor.domain.events import Emitted
from pgconductor.domain.steps import (
    Decision,
    Due,
    EventPlace,
    History,
    Recorded,
    Settled,
    Started,
    StepRecord,
    StepStart,
)
from pgconductor.exceptions import OwnershipLost

__all__ = ["StepRepository"]


class StepRepository(Protocol):
    """Recorded steps."""

    async def record(self, step: StepRecord) -> str | None:
        """Record the result of a step that has returned, if the writer owns its execution.

        Returns:
            The result that is on record as JSON text: this one, or an earlier one of the same key.

        Raises:
            OwnershipLost: The writer is not the owner.
        """
        ...

    async def record_many(self, steps: Sequence[StepRecord]) -> list[Recorded | OwnershipLost]:
        """Record how steps of executions that one orchestrator holds have ended.

        Args:
            steps: All by the same orchestrator.

        Returns:
            For each what is on record, or the error that its writer is not the owner.
        """
        ...

    async def decide(self, decision: Decision) -> str | None:
        """Record which of several was first, and end the waits of the others.

        A wait that ends so has taken nothing: what it had got already may be taken again.

        Returns:
            The decision that is on record as JSON text: this one, or an earlier one of the same
            key; then nothing else was changed.

        Raises:
            OwnershipLost: The writer is not the owner.
        """
        ...

    async def start_many(self, starts: Sequence[StepStart]) -> list[Started]:
        """Begin waits, invoke children and emit events, for executions that one orchestrator holds.

        Args:
            starts: All by the same orchestrator.

        Returns:
            For each what has come of it.
        """
        ...

    async def histories(self, execution_ids: Collection[UUID]) -> Mapping[UUID, History]:
        """What is on record of executions; those that are not there are left out."""
        ...

    async def settle(
        self, seen: Mapping[UUID, int | None], *, until: datetime | None = None
    ) -> list[Settled]:
        """End the waits whose time, child or event has come.

        Executions that were suspended for them are available then; the owner of one that is running
        is notified, unless it is the caller.

        Args:
            seen: By execution how many ends of waits its owner, who calls, has seen; None where the
                caller is not its owner.
            until: Events up to this time are about to be marked as matched: look at all of them.

        Returns:
            How far the waits of each are, with their ends where the caller is its owner. Those that
            somebody else has locked just now are left out.
        """
        ...

    async def due(
        self, *, limit: int, without: Collection[UUID] = (), after: EventPlace | None = None
    ) -> Due:
        """What there is to settle; the same may come back until it has been settled.

        Args:
            limit: At most so many of each kind.
            without: Executions whose times and children have been looked at already.
            after: The last of the events that have been looked at already.
        """
        ...

    async def mark_matched(
        self, event_ids: Collection[UUID], *, left: Collection[UUID] = ()
    ) -> None:
        """All that waited for these events have been settled.

        Args:
            event_ids: Which ones.
            left: Executions that have not been settled: what they hope for is not marked.
        """
        ...

    async def emit(self, name: str, payload: str | None, dedupe_key: str | None = None) -> Emitted:
        """Emit an event.

        Args:
            name: Its name.
            payload: JSON text, or None.
            dedupe_key: While an event of this name and key is kept, it stands for this one.

        Returns:
            Its id, and whether it is new.
        """
        ...
