"""Steps and waits, by SQLAlchemy."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Text, cast, func, select

from pgconductor import sql
from pgconductor.domain.events import Emitted
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
from pgconductor.models import Execution, Step
from pgconductor.repositories.executor import SqlRepository

__all__ = ["SqlStepRepository"]

#: No event has an empty name.
_BEFORE_ALL: Final = EventPlace("", datetime.min.replace(tzinfo=UTC), UUID(int=0))

_SHOWN: Final = (
    Step.key,
    Step.kind,
    Step.pending,
    Step.place,
    cast(Step.result, Text).label("result"),
    Step.error_type,
    Step.error,
    Step.detail,
    Step.child_id,
    Step.woke,
    Step.turn,
    (Step.wake_at - func.pgconductor.clock()).label("remaining"),
)


class SqlStepRepository(SqlRepository):
    """Implements :class:`~pgconductor.repositories.protocols.StepRepository`."""

    async def record(self, step: StepRecord) -> str | None:
        """See the protocol."""
        parameters = {
            "execution_id": step.execution_id,
            "orchestrator_id": step.claim.orchestrator_id,
            "claim_number": step.claim.number,
            "key": step.key,
            "step_place": step.place,
            "result": step.result,
            "took": step.took,
            "woke": step.woke,
            "turn": step.turn,
        }
        rows = await self._rows(sql.RECORD_STEP, parameters)
        if not rows:
            # Somebody of the same owner may have been recording the same key: the insert gave way
            # to a row that it could not see yet. A second look does.
            rows = await self._rows(sql.RECORD_STEP, parameters)
        if not rows:
            raise OwnershipLost(step.execution_id)
        recorded: str | None = rows[0].result
        return recorded

    async def record_many(self, steps: Sequence[StepRecord]) -> list[Recorded | OwnershipLost]:
        """See the protocol."""
        (orchestrator_id,) = {one.claim.orchestrator_id for one in steps}
        failures = [one.failure for one in steps]
        rows = await self._rows(
            sql.RECORD_STEPS,
            {
                "orchestrator_id": orchestrator_id,
                "ids": [one.execution_id for one in steps],
                "claim_numbers": [one.claim.number for one in steps],
                "keys": [one.key for one in steps],
                "kinds": [one.kind.value for one in steps],
                "step_places": [one.place for one in steps],
                "results": [one.result for one in steps],
                "error_types": [one.type if one else None for one in failures],
                "errors": [one.message if one else None for one in failures],
                "tooks": [one.took for one in steps],
                "wokes": [one.woke for one in steps],
                "turns": [one.turn for one in steps],
            },
        )
        answers: list[Recorded | OwnershipLost] = []
        for step, row in zip(steps, rows, strict=True):
            if not row.held:
                answers.append(OwnershipLost(step.execution_id))
            elif row.recorded:
                answers.append(
                    Recorded(
                        key=step.key,
                        kind=StepKind(row.kind),
                        result=row.result,
                        error_type=row.error_type,
                        error=row.error,
                    )
                )
            else:
                # As in record(): given way to a row that this statement could not see yet.
                answers += await self.record_many([step])
        return answers

    async def decide(self, decision: Decision) -> str | None:
        """See the protocol."""
        step = decision.step
        parameters = {
            "execution_id": step.execution_id,
            "orchestrator_id": step.claim.orchestrator_id,
            "claim_number": step.claim.number,
            "key": step.key,
            "step_place": step.place,
            "result": step.result,
            "took": step.took,
            "woke": step.woke,
            "turn": step.turn,
            "lost": list(decision.lost),
            "begun": list(decision.begun),
        }
        rows = await self._rows(sql.DECIDE_FIRST, parameters)
        if not rows:
            raise OwnershipLost(step.execution_id)
        recorded: str | None = rows[0].result
        return recorded

    async def start_many(self, starts: Sequence[StepStart]) -> list[Started]:
        """See the protocol."""
        rows = await self._rows(sql.START_STEPS, _start_parameters(starts))
        answers: list[Started] = []
        for start, row in zip(starts, rows, strict=True):
            if row.held and row.key is None:
                # Refused; or given way to a row that this statement could not see yet.
                known = (await self.histories([start.execution_id]))[start.execution_id]
                answers.append(Started(True, known.records.get(start.key)))
            else:
                answers.append(Started(row.held, _recorded(row) if row.held else None))
        return answers

    async def histories(self, execution_ids: Collection[UUID]) -> Mapping[UUID, History]:
        """See the protocol."""
        rows = await self._rows(
            select(Execution.id, Execution.wakes, *_SHOWN)
            .outerjoin(Step, Step.execution_id == Execution.id)
            .where(Execution.id.in_(execution_ids))
            .order_by(Step.created_at, Step.ordinal, Step.key)
        )
        records: dict[UUID, dict[str, Recorded]] = {}
        wakes: dict[UUID, int] = {}
        for row in rows:
            wakes[row.id] = row.wakes
            mine = records.setdefault(row.id, {})
            if row.key is not None:
                mine[row.key] = _recorded(row)
        return {one: History(records[one], wakes[one]) for one in wakes}

    async def settle(
        self, seen: Mapping[UUID, int | None], *, until: datetime | None = None
    ) -> list[Settled]:
        """See the protocol."""
        rows = await self._rows(
            sql.SETTLE, {"ids": list(seen), "seen": list(seen.values()), "until": until}
        )
        wakes: dict[UUID, int | None] = {}
        ended: dict[UUID, list[Recorded]] = {}
        for row in rows:
            wakes[row.execution_id] = row.wakes
            mine = ended.setdefault(row.execution_id, [])
            if row.key is not None:
                mine.append(_recorded(row))
        return [Settled(one, wakes[one], tuple(ended[one])) for one in wakes]

    async def due(
        self, *, limit: int, without: Collection[UUID] = (), after: EventPlace | None = None
    ) -> Due:
        """See the protocol."""
        after = after or _BEFORE_ALL
        (row,) = await self._rows(
            sql.DUE_WAITS,
            {
                "limit": limit,
                "without": list(without),
                "after_name": after.name,
                "after_time": after.emitted_at,
                "after_id": after.id,
            },
        )
        last = None
        if row.last_id is not None:
            last = EventPlace(row.last_name, row.last_time, row.last_id)
        return Due(tuple(row.execution_ids), tuple(row.event_ids), row.next_in, row.until, last)

    async def mark_matched(
        self, event_ids: Collection[UUID], *, left: Collection[UUID] = ()
    ) -> None:
        """See the protocol."""
        await self._write(sql.MARK_MATCHED, {"ids": list(event_ids), "left": list(left)})

    async def emit(self, name: str, payload: str | None, dedupe_key: str | None = None) -> Emitted:
        """See the protocol."""
        event = {"name": name, "payload": payload, "dedupe_key": dedupe_key}
        (row,) = await self._rows(sql.EMIT, event)
        return Emitted(row.id, row.created)


def _start_parameters(starts: Sequence[StepStart]) -> dict[str, Any]:
    (orchestrator_id,) = {one.claim.orchestrator_id for one in starts}
    failures = [one.failure for one in starts]
    children = [one.child for one in starts]
    return {
        "orchestrator_id": orchestrator_id,
        "ids": [one.execution_id for one in starts],
        "claim_numbers": [one.claim.number for one in starts],
        "keys": [one.key for one in starts],
        "kinds": [one.kind.value for one in starts],
        "step_places": [one.place for one in starts],
        "details": [one.detail for one in starts],
        "delays": [one.delay for one in starts],
        "untils": [one.until for one in starts],
        "texts": [one.text for one in starts],
        "error_types": [one.type if one else None for one in failures],
        "errors": [one.message if one else None for one in failures],
        "child_ids": [one.id if one else None for one in children],
        "queues": [one.queue if one else None for one in children],
        "priorities": [one.priority if one else None for one in children],
        "max_attempts": [one.max_attempts if one else None for one in children],
        "max_crashes": [one.max_crashes if one else None for one in children],
        "wokes": [one.woke for one in starts],
        "turns": [one.turn for one in starts],
    }


def _recorded(row: Any) -> Recorded:
    return Recorded(
        key=row.key,
        kind=StepKind(row.kind),
        pending=row.pending,
        place=row.place,
        result=row.result,
        error_type=row.error_type,
        error=row.error,
        detail=row.detail,
        child_id=row.child_id,
        remaining=row.remaining,
        woke=row.woke,
        turn=row.turn,
    )
