"""What operators do to executions, in memory: ``cancel_execution`` and ``retry.sql``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from pgconductor.domain.steps import StepKind
from pgconductor.exceptions import DedupeConflict, StepNotFound
from pgconductor.testing.database import FakeTransaction
from pgconductor.testing.ending import tell
from pgconductor.testing.invoking import unfinished
from pgconductor.testing.rows import ExecutionRow, StepRow, Tables
from pgconductor.types import ExecutionState

__all__ = ["cancel_in", "retry_in"]

_RUNNING = ExecutionState.RUNNING
_CANCELLED = ExecutionState.CANCELLED
_BROKEN = (ExecutionState.FAILED, ExecutionState.CANCELLED)


def cancel_in(
    transaction: FakeTransaction,
    tables: Tables,
    execution_id: UUID,
    reason: str | None,
    *,
    children: bool,
) -> bool:
    """Cancel an execution, and the children that it waits for."""
    row = tables.executions.get(execution_id)
    if row is None or row.state.finished:
        return False
    family = _family(tables, row) if children else [row]
    for one in family:
        why = reason if one is row else "its parent was cancelled"
        changed = _cancelled(transaction, one, why)
        tables.executions[one.id] = changed
        if one.locked_by is not None:
            transaction.notify("pgconductor_control", one.locked_by)
        elif one.awaited:
            transaction.notify("pgconductor_finished", one.id)
        if one.parent_key is not None:
            transaction.notify("pgconductor_waits", "")
    return True


def _family(tables: Tables, row: ExecutionRow) -> list[ExecutionRow]:
    """An execution and, unless they have finished, the children that it waits for, and theirs."""
    family = [row]
    for parent in family:
        family += [
            one
            for one in tables.executions.values()
            if one.parent_id == parent.id and one.parent_key is not None and not one.state.finished
        ]
    return family


def _cancelled(transaction: FakeTransaction, row: ExecutionRow, reason: str | None) -> ExecutionRow:
    now = transaction.now()
    values: dict[str, Any] = {
        "cancel_requested_at": row.cancel_requested_at or now,
        "cancel_reason": reason if row.cancel_reason is None else row.cancel_reason,
    }
    if row.state is not _RUNNING:
        values |= {"state": _CANCELLED, "finished_at": now}
    return replace(row, **values)


def retry_in(
    transaction: FakeTransaction,
    tables: Tables,
    execution_id: UUID,
    *,
    from_scratch: bool,
    from_step: str | None,
) -> bool:
    """Make a failed or cancelled execution available again."""
    row = tables.executions.get(execution_id)
    if row is None or row.state not in _BROKEN:
        return False
    if row.dedupe_scope is None and unfinished(tables, row.dedupe) is not None:
        raise DedupeConflict(execution_id)
    first = None if from_step is None else tables.steps.get((execution_id, from_step))
    if from_step is not None and first is None:
        raise StepNotFound(execution_id, from_step)
    dropped: list[str] = []
    steps = tables.steps_of(execution_id)
    kept = [one for one in steps if first is None or one.began_before(first)]
    for step in steps:
        again = step.kind is StepKind.TRY or _in_vain(tables, step)
        if from_scratch or step not in kept or again or _ended_by(kept, step):
            dropped.append(step.key)
    for key in dropped:
        del tables.steps[execution_id, key]
    tables.executions[row.id] = changed = replace(
        row,
        state=ExecutionState.AVAILABLE,
        run_at=transaction.now(),
        attempts=0,
        crashes=0,
        dedupe_scope=row.started_scope,
        cancel_requested_at=None,
        cancel_reason=None,
        awaited=tables.waits_for(row),
        parent_key=row.parent_key if tables.waits_for(row) else None,
        finished_at=None,
        finished_by=None,
        finished_claim=None,
    )
    tell(transaction, changed)
    return True


def _ended_by(kept: Sequence[StepRow], step: StepRow) -> bool:
    """Whether it has an error after which nothing began, of what is kept."""
    return step.error is not None and not any(
        one.began_after_end_of(step) and one.kind not in (StepKind.TRY, StepKind.FIRST)
        for one in kept
    )


def _in_vain(tables: Tables, step: StepRow) -> bool:
    """Whether it waits for a child that has not completed and will not."""
    child = None if step.child_id is None else tables.executions.get(step.child_id)
    return step.pending and child is not None and child.state in _BROKEN
