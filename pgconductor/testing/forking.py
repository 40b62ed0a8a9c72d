"""What operators ask of executions, in memory: forks, families, and what is waited for."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

from pgconductor.domain.ids import new_id
from pgconductor.domain.payloads import decode
from pgconductor.domain.steps import StepKind
from pgconductor.domain.trees import MAX_FAMILY, Relative, StepSnapshot
from pgconductor.domain.waiting import Waiting, WaitingExecution, WaitingPage, WaitingPlace
from pgconductor.exceptions import PayloadDecodeError, StepNotFound
from pgconductor.testing.database import FakeTransaction
from pgconductor.testing.rows import ExecutionRow, StepRow, Tables
from pgconductor.types import ExecutionState

__all__ = ["FakeOperatedExecutions"]

_RELATIVE: Final = tuple(name for name in Relative.__dataclass_fields__ if name != "children")
_STEP: Final = tuple(
    name for name in StepSnapshot.__dataclass_fields__ if name not in {"result", "match"}
)


class FakeOperatedExecutions:
    """Implements what is for operators alone of an execution repository."""

    _transaction: FakeTransaction

    async def fork(self, execution_id: UUID, *, from_step: str | None = None) -> UUID | None:
        """See the protocol."""
        tables = await self._transaction.write()
        source = tables.executions.get(execution_id)
        if source is None:
            return None
        bound = None if from_step is None else tables.steps.get((execution_id, from_step))
        if from_step is not None and bound is None:
            raise StepNotFound(execution_id, from_step)
        now = self._transaction.now()
        made = ExecutionRow(
            id=new_id(),
            task_key=source.task_key,
            queue=source.queue,
            payload=source.payload,
            priority=source.priority,
            run_at=now,
            max_attempts=source.max_attempts,
            max_crashes=source.max_crashes,
            wakes=source.wakes,
            created_at=now,
            _number=tables.number,
        )
        tables.executions[made.id] = made
        for step in tables.steps_of(execution_id):
            before = bound is not None and step.began_before(bound)
            if before and not step.pending and step.kind is not StepKind.TRY:
                tables.steps[made.id, step.key] = replace(
                    step, execution_id=made.id, wake_at=None, match=None, event_id=None
                )
        self._transaction.notify("pgconductor_available", made.queue)
        return made.id

    async def family(self, execution_id: UUID, *, depth: int) -> Sequence[Relative]:
        """See the protocol."""
        tables = self._transaction.read()
        root = tables.executions.get(execution_id)
        generation = [] if root is None else [root]
        found: list[Relative] = []
        for number in range(depth + 1):
            found += [_relative(tables, one) for one in generation]
            if number < depth:
                parents = {one.id for one in generation}
                generation = _ordered(
                    one for one in tables.executions.values() if one.parent_id in parents
                )
        return found[:MAX_FAMILY]

    async def steps_of(
        self, execution_ids: Collection[UUID], *, limit: int, pending: bool = False
    ) -> Sequence[StepSnapshot]:
        """See the protocol."""
        tables = self._transaction.read()
        rows = [row for row in tables.steps.values() if row.execution_id in execution_ids]
        rows = [row for row in rows if row.pending or not pending]
        rows.sort(key=lambda row: row.order)
        return [_step(row) for row in rows[:limit]]

    async def waiting(
        self,
        *,
        queue: str | None = None,
        task_key: str | None = None,
        limit: int,
        waits: int,
        after: WaitingPlace | None = None,
    ) -> WaitingPage:
        """See the protocol."""
        tables = self._transaction.read()
        pending: dict[UUID, list[StepRow]] = {}
        for row in sorted(tables.steps.values(), key=lambda row: (row.created_at, row.key)):
            if row.pending and tables.executions[row.execution_id].state is ExecutionState.WAITING:
                pending.setdefault(row.execution_id, []).append(row)
        found = [
            _waiting(tables.executions[one], rows, waits)
            for one, rows in pending.items()
            if queue in (None, tables.executions[one].queue)
            and task_key in (None, tables.executions[one].task_key)
        ]
        found.sort(key=lambda one: (one.since, one.execution_id))
        if after is not None:
            place = (after.since, after.execution_id)
            found = [one for one in found if (one.since, one.execution_id) > place]
        return WaitingPage.of(found, limit)


def _ordered(rows: Any) -> list[ExecutionRow]:
    return sorted(rows, key=lambda row: (row.finished_at is not None, row.id))


def _relative(tables: Tables, row: ExecutionRow) -> Relative:
    children = sum(one.parent_id == row.id for one in tables.executions.values())
    values = {name: getattr(row, name) for name in _RELATIVE}
    return Relative(**values, children=min(children, MAX_FAMILY + 1))


def _step(row: StepRow) -> StepSnapshot:
    return StepSnapshot(
        **{name: getattr(row, name) for name in _STEP},
        result=_readable(row.result),
        match=_readable(row.match),
    )


def _readable(text: str | None) -> Any:
    try:
        return decode(text)
    except PayloadDecodeError:
        return text


def _waiting(of: ExecutionRow, rows: Sequence[StepRow], most: int) -> WaitingExecution:
    waits = [
        Waiting(
            key=row.key,
            kind=row.kind,
            detail=row.detail,
            match=_readable(row.match),
            child_id=row.child_id,
            since=row.created_at,
            until=row.wake_at,
        )
        for row in rows[:most]
    ]
    return WaitingExecution(
        execution_id=of.id,
        task_key=of.task_key,
        queue=of.queue,
        since=rows[0].created_at,
        count=len(rows),
        waits=waits,
    )
