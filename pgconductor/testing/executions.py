"""Executions, in memory: the same transitions as the statements in ``pgconductor/sql``."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from uuid import UUID

from pgconductor.domain.claims import Claim, Fetched, Position
from pgconductor.domain.invocations import Invocation, Invoked
from pgconductor.domain.limits import MAX_BATCH, check_count
from pgconductor.domain.orchestrators import Recovery
from pgconductor.domain.outcomes import Disposition, Outcome, Verdict
from pgconductor.domain.snapshots import ExecutionFilter, ExecutionSnapshot, Page, Progress
from pgconductor.testing.database import FakeTransaction
from pgconductor.testing.ending import ended, taken_back, tell
from pgconductor.testing.forking import FakeOperatedExecutions
from pgconductor.testing.invoking import invoke_into
from pgconductor.testing.operating import cancel_in, retry_in
from pgconductor.testing.rows import ExecutionRow, Tables, holds
from pgconductor.types import ExecutionState

__all__ = ["FakeExecutionRepository"]

_AVAILABLE = ExecutionState.AVAILABLE
_RUNNING = ExecutionState.RUNNING
_CANCELLED = ExecutionState.CANCELLED


class FakeExecutionRepository(FakeOperatedExecutions):
    """Implements :class:`~pgconductor.repositories.ExecutionRepository`."""

    def __init__(self, transaction: FakeTransaction) -> None:
        self._transaction = transaction

    async def add_many(
        self, invocations: Sequence[Invocation], *, announce: bool = True
    ) -> list[Invoked]:
        """See the protocol."""
        if not invocations:
            return []
        check_count(len(invocations), "invocations", most=MAX_BATCH)
        now = self._transaction.now()
        answers, due = invoke_into(await self._transaction.write(), invocations, now)
        for row in due:
            if row.run_at <= now and (announce or row.dedupe_key is not None):
                self._transaction.notify("pgconductor_available", row.queue)
        return answers

    async def announce(self, queues: Collection[str]) -> None:
        """See the protocol."""
        for queue in sorted(queues):
            self._transaction.notify("pgconductor_available", queue)

    async def which_exist(self, ids: Sequence[UUID]) -> set[UUID]:
        """See the protocol."""
        return set(ids) & self._transaction.read().executions.keys()

    async def fetch(
        self,
        claim: Claim,
        queue: str,
        *,
        limit: int,
        task_keys: Sequence[str] | None = None,
        after: Position | None = None,
    ) -> list[Fetched]:
        """See the protocol."""
        tables = await self._transaction.write()
        if not self._may_fetch(tables, claim.orchestrator_id):
            return []
        now = self._transaction.now()
        due = [
            row
            for row in tables.executions.values()
            if row.state is _AVAILABLE
            and row.queue == queue
            and row.run_at <= now
            and (task_keys is None or row.task_key in task_keys)
            and row.attempts < row.max_attempts
            and row.crashes < row.max_crashes
            and (after is None or row.due_order >= after)
        ]
        picked = sorted(due, key=lambda row: row.due_order)[:limit]
        if picked and picked[0].suspect:
            chosen = picked[:1]
        else:
            chosen = [row for row in picked if not row.suspect]
        taken = [
            replace(
                row,
                state=_RUNNING,
                locked_by=claim.orchestrator_id,
                locked_at=now,
                claim_number=claim.number,
                attempts=row.attempts + 1,
                dedupe_scope=row.started_scope,
            )
            for row in chosen
        ]
        tables.executions.update({row.id: row for row in taken})
        return [row.fetched(claim) for row in taken]

    def _may_fetch(self, tables: Tables, orchestrator_id: UUID) -> bool:
        """Registered, not asked to stop, and of a version that the gate lets work (I2)."""
        row = tables.orchestrators.get(orchestrator_id)
        return (
            row is not None
            and row.shutdown_requested_at is None
            and row.schema_version >= self._transaction.schema().floor
        )

    async def held(self, orchestrator_id: UUID) -> Mapping[UUID, Claim]:
        """See the protocol."""
        return {
            row.id: Claim(orchestrator_id, row.claim_number)
            for row in self._transaction.read().executions.values()
            if row.held_by(orchestrator_id) and row.claim_number is not None
        }

    async def complete(self, outcomes: Sequence[Outcome]) -> list[Verdict]:
        """See the protocol."""
        if not outcomes:
            return []
        tables = await self._transaction.write()
        return [self._end(tables, outcome) for outcome in outcomes]

    def _end(self, tables: Tables, outcome: Outcome) -> Verdict:
        row = tables.executions.get(outcome.execution_id)
        claim = outcome.claim
        if row is None or not holds(row, claim):
            known = row is not None and (row.finished_by, row.finished_claim) == (
                claim.orchestrator_id,
                claim.number,
            )
            if row is None or not known:
                return Verdict(outcome.execution_id, Disposition.LOST, None)
            return Verdict(row.id, Disposition.KNOWN, row.state)
        changed = ended(row, outcome, self._transaction.now())
        tables.executions[row.id] = changed
        tell(self._transaction, changed)
        return Verdict(row.id, Disposition.RECORDED, changed.state)

    async def take_back(self, orchestrator_id: UUID, *, limit: int, crashed: bool) -> Recovery:
        """See the protocol."""
        tables = await self._transaction.write()
        held = [row for row in tables.executions.values() if row.held_by(orchestrator_id)]
        counts = dict.fromkeys(ExecutionState, 0)
        for row in sorted(held, key=lambda one: one.id)[:limit]:
            changed = taken_back(row, crashed, self._transaction.now())
            tables.executions[row.id] = changed
            counts[changed.state] += 1
            tell(self._transaction, changed)
        return Recovery(
            available=counts[_AVAILABLE],
            failed=counts[ExecutionState.FAILED],
            cancelled=counts[_CANCELLED],
        )

    async def orphan_owners(self) -> list[UUID]:
        """See the protocol."""
        tables = self._transaction.read()
        owners = {row.locked_by for row in tables.executions.values()}
        return [one for one in owners if one is not None and one not in tables.orchestrators]

    async def cancel(
        self,
        execution_id: UUID,
        reason: str | None = None,
        *,
        children: bool = True,
        parent_id: UUID | None = None,
    ) -> bool:
        """See the protocol."""
        tables = await self._transaction.write()
        row = tables.executions.get(execution_id)
        stranger = row is not None and (row.parent_key is None or row.parent_id != parent_id)
        if parent_id is not None and stranger:
            return False
        return cancel_in(self._transaction, tables, execution_id, reason, children=children)

    async def retry(
        self, execution_id: UUID, *, from_scratch: bool = False, from_step: str | None = None
    ) -> bool:
        """See the protocol."""
        return retry_in(
            self._transaction,
            await self._transaction.write(),
            execution_id,
            from_scratch=from_scratch,
            from_step=from_step,
        )

    async def get_one_or_none(self, execution_id: UUID) -> ExecutionSnapshot | None:
        """See the protocol."""
        row = self._transaction.read().executions.get(execution_id)
        return row.snapshot() if row else None

    async def progress_or_none(self, execution_id: UUID) -> Progress | None:
        """See the protocol."""
        row = self._transaction.read().executions.get(execution_id)
        return row.progress() if row else None

    async def list(
        self, where: ExecutionFilter, *, limit: int = 50, after: UUID | None = None
    ) -> Page:
        """See the protocol."""
        Page.check_size(limit)
        found = (one for one in self._matching(where) if after is None or one.id < after)
        rows = sorted(found, key=lambda one: one.id, reverse=True)
        items = [row.snapshot() for row in rows[:limit]]
        return Page(items, items[-1].id if len(rows) > limit else None)

    async def count(self, where: ExecutionFilter) -> Mapping[ExecutionState, int]:
        """See the protocol."""
        counts = dict.fromkeys(ExecutionState, 0)
        for row in self._matching(where):
            counts[row.state] += 1
        return counts

    def _matching(self, where: ExecutionFilter) -> Sequence[ExecutionRow]:
        return [
            row
            for row in self._transaction.read().executions.values()
            if (not where.states or row.state in where.states)
            and where.task_key in (None, row.task_key)
            and where.queue in (None, row.queue)
            and (where.created_after is None or row.created_at >= where.created_after)
            and (where.created_before is None or row.created_at < where.created_before)
        ]

    async def mark_awaited(self, execution_id: UUID) -> None:
        """See the protocol."""
        tables = await self._transaction.write()
        row = tables.executions.get(execution_id)
        if row is None or row.state.finished or row.awaited:
            return
        tables.executions[row.id] = replace(row, awaited=True)
        if row.state is _AVAILABLE and row.run_at <= self._transaction.now():
            self._transaction.notify("pgconductor_available", row.queue)
