"""Executions, in memory: the same transitions as the statements in ``pgconductor/sql``."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from pgconductor.domain.claims import Claim, Fetched, Position
from pgconductor.domain.invocations import Invocation, Invoked
from pgconductor.domain.limits import MAX_BATCH, check_count
from pgconductor.domain.orchestrators import Recovery
from pgconductor.domain.outcomes import (
    Completed,
    Disposition,
    Failed,
    Outcome,
    Released,
    Verdict,
)
from pgconductor.domain.snapshots import ExecutionFilter, ExecutionSnapshot, Page, Progress
from pgconductor.exceptions import DedupeConflict
from pgconductor.testing.database import FakeTransaction
from pgconductor.testing.invoking import check_json, invoke_into, unfinished
from pgconductor.testing.rows import ExecutionRow, Tables
from pgconductor.types import ExecutionState

__all__ = ["FakeExecutionRepository", "holds"]

_AVAILABLE = ExecutionState.AVAILABLE
_RUNNING = ExecutionState.RUNNING
_CANCELLED = ExecutionState.CANCELLED
_NO_OWNER: Mapping[str, Any] = {"locked_by": None, "locked_at": None, "claim_number": None}


def holds(row: ExecutionRow | None, claim: Claim) -> bool:
    """Whether that owner, and no earlier claim of the same orchestrator, holds the row (I1)."""
    return (
        row is not None and row.held_by(claim.orchestrator_id) and row.claim_number == claim.number
    )


class FakeExecutionRepository:
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
        answers, made = invoke_into(await self._transaction.write(), invocations, now)
        for row in made:
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
        changed = self._ended(row, outcome)
        tables.executions[row.id] = changed
        self._tell(changed)
        return Verdict(row.id, Disposition.RECORDED, changed.state)

    def _ended(self, row: ExecutionRow, outcome: Outcome) -> ExecutionRow:
        now = self._transaction.now()
        state = _state_after(row, outcome)
        values: dict[str, Any] = {"state": state, **_NO_OWNER}
        if isinstance(outcome, Failed):
            values["last_error"] = outcome.failure.message
            values["last_error_type"] = outcome.failure.type
            values["last_error_traceback"] = outcome.failure.traceback
            if state is _AVAILABLE:
                values["run_at"] = now + (outcome.retry_after or timedelta(0))
        if isinstance(outcome, Released):
            values["attempts"] = max(row.attempts - 1, 0)
        if isinstance(outcome, Completed) and state is ExecutionState.COMPLETED:
            check_json(outcome.result, "result")
            values["result"] = outcome.result
        if state.finished:
            values["finished_at"] = now
            values["finished_by"] = outcome.claim.orchestrator_id
            values["finished_claim"] = outcome.claim.number
        return replace(row, **values)

    def _tell(self, row: ExecutionRow) -> None:
        if row.state.finished and row.awaited:
            self._transaction.notify("pgconductor_finished", row.id)
        if row.state is _AVAILABLE and row.run_at <= self._transaction.now():
            self._transaction.notify("pgconductor_available", row.queue)

    async def take_back(self, orchestrator_id: UUID, *, limit: int, crashed: bool) -> Recovery:
        """See the protocol."""
        tables = await self._transaction.write()
        held = [row for row in tables.executions.values() if row.held_by(orchestrator_id)]
        counts = dict.fromkeys(ExecutionState, 0)
        for row in sorted(held, key=lambda one: one.id)[:limit]:
            changed = self._taken_back(row, crashed)
            tables.executions[row.id] = changed
            counts[changed.state] += 1
            self._tell(changed)
        return Recovery(
            available=counts[_AVAILABLE],
            failed=counts[ExecutionState.FAILED],
            cancelled=counts[_CANCELLED],
        )

    def _taken_back(self, row: ExecutionRow, crashed: bool) -> ExecutionRow:
        crashes = row.crashes + crashed
        values: dict[str, Any] = {
            "state": _AVAILABLE,
            "crashes": crashes,
            "attempts": max(row.attempts - 1, 0),
            **_NO_OWNER,
        }
        if row.cancel_requested_at is not None:
            values["state"] = _CANCELLED
        elif crashed and crashes >= row.max_crashes:
            values["state"] = ExecutionState.FAILED
            values["last_error"] = f"crashed its process {crashes} times"
            values["last_error_type"] = "ProcessCrashed"
            values["last_error_traceback"] = None
        if values["state"].finished:
            values["finished_at"] = self._transaction.now()
        return replace(row, **values)

    async def orphan_owners(self) -> list[UUID]:
        """See the protocol."""
        tables = self._transaction.read()
        owners = {row.locked_by for row in tables.executions.values()}
        return [one for one in owners if one is not None and one not in tables.orchestrators]

    async def cancel(self, execution_id: UUID, reason: str | None = None) -> bool:
        """See the protocol."""
        tables = await self._transaction.write()
        row = tables.executions.get(execution_id)
        if row is None or row.state.finished:
            return False
        now = self._transaction.now()
        values: dict[str, Any] = {
            "cancel_requested_at": row.cancel_requested_at or now,
            "cancel_reason": reason if row.cancel_reason is None else row.cancel_reason,
        }
        if row.state is not _RUNNING:
            values |= {"state": _CANCELLED, "finished_at": now}
        changed = replace(row, **values)
        tables.executions[row.id] = changed
        if row.locked_by is not None:
            self._transaction.notify("pgconductor_control", row.locked_by)
        else:
            self._tell(changed)
        return True

    async def retry(self, execution_id: UUID, *, from_scratch: bool = False) -> bool:
        """See the protocol."""
        tables = await self._transaction.write()
        row = tables.executions.get(execution_id)
        if row is None or row.state not in (ExecutionState.FAILED, _CANCELLED):
            return False
        if unfinished(tables, row.dedupe) is not None:
            raise DedupeConflict(execution_id)
        if from_scratch:
            for key in [key for key in tables.steps if key[0] == execution_id]:
                del tables.steps[key]
        tables.executions[row.id] = changed = replace(
            row,
            state=_AVAILABLE,
            run_at=self._transaction.now(),
            attempts=0,
            crashes=0,
            cancel_requested_at=None,
            cancel_reason=None,
            awaited=False,
            finished_at=None,
            finished_by=None,
            finished_claim=None,
        )
        self._tell(changed)
        return True

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


def _state_after(row: ExecutionRow, outcome: Outcome) -> ExecutionState:
    """A cancellation that was asked for wins over whatever the handler did."""
    if row.cancel_requested_at is not None:
        return _CANCELLED
    match outcome:
        case Completed():
            return ExecutionState.COMPLETED
        case Released():
            return _AVAILABLE
        case Failed(retry_after=delay):
            again = delay is not None and row.attempts < row.max_attempts
            return _AVAILABLE if again else ExecutionState.FAILED
