"""Steps and waits, in memory."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from pgconductor.domain.events import Emitted
from pgconductor.domain.ids import new_id
from pgconductor.domain.invocations import Invocation
from pgconductor.domain.limits import check_task_key
from pgconductor.domain.steps import (
    Decision,
    Due,
    EventPlace,
    History,
    Recorded,
    Settled,
    Started,
    StepKind,
    StepRecord,
    StepStart,
)
from pgconductor.exceptions import OwnershipLost
from pgconductor.testing.database import FakeTransaction
from pgconductor.testing.invoking import execution_row
from pgconductor.testing.jsonb import as_jsonb
from pgconductor.testing.pairing import hopeful
from pgconductor.testing.rows import EventRow, ExecutionRow, StepRow, Tables, holds
from pgconductor.testing.settling import due_in, settle_in

__all__ = ["FakeStepRepository"]


class FakeStepRepository:
    """Implements :class:`~pgconductor.repositories.StepRepository`."""

    def __init__(self, transaction: FakeTransaction) -> None:
        self._transaction = transaction

    async def record(self, step: StepRecord) -> str | None:
        """See the protocol."""
        # Like the statement, it records what has returned, and nothing else.
        plain = replace(step, kind=StepKind.STEP, failure=None)
        return self._record(await self._transaction.write(), plain).result

    async def record_many(self, steps: Sequence[StepRecord]) -> list[Recorded | OwnershipLost]:
        """See the protocol."""
        _one_owner(steps)
        tables = await self._transaction.write()
        answers: list[Recorded | OwnershipLost] = []
        for one in steps:
            try:
                row = self._record(tables, one)
            except OwnershipLost as lost:
                answers.append(lost)
                continue
            answers.append(
                Recorded(
                    key=row.key,
                    kind=row.kind,
                    result=row.result,
                    error_type=row.error_type,
                    error=row.error,
                )
            )
        return answers

    def _record(self, tables: Tables, step: StepRecord) -> StepRow:
        if not holds(tables.executions.get(step.execution_id), step.claim):
            raise OwnershipLost(step.execution_id)
        now = self._transaction.now()
        row = StepRow(
            execution_id=step.execution_id,
            key=step.key,
            kind=step.kind,
            place=step.place,
            result=as_jsonb(step.result, "result"),
            error_type=step.failure.type if step.failure else None,
            error=step.failure.message if step.failure else None,
            created_at=now,
            ended_at=now,
            woke=step.woke,
            turn=step.turn,
            _began=step.began,
            _ended=time.monotonic(),
        )
        return tables.steps.setdefault((step.execution_id, step.key), row)

    async def decide(self, decision: Decision) -> str | None:
        """See the protocol."""
        tables = await self._transaction.write()
        step = decision.step
        before = tables.steps.get((step.execution_id, step.key))
        row = self._record(tables, replace(step, kind=StepKind.FIRST, failure=None))
        if before is None:
            there = (tables.steps.get((step.execution_id, key)) for key in decision.begun)
            created, began = min([row.begun, *(one.begun for one in there if one is not None)])
            row = replace(row, created_at=created, _began=began)
            tables.steps[step.execution_id, step.key] = row
            for key in decision.lost:
                self._lose(tables, row, key)
        return row.result

    def _lose(self, tables: Tables, first: StepRow, key: str) -> None:
        lost = tables.steps.get((first.execution_id, key))
        if lost is not None and lost.kind.waits:
            tables.steps[lost.execution_id, key] = replace(
                lost,
                pending=False,
                result=None,
                error_type="(lost)",
                error=f"{first.key} was decided by another",
                event_id=None,
                ended_at=lost.ended_at or self._transaction.now(),
                _ended=time.monotonic(),
            )

    async def start_many(self, starts: Sequence[StepStart]) -> list[Started]:
        """See the protocol."""
        _one_owner(starts)
        tables = await self._transaction.write()
        return [self._start(tables, one) for one in starts]

    def _start(self, tables: Tables, start: StepStart) -> Started:
        execution = tables.executions.get(start.execution_id)
        if execution is None or not holds(execution, start.claim):
            return Started(False, None)
        now = self._transaction.now()
        there = tables.steps.get((start.execution_id, start.key))
        if there is not None:
            return Started(True, there.recorded(now))
        if start.child is not None and execution.cancel_requested_at is not None:
            return Started(True, None)
        start = replace(start, text=as_jsonb(start.text, "payload"))
        row = _step_row(start, now)
        tables.steps[row.execution_id, row.key] = row
        if start.child is not None:
            self._invoke(tables, start)
        if start.kind is StepKind.EMIT:
            self._emit(tables, str(start.detail), start.text)
        return Started(True, row.recorded(now))

    def _invoke(self, tables: Tables, start: StepStart) -> None:
        child = _child_row(tables, start, self._transaction.now())
        tables.executions[child.id] = child
        if child.run_at <= self._transaction.now():
            self._transaction.notify("pgconductor_available", child.queue)

    async def histories(self, execution_ids: Collection[UUID]) -> Mapping[UUID, History]:
        """See the protocol."""
        tables = self._transaction.read()
        now = self._transaction.now()
        there = {one: list[StepRow]() for one in execution_ids if one in tables.executions}
        # One pass, for however many.
        for row in tables.steps.values():
            if row.execution_id in there:
                there[row.execution_id].append(row)
        return {
            one: History(
                {step.key: step.recorded(now) for step in sorted(steps, key=lambda row: row.order)},
                tables.executions[one].wakes,
            )
            for one, steps in there.items()
        }

    async def settle(
        self, seen: Mapping[UUID, int | None], *, until: datetime | None = None
    ) -> list[Settled]:
        """See the protocol."""
        del until  # Here everybody looks at all events.
        return settle_in(self._transaction, await self._transaction.write(), seen)

    async def due(
        self, *, limit: int, without: Collection[UUID] = (), after: EventPlace | None = None
    ) -> Due:
        """See the protocol."""
        tables, now = self._transaction.read(), self._transaction.now()
        return due_in(tables, now, limit=limit, without=without, after=after)

    async def mark_matched(
        self, event_ids: Collection[UUID], *, left: Collection[UUID] = ()
    ) -> None:
        """See the protocol."""
        tables = await self._transaction.write()
        waits = [it for it in tables.steps.values() if it.pending and it.execution_id in left]
        for one in event_ids:
            event = tables.events.get(one)
            if event is not None and not hopeful(tables, waits, [event]):
                tables.events[one] = replace(tables.events[one], matched=True)

    async def emit(self, name: str, payload: str | None, dedupe_key: str | None = None) -> Emitted:
        """See the protocol."""
        stored = as_jsonb(payload, "payload")
        tables = await self._transaction.write()
        same = (
            one.id
            for one in tables.events.values()
            if dedupe_key is not None and (one.name, one.dedupe_key) == (name, dedupe_key)
        )
        there = next(same, None)
        if there is not None:
            return Emitted(there, created=False)
        return Emitted(self._emit(tables, name, stored, dedupe_key))

    def _emit(
        self, tables: Tables, name: str, payload: str | None, dedupe_key: str | None = None
    ) -> UUID:
        row = EventRow(
            id=new_id(),
            # Events are named as tasks are.
            name=check_task_key(name, "event"),
            payload=None if payload == "null" else payload,
            dedupe_key=dedupe_key,
            emitted_at=self._transaction.now(),
        )
        tables.events[row.id] = row
        self._transaction.notify("pgconductor_waits", "")
        return row.id


def _one_owner(writes: Sequence[StepRecord] | Sequence[StepStart]) -> None:
    owners = {one.claim.orchestrator_id for one in writes}
    if len(owners) != 1:
        raise ValueError(f"one orchestrator at a time, not {len(owners)}")


def _step_row(start: StepStart, now: datetime) -> StepRow:
    wake_at = start.until or (None if start.delay is None else now + start.delay)
    return StepRow(
        execution_id=start.execution_id,
        key=start.key,
        kind=start.kind,
        place=start.place,
        pending=start.kind.waits,
        error_type=start.failure.type if start.failure else None,
        error=start.failure.message if start.failure else None,
        detail=start.detail,
        wake_at=None if start.kind is StepKind.SPAWN else wake_at,
        match=start.text if start.kind is StepKind.EVENT else None,
        child_id=start.child.id if start.child else None,
        woke=start.woke,
        turn=start.turn,
        created_at=now,
    )


def _child_row(tables: Tables, start: StepStart, now: datetime) -> ExecutionRow:
    child, waits = start.child, start.kind.waits
    assert child is not None  # noqa: S101 - by the caller
    invocation = Invocation(
        task_key=str(start.detail),
        id=child.id,
        queue=child.queue,
        payload=start.text,
        priority=child.priority,
        # How long a child is waited for says nothing about when it is due.
        run_at=None if waits else start.until,
        delay=None if waits or start.until is not None else start.delay,
        max_attempts=child.max_attempts,
        max_crashes=child.max_crashes,
    )
    return replace(
        execution_row(tables, invocation, now),
        parent_id=start.execution_id,
        parent_key=start.key if waits else None,
        awaited=waits,
    )
