"""How waits end, in memory: the counterparts of ``settle`` and ``due_waits.sql``."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from pgconductor.domain.steps import Due, EventPlace, Recorded, Settled, StepKind
from pgconductor.testing.database import FakeTransaction
from pgconductor.testing.ending import tell
from pgconductor.testing.pairing import hopeful, matched_events
from pgconductor.testing.rows import EventRow, ExecutionRow, StepRow, Tables
from pgconductor.types import ExecutionState

__all__ = ["due_in", "settle_in"]


def settle_in(
    transaction: FakeTransaction, tables: Tables, seen: Mapping[UUID, int | None]
) -> list[Settled]:
    """End the waits whose time, child or event has come."""
    answers: list[Settled] = []
    for execution_id, known in sorted(seen.items(), key=lambda one: one[0]):
        row = tables.executions.get(execution_id)
        if row is not None:
            if _end_waits(tables, row, transaction.now()):
                row = _woken(transaction, tables, row, told=known is not None)
            elif row.state is ExecutionState.AVAILABLE:
                tell(transaction, row)
            ended = () if known is None else _since(tables, row, known)
            answers.append(Settled(row.id, None if known is None else row.wakes, ended))
        for child in list(tables.executions.values()):
            if child.parent_id == execution_id and child.untold and child.state.finished:
                tables.executions[child.id] = replace(child, awaited=False)
    return answers


def _woken(
    transaction: FakeTransaction, tables: Tables, row: ExecutionRow, *, told: bool
) -> ExecutionRow:
    values: dict[str, Any] = {"wakes": row.wakes + 1}
    if row.state is ExecutionState.WAITING:
        values |= {"state": ExecutionState.AVAILABLE, "run_at": transaction.now()}
    woken = tables.executions[row.id] = replace(row, **values)
    if woken.state is ExecutionState.AVAILABLE:
        tell(transaction, woken)
    if woken.locked_by is not None and not told:
        transaction.notify("pgconductor_control", woken.locked_by)
    return woken


def _since(tables: Tables, row: ExecutionRow, known: int) -> tuple[Recorded, ...]:
    return tuple(
        Recorded(
            key=step.key,
            kind=step.kind,
            result=step.result,
            error_type=step.error_type,
            error=step.error,
            detail=step.detail,
            child_id=step.child_id,
            woke=step.woke,
        )
        for step in tables.steps_of(row.id)
        if step.woke is not None and step.woke > known
    )


def _end_waits(tables: Tables, row: ExecutionRow, now: datetime) -> bool:
    """End those of an execution; whether there were any."""
    steps = tables.steps_of(row.id)
    events = matched_events(tables, row, steps)
    any_ended = False
    for step in steps:
        came = _what_came(tables, step, events.get(step.key), now) if step.pending else None
        if came is not None:
            ended: dict[str, Any] = {"ended_at": now, "_ended": time.monotonic(), **came}
            tables.steps[row.id, step.key] = replace(
                step, pending=False, woke=row.wakes + 1, **ended
            )
            any_ended = True
    return any_ended


def _what_came(
    tables: Tables, step: StepRow, event: EventRow | None, now: datetime
) -> dict[str, Any] | None:
    """The columns that a wait ends with; None if it goes on."""
    child = None if step.child_id is None else tables.executions.get(step.child_id)
    if child is not None and child.state.finished:
        return _end_of(child)
    if event is not None:
        return {"event_id": event.id, "result": event.payload}
    if step.wake_at is None or step.wake_at > now:
        return None
    if step.kind in (StepKind.CHILD, StepKind.EVENT):
        return {"error_type": "(timeout)", "error": "it did not come in time"}
    return {}


def _end_of(child: ExecutionRow) -> dict[str, Any]:
    match child.state:
        case ExecutionState.COMPLETED:
            return {"result": child.result}
        case ExecutionState.CANCELLED:
            return {"error_type": "(cancelled)", "error": child.cancel_reason or ""}
        case _:
            return {
                "error_type": child.last_error_type or "Exception",
                "error": child.last_error or "",
            }


def due_in(
    tables: Tables,
    now: datetime,
    *,
    limit: int,
    without: Collection[UUID] = (),
    after: EventPlace | None = None,
) -> Due:
    """What there is to settle."""
    pending = [step for step in tables.steps.values() if step.pending]
    timed = sorted(
        (step.wake_at, step.execution_id) for step in pending if step.wake_at is not None
    )
    come = [one for when, one in timed if when <= now and one not in without]
    told = sorted(
        {
            one.parent_id
            for one in tables.executions.values()
            if one.untold
            and one.state.finished
            and one.parent_id is not None
            and one.parent_id not in without
        }
    )
    unmatched = [one for one in tables.events.values() if not one.matched]
    if after is not None:
        behind = (after.name, after.emitted_at, after.id)
        unmatched = [one for one in unmatched if one.place > behind]
    events = sorted(unmatched, key=lambda one: one.place)[:limit]
    last = events[-1] if events else None
    return Due(
        tuple(sorted({*come[:limit], *told[:limit], *hopeful(tables, pending, events)})),
        tuple(one.id for one in events),
        next((when - now for when, _ in timed if when > now), None),
        max((one.emitted_at for one in events), default=None),
        None if last is None else EventPlace(*last.place),
    )
