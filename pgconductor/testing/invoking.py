"""The in-memory counterpart of ``pgconductor.invoke_executions``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

from pgconductor.domain.invocations import DedupeScope, Invocation, Invoked
from pgconductor.domain.limits import DEFAULT_MAX_ATTEMPTS, DEFAULT_MAX_CRASHES
from pgconductor.exceptions import InvalidInput
from pgconductor.testing.jsonb import as_jsonb
from pgconductor.testing.rows import STARTED, Dedupe, ExecutionRow, Tables

__all__ = ["execution_row", "invoke_into", "unfinished"]


def unfinished(tables: Tables, dedupe: Dedupe) -> ExecutionRow | None:
    """The unfinished execution of a task, queue, dedupe key and scope; there is at most one."""
    if dedupe[2] is None or dedupe[3] == STARTED:
        return None
    for row in tables.executions.values():
        if row.dedupe == dedupe and not row.state.finished:
            return row
    return None


def invoke_into(
    tables: Tables, invocations: Sequence[Invocation], now: datetime
) -> tuple[list[Invoked], list[ExecutionRow]]:
    """Make executions, or find those that the dedupe keys lead to.

    Returns:
        As many answers as invocations, in their order, and the rows that were made or joined.
    """
    # Finished executions are looked for before anything of the batch is written.
    retained = {place: _retained(tables, one) for place, one in enumerate(invocations)}
    answers: list[Invoked] = []
    rows: list[ExecutionRow] = []
    for place, invocation in enumerate(invocations):
        found = retained[place]
        if found is None:
            there = unfinished(tables, _dedupe(invocation))
            found = there.id if there else None
            row = _joined(there, invocation, now) or execution_row(tables, invocation, now)
            tables.executions[row.id] = row
            if there is None or row.dedupe_scope is not None:
                rows.append(row)
        answers.append(Invoked(found or invocation.id, created=found is None))
    return answers, rows


def _joined(
    there: ExecutionRow | None, invocation: Invocation, now: datetime
) -> ExecutionRow | None:
    """What becomes of an execution that stands for another invocation as well."""
    if there is None or not invocation.dedupe_replace:
        return there
    return replace(
        there,
        payload=as_jsonb(invocation.payload, "payload"),
        run_at=min(there.run_at, _due(invocation, now)),
        priority=max(there.priority, invocation.priority),
    )


def _due(invocation: Invocation, now: datetime) -> datetime:
    return invocation.run_at or now + (invocation.delay or timedelta(0))


def _scope(invocation: Invocation) -> str | None:
    own = invocation.dedupe_scope is DedupeScope.UNSTARTED and invocation.dedupe_key is not None
    return invocation.dedupe_scope.value if own else None


def _dedupe(invocation: Invocation) -> Dedupe:
    return (
        invocation.task_key,
        invocation.queue,
        invocation.dedupe_key,
        _scope(invocation),
    )


def _retained(tables: Tables, invocation: Invocation) -> UUID | None:
    """The latest finished execution, where it counts and no unfinished one stands before it."""
    dedupe = _dedupe(invocation)
    if invocation.dedupe_key is None or invocation.dedupe_scope is not DedupeScope.RETAINED:
        return None
    if unfinished(tables, dedupe) is not None:
        return None
    finished = [
        (row.finished_at, row.id)
        for row in tables.executions.values()
        if row.dedupe == dedupe and row.finished_at is not None
    ]
    return max(finished)[1] if finished else None


def execution_row(tables: Tables, invocation: Invocation, now: datetime) -> ExecutionRow:
    """The row that an invocation makes.

    Raises:
        InvalidInput: An execution of the same id is there already.
        InvalidPayload: The payload is no JSON.
    """
    if invocation.id in tables.executions:
        raise InvalidInput("invocations", "an execution of the same id is there already")
    payload = as_jsonb(invocation.payload, "payload")
    task = tables.tasks.get(invocation.task_key)
    return ExecutionRow(
        id=invocation.id,
        task_key=invocation.task_key,
        queue=invocation.queue,
        priority=invocation.priority,
        run_at=_due(invocation, now),
        payload=payload,
        max_attempts=invocation.max_attempts
        or (task.max_attempts if task else DEFAULT_MAX_ATTEMPTS),
        max_crashes=invocation.max_crashes or (task.max_crashes if task else DEFAULT_MAX_CRASHES),
        dedupe_key=invocation.dedupe_key,
        dedupe_scope=_scope(invocation),
        created_at=now,
    )
