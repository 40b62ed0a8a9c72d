"""How attempts end, in memory: the counterparts of ``complete.sql`` and ``take_back.sql``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from pgconductor.domain.outcomes import Completed, Failed, Outcome, Released, Suspended
from pgconductor.testing.database import FakeTransaction
from pgconductor.testing.jsonb import as_jsonb
from pgconductor.testing.rows import ExecutionRow
from pgconductor.types import ExecutionState

__all__ = ["ended", "state_after", "taken_back", "tell"]

_NO_OWNER: Final[Mapping[str, Any]] = {
    "locked_by": None,
    "locked_at": None,
    "claim_number": None,
}


def state_after(row: ExecutionRow, outcome: Outcome) -> ExecutionState:
    """A cancellation that was asked for wins over whatever the handler did."""
    if row.cancel_requested_at is not None:
        return ExecutionState.CANCELLED
    match outcome:
        case Completed():
            return ExecutionState.COMPLETED
        case Released():
            return ExecutionState.AVAILABLE
        case Suspended(wakes=seen):
            return ExecutionState.AVAILABLE if row.wakes > seen else ExecutionState.WAITING
        case Failed(retry_after=delay):
            again = delay is not None and row.attempts < row.max_attempts
            return ExecutionState.AVAILABLE if again else ExecutionState.FAILED


def ended(row: ExecutionRow, outcome: Outcome, now: datetime) -> ExecutionRow:
    """The row after an attempt has ended."""
    state = state_after(row, outcome)
    values: dict[str, Any] = {"state": state, **_NO_OWNER}
    if isinstance(outcome, Failed):
        values["last_error"] = outcome.failure.message
        values["last_error_type"] = outcome.failure.type
        values["last_error_traceback"] = outcome.failure.traceback
    delay = _delay(outcome)
    if state is ExecutionState.AVAILABLE and delay is not None:
        values["run_at"] = now + delay
    if isinstance(outcome, Released | Suspended):
        values["attempts"] = max(row.attempts - 1, 0)
    if isinstance(outcome, Completed) and state is ExecutionState.COMPLETED:
        values["result"] = as_jsonb(outcome.result, "result")
    if state.finished:
        values["finished_at"] = now
        values["finished_by"] = outcome.claim.orchestrator_id
        values["finished_claim"] = outcome.claim.number
    return replace(row, **values)


def _delay(outcome: Outcome) -> timedelta | None:
    match outcome:
        case Failed(retry_after=delay) | Released(after=delay):
            return delay
        case _:
            return None


def taken_back(row: ExecutionRow, crashed: bool, now: datetime) -> ExecutionRow:
    """The row after its owner has gone."""
    crashes = row.crashes + crashed
    values: dict[str, Any] = {
        "state": ExecutionState.AVAILABLE,
        "crashes": crashes,
        "attempts": max(row.attempts - 1, 0),
        **_NO_OWNER,
    }
    if row.cancel_requested_at is not None:
        values["state"] = ExecutionState.CANCELLED
    elif crashed and crashes >= row.max_crashes:
        values["state"] = ExecutionState.FAILED
        values["last_error"] = f"crashed its process {crashes} times"
        values["last_error_type"] = "ProcessCrashed"
        values["last_error_traceback"] = None
    if values["state"].finished:
        values["finished_at"] = now
    return replace(row, **values)


def tell(transaction: FakeTransaction, row: ExecutionRow) -> None:
    """Notify those who wait for the execution, or the workers of its queue if it is due."""
    if row.state.finished and row.awaited:
        transaction.notify("pgconductor_finished", row.id)
    if row.state is ExecutionState.AVAILABLE and row.run_at <= transaction.now():
        transaction.notify("pgconductor_available", row.queue)
