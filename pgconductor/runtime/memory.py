"""Where an attempt records, and reads what is on record."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol
from uuid import UUID

from pgconductor.domain.outcomes import Completed
from pgconductor.domain.steps import Decision, History, Recorded, Started, StepRecord, StepStart
from pgconductor.services.transactions import OpenTransaction

__all__ = ["Memory"]


class Memory(Protocol):
    """Where steps are recorded and read: the journal, or something of a test's."""

    async def record(self, step: StepRecord) -> Recorded:
        """Record how a step has ended; what is on record comes back."""
        ...

    async def start(self, start: StepStart) -> Started:
        """Begin a wait, invoke a child, or emit an event."""
        ...

    async def load(self, execution_id: UUID) -> History:
        """What is on record of an execution."""
        ...

    async def transact(
        self, key: str, work: Callable[[Any], Awaitable[StepRecord | None]]
    ) -> str | None:
        """Execute work in a session of the application's, and record it in the same commit.

        It says what to record; nothing, if it has completed the execution.
        """
        ...

    def open(self, key: str) -> OpenTransaction:
        """A transaction of the application's, not begun."""
        ...

    async def commit(self, transaction: OpenTransaction, step: StepRecord | None) -> str | None:
        """Record a step in an open transaction, and commit both; without a step, only commit."""
        ...

    async def complete_in(self, session: Any, outcome: Completed) -> bool:
        """Complete an execution in a transaction of the application's; False if cancelled."""
        ...

    async def decide(self, decision: Decision) -> Recorded:
        """Record which of several was first, and end the waits of the others."""
        ...

    async def cancel_child(self, child_id: UUID, parent_id: UUID, reason: str) -> None:
        """Cancel a child of an execution that is not waited for any more."""
        ...
