"""What the engine asks of its storage.

Two things implement it: SQLAlchemy's session or connection in :mod:`pgconductor.repositories`, and
the fakes in :mod:`pgconductor.testing`. One contract suite holds both to the same behaviour.

A repository never commits: whoever gave it the session does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol
from uuid import UUID

from pgconductor.domain.claims import Claim, Fetched, Position
from pgconductor.domain.fleet import FleetMember
from pgconductor.domain.invocations import Invocation, Invoked
from pgconductor.domain.orchestrators import Beat, Heartbeat, OrchestratorSnapshot, Recovery
from pgconductor.domain.outcomes import Outcome, Verdict
from pgconductor.domain.retention import Removal, Retention
from pgconductor.domain.revisions import SchemaStatus
from pgconductor.domain.tasks import TaskOptions
from pgconductor.repositories.operating import OperatedExecutions
from pgconductor.repositories.step_protocol import StepRepository

__all__ = [
    "ExecutionRepository",
    "OrchestratorRepository",
    "QueueRepository",
    "Repositories",
    "RetentionRepository",
    "SchemaRepository",
    "StepRepository",
    "TaskRepository",
]


class ExecutionRepository(OperatedExecutions, Protocol):
    """Executions: every write on behalf of a running one proves its owner."""

    async def add_many(
        self, invocations: Sequence[Invocation], *, announce: bool = True
    ) -> list[Invoked]:
        """Make an execution for each invocation, or find the one that its dedupe key leads to.

        Args:
            invocations: What to make.
            announce: Wake the workers of what is due; False only if the caller has just done so.

        Returns:
            As many as given, in the same order.
        """
        ...

    async def announce(self, queues: Collection[str]) -> None:
        """Wake the workers of these queues."""
        ...

    async def which_exist(self, ids: Sequence[UUID]) -> set[UUID]:
        """Those of the ids that executions have."""
        ...

    async def fetch(
        self,
        claim: Claim,
        queue: str,
        *,
        limit: int,
        task_keys: Sequence[str] | None = None,
        after: Position | None = None,
    ) -> list[Fetched]:
        """Take executions that are due, in the order in which they are due.

        Args:
            claim: The new owner; nothing is taken unless its orchestrator is registered, not asked
                to shut down, and of a version that the gate lets work.
            queue: From which queue.
            limit: At most so many.
            task_keys: Only these tasks; None for all.
            after: Begin at this place of the queue; None for its first one.

        Returns:
            A batch in which nobody is suspected of crashing processes, or a single suspect.
        """
        ...

    async def held(self, orchestrator_id: UUID) -> Mapping[UUID, Claim]:
        """The executions that an orchestrator holds, with the claim of each."""
        ...

    async def complete(self, outcomes: Sequence[Outcome]) -> list[Verdict]:
        """Write how attempts ended, each if the one who says so is still the owner.

        Args:
            outcomes: At most one for each execution.

        Returns:
            As many as given, in the same order.
        """
        ...

    async def take_back(
        self,
        orchestrator_id: UUID,
        *,
        limit: int,
        crashed: bool,
    ) -> Recovery:
        """Take executions from an orchestrator that will not end them; their attempt is given back.

        Args:
            orchestrator_id: Who holds them.
            limit: At most so many; come again until nothing is left.
            crashed: Count it as a crash of the executions' process; at ``max_crashes`` they fail.
        """
        ...

    async def orphan_owners(self) -> list[UUID]:
        """Orchestrators that hold executions and have no row."""
        ...

    async def mark_awaited(self, execution_id: UUID) -> None:
        """Have a notification sent when the execution finishes."""
        ...


class OrchestratorRepository(Protocol):
    """Orchestrators: there before they fetch, gone when they hold nothing any more."""

    async def add(
        self,
        orchestrator_id: UUID,
        *,
        version: str,
        schema_version: int,
        schema_required: int,
        hostname: str,
        pid: int,
        queues: Sequence[str] = (),
    ) -> bool:
        """Register, unless the gate refuses that version.

        Returns:
            False if it was refused.
        """
        ...

    async def heartbeat(self, orchestrator_id: UUID) -> Heartbeat | None:
        """Prove that an orchestrator lives.

        Returns:
            What it has to know; None if it has no row.
        """
        ...

    async def beats(self, observer: UUID | None, *, stale_after: timedelta) -> list[Beat]:
        """What there is to see of all orchestrators but the observer."""
        ...

    async def lock_stale(self, beat: Beat, *, stale_after: timedelta) -> bool:
        """Lock a stale orchestrator, for this transaction, and ask it to stop.

        Returns:
            False if it has beaten since, or somebody else has locked it.
        """
        ...

    async def lock(self, orchestrator_id: UUID) -> bool:
        """Lock an orchestrator against fetches of its own, for this transaction.

        Returns:
            False if it has no row.
        """
        ...

    async def remove(self, orchestrator_id: UUID) -> bool:
        """Remove an orchestrator that holds nothing; lock it in this transaction first.

        A removal that had to wait for a fetch would not see what that has taken.

        Returns:
            False if it has no row, or still holds something.
        """
        ...

    async def request_shutdown(
        self,
        *,
        reason: str,
        orchestrator_id: UUID | None = None,
        below_version: int | None = None,
        above_required: int | None = None,
    ) -> list[UUID]:
        """Ask orchestrators to stop: all, or those for whom all that is given holds.

        Args:
            reason: What they are told, unless they were asked before.
            orchestrator_id: It is this one.
            below_version: It does not know this revision.
            above_required: It needs more than this revision.


        Returns:
            Who was asked, those included that had been asked before.
        """
        ...

    async def members(self) -> list[FleetMember]:
        """All of them, the oldest first, and what they are at."""
        ...

    async def list(self) -> list[OrchestratorSnapshot]:
        """All of them, the oldest first."""
        ...


class TaskRepository(Protocol):
    """Tasks as orchestrators declare them."""

    async def declare_many(self, tasks: Sequence[TaskOptions]) -> None:
        """Add or update them."""
        ...

    async def keys(self) -> list[str]:
        """The names of all declared tasks, sorted."""
        ...


class QueueRepository(Protocol):
    """Queues that orchestrators serve."""

    async def declare_many(self, names: Sequence[str]) -> None:
        """Add those that are not there."""
        ...

    async def names(self) -> list[str]:
        """The names of all queues, sorted."""
        ...


class SchemaRepository(Protocol):
    """What the database says of its schema."""

    async def status(self) -> SchemaStatus:
        """The gate's row.

        Raises:
            SchemaMissing: There is no such schema or table.
        """
        ...


class RetentionRepository(Protocol):
    """The removal of executions that finished long ago, and of old events."""

    async def remove_expired(self, retention: Retention, *, limit: int) -> Removal | None:
        """Go on with the one walk through the executions, and remove what is older than it is kept.

        A task's own declaration says how long its executions are kept. Rows that somebody has
        locked are left for the next walk; what has not finished is never removed.

        Args:
            retention: What holds for tasks that nobody has declared.
            limit: At how many executions to look, at most.

        Returns:
            What was done; None if the next walk is not due, or somebody else is at it.
        """
        ...

    async def remove_events(self, retain: timedelta, *, limit: int) -> int:
        """Remove events that have been looked at and are older than that.

        What somebody else is removing is left to them.

        Args:
            retain: How long events are kept.
            limit: At most so many.

        Returns:
            How many.
        """
        ...


@dataclass(frozen=True, slots=True)
class Repositories:
    """All repositories over one session."""

    executions: ExecutionRepository
    orchestrators: OrchestratorRepository
    tasks: TaskRepository
    queues: QueueRepository
    steps: StepRepository
    schema: SchemaRepository
    retention: RetentionRepository
