"""How waits end, in memory: the counterparts of ``settle`` and ``due_waits.sql``."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from pgconductor.domain.steps import Due, Recorded, Settled, StepKind
from pgconductor.testing.database import FakeTransaction
from pgconductor.testing.ending import tell
from pgconductor.testing.matching import matches
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
        )
        for step in tables.steps_of(row.id)
        if step.woke is not None and step.woke > known
    )


def _end_waits(tables: Tables, row: ExecutionRow, now: datetime) -> bool:
    """End those of an execution, the older ones first; whether there were any."""
    any_ended = False
    for step in tables.steps_of(row.id):
        came = _what_came(tables, row, step, now) if step.pending else None
        if came is not None:
            ended: dict[str, Any] = {"ended_at": now, "_ended": time.monotonic(), **came}
            tables.steps[row.id, step.key] = replace(
                step, pending=False, woke=row.wakes + 1, **ended
            )
            any_ended = True
    return any_ended


def _what_came(
    tables: Tables, row: ExecutionRow, step: StepRow, now: datetime
) -> dict[str, Any] | None:
    """The columns that a wait ends with; None if it goes on."""
    child = None if step.child_id is None else tables.executions.get(step.child_id)
    if child is not None and child.state.finished:
        return _end_of(child)
    event = _first_event(tables, row, step)
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


def _first_event(tables: Tables, row: ExecutionRow, step: StepRow) -> EventRow | None:
    """The first one since the invocation that matches and that no other wait has taken."""
    if step.kind is not StepKind.EVENT:
        return None
    taken = {one.event_id for one in tables.steps_of(row.id)}
    found = [
        event
        for event in tables.events.values()
        if event.emitted_at >= row.created_at and event.id not in taken and _hopes_for(step, event)
    ]
    return min(found, key=lambda event: (event.emitted_at, event.id), default=None)


def _hopes_for(step: StepRow, event: EventRow) -> bool:
    return step.detail == event.name and matches(event.payload, step.match)


def due_in(tables: Tables, now: datetime, *, limit: int, without: Collection[UUID] = ()) -> Due:
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
    unmatched = sorted(one.id for one in tables.events.values() if not one.matched)[:limit]
    events = [tables.events[one] for one in unmatched]
    hoped = [
        step.execution_id
        for step in pending
        if step.kind is StepKind.EVENT
        and any(
            _hopes_for(step, event)
            and event.emitted_at >= tables.executions[step.execution_id].created_at
            for event in events
        )
    ]
    return Due(
        tuple(sorted({*come[:limit], *told[:limit], *hoped})),
        tuple(unmatched),
        next((when - now for when, _ in timed if when > now), None),
    )
