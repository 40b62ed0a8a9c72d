"""Executions, by SQLAlchemy."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from operator import attrgetter
from typing import Any, Final
from uuid import UUID

from asyncpg.exceptions import UniqueViolationError
from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Text,
    Uuid,
    any_,
    cast,
    exists,
    func,
    literal,
    literal_column,
    select,
)
from sqlalchemy.exc import IntegrityError

from pgconductor import sql
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
    Suspended,
    Verdict,
)
from pgconductor.domain.snapshots import ExecutionFilter, ExecutionSnapshot, Page, Progress
from pgconductor.exceptions import DedupeConflict, StepNotFound
from pgconductor.models import Execution
from pgconductor.repositories.errors import sqlstate
from pgconductor.repositories.invoking import Invoke, already_there
from pgconductor.repositories.operating import SqlOperatedExecutions, readable
from pgconductor.types import ExecutionState

__all__ = ["SqlExecutionRepository"]

_KINDS: Final[Mapping[type[Outcome], str]] = {
    Completed: "completed",
    Failed: "failed",
    Released: "released",
    Suspended: "suspended",
}
_COMPLETED: Final = (Disposition.RECORDED, ExecutionState.COMPLETED)
_by_id: Final = attrgetter("execution_id")
_RETRIABLE: Final = (ExecutionState.FAILED.value, ExecutionState.CANCELLED.value)
_UNIQUE_VIOLATION: Final = "23505"
_PLAIN: Final = tuple(
    name
    for name in ExecutionSnapshot.__dataclass_fields__
    if name not in {"payload", "result", "state"}
)
# JSON is read as text and decoded here, so that an unreadable one spoils neither page nor driver.
_COLUMNS: Final = (
    *(getattr(Execution, name) for name in _PLAIN),
    Execution.state,
    cast(Execution.payload, Text).label("payload"),
    cast(Execution.result, Text).label("result"),
)
# What a role that may not read payloads can read.
_PROGRESS: Final = (
    Execution.state,
    cast(Execution.result, Text).label("result"),
    Execution.last_error,
    Execution.last_error_type,
    Execution.cancel_reason,
)


class SqlExecutionRepository(SqlOperatedExecutions):
    """Implements :class:`~pgconductor.repositories.protocols.ExecutionRepository`."""

    async def add_many(
        self, invocations: Sequence[Invocation], *, announce: bool = True
    ) -> list[Invoked]:
        """See the protocol."""
        if not invocations:
            return []
        check_count(len(invocations), "invocations", most=MAX_BATCH)
        invoke = Invoke.of(invocations, announce=announce)
        try:
            return invoke.answers(await self._rows(invoke.statement, invoke.parameters))
        except (IntegrityError, UniqueViolationError) as error:
            if (known := already_there(error)) is not None:
                raise known from error
            raise

    async def announce(self, queues: Collection[str]) -> None:
        """See the protocol."""
        await self._write(sql.ANNOUNCE, {"queues": sorted(queues)})

    async def which_exist(self, ids: Sequence[UUID]) -> set[UUID]:
        """See the protocol."""
        rows = await self._rows(
            select(Execution.id).where(Execution.id == any_(literal(list(ids), ARRAY(Uuid))))
        )
        return {row.id for row in rows}

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
        parameters: dict[str, Any] = {
            "orchestrator_id": claim.orchestrator_id,
            "claim_number": claim.number,
            "queue": queue,
            "limit": limit,
            "task_keys": None if task_keys is None else list(task_keys),
        }
        if after is None:
            rows = await self._rows(sql.FETCH, parameters)
        else:
            place = zip(("after_rank", "after_run_at", "after_id"), after, strict=True)
            rows = await self._rows(sql.FETCH_AFTER, {**parameters, **dict(place)})
        return [_fetched(row, claim, queue) for row in rows]

    async def held(self, orchestrator_id: UUID) -> Mapping[UUID, Claim]:
        """See the protocol."""
        rows = await self._rows(
            select(Execution.id, Execution.claim_number).where(
                Execution.locked_by == orchestrator_id,
                # A literal, as in the predicate of executions_held_idx: a parameter would keep
                # the index from being used.
                Execution.claim_number > literal_column("0"),
                Execution.state == ExecutionState.RUNNING.value,
            )
        )
        return {row.id: Claim(orchestrator_id, row.claim_number) for row in rows}

    async def complete(self, outcomes: Sequence[Outcome]) -> list[Verdict]:
        """See the protocol."""
        if not outcomes:
            return []
        left = await self._complete_results(outcomes)
        judged: dict[UUID, Verdict] = {}
        if left:
            rows = await self._rows(sql.COMPLETE, _outcome_parameters(left))
            judged = {row.id: _verdict(row) for row in rows}
        return [
            judged.get(one.execution_id) or Verdict(one.execution_id, *_COMPLETED)
            for one in outcomes
        ]

    async def _complete_results(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Write the results of one orchestrator; returns what is left to be judged one by one."""
        owner = outcomes[0].claim.orchestrator_id
        results = [
            one
            for one in outcomes
            if isinstance(one, Completed) and one.claim.orchestrator_id == owner
        ]
        if not results:
            return list(outcomes)
        if len(results) < len(outcomes):
            await self._rows(sql.LOCK_RUNNING, {"ids": [one.execution_id for one in outcomes]})
        results.sort(key=_by_id)
        rows = await self._rows(
            sql.COMPLETE_RESULTS,
            {
                "orchestrator_id": owner,
                "ids": [one.execution_id for one in results],
                "claim_numbers": [one.claim.number for one in results],
                "results": [one.result for one in results],
            },
        )
        if not rows and len(results) == len(outcomes):
            return []
        done = {one.execution_id for one in results}.difference(row.id for row in rows)
        return [one for one in outcomes if one.execution_id not in done]

    async def take_back(
        self,
        orchestrator_id: UUID,
        *,
        limit: int,
        crashed: bool,
    ) -> Recovery:
        """See the protocol."""
        (row,) = await self._rows(
            sql.TAKE_BACK,
            {
                "orchestrator_id": orchestrator_id,
                "limit": limit,
                "crashed": crashed,
            },
        )
        return Recovery(available=row.available, failed=row.failed, cancelled=row.cancelled)

    async def orphan_owners(self) -> list[UUID]:
        """See the protocol."""
        return [row.locked_by for row in await self._rows(sql.ORPHANS)]

    async def cancel(
        self,
        execution_id: UUID,
        reason: str | None = None,
        *,
        children: bool = True,
        parent_id: UUID | None = None,
    ) -> bool:
        """See the protocol."""
        done = func.pgconductor.cancel_execution(execution_id, reason, children)
        cancelled = select(done.label("done"))
        if parent_id is not None:
            cancelled = cancelled.where(
                exists().where(
                    Execution.id == execution_id,
                    Execution.parent_id == parent_id,
                    Execution.parent_key.is_not(None),
                )
            )
        return any(row.done for row in await self._rows(cancelled))

    async def retry(
        self, execution_id: UUID, *, from_scratch: bool = False, from_step: str | None = None
    ) -> bool:
        """See the protocol."""
        parameters = {"id": execution_id, "from_scratch": from_scratch, "from_step": from_step}
        # By a statement of its own: somebody may be ending its waits just now, and what they end
        # with is seen by a statement that begins afterwards.
        await self._rows(
            select(Execution.id)
            .where(Execution.id == execution_id, Execution.state.in_(_RETRIABLE))
            .with_for_update(key_share=True)
        )
        try:
            (row,) = await self._rows(sql.RETRY, parameters)
        except (IntegrityError, UniqueViolationError) as error:
            if sqlstate(error) != _UNIQUE_VIOLATION:
                raise
            # An invocation of the same key committed after this statement had begun.
            raise DedupeConflict(execution_id) from error
        if row.rival:
            raise DedupeConflict(execution_id)
        if row.unknown:
            raise StepNotFound(execution_id, str(from_step))
        return bool(row.changed)

    async def get_one_or_none(self, execution_id: UUID) -> ExecutionSnapshot | None:
        """See the protocol."""
        rows = await self._rows(select(*_COLUMNS).where(Execution.id == execution_id))
        return _snapshot(rows[0]) if rows else None

    async def progress_or_none(self, execution_id: UUID) -> Progress | None:
        """See the protocol."""
        rows = await self._rows(select(*_PROGRESS).where(Execution.id == execution_id))
        if not rows:
            return None
        state, result, error, error_type, cancel_reason = rows[0]
        return Progress(
            state=ExecutionState(state),
            result=readable(result),
            last_error=error,
            last_error_type=error_type,
            cancel_reason=cancel_reason,
        )

    async def list(
        self, where: ExecutionFilter, *, limit: int = 50, after: UUID | None = None
    ) -> Page:
        """See the protocol."""
        Page.check_size(limit)
        statement = select(*_COLUMNS).where(*_conditions(where)).order_by(Execution.id.desc())
        if after is not None:
            statement = statement.where(Execution.id < after)
        rows = await self._rows(statement.limit(limit + 1))
        items = [_snapshot(row) for row in rows[:limit]]
        return Page(items, items[-1].id if len(rows) > limit else None)

    async def count(self, where: ExecutionFilter) -> Mapping[ExecutionState, int]:
        """See the protocol."""
        rows = await self._rows(
            select(Execution.state, func.count().label("number"))
            .where(*_conditions(where))
            .group_by(Execution.state)
        )
        found = {row.state: row.number for row in rows}
        return {state: found.get(state.value, 0) for state in ExecutionState}

    async def mark_awaited(self, execution_id: UUID) -> None:
        """See the protocol."""
        await self._write(sql.MARK_AWAITED, {"id": execution_id})


def _conditions(where: ExecutionFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if where.states:
        conditions.append(Execution.state.in_([state.value for state in where.states]))
    if where.task_key is not None:
        conditions.append(Execution.task_key == where.task_key)
    if where.queue is not None:
        conditions.append(Execution.queue == where.queue)
    if where.created_after is not None:
        conditions.append(Execution.created_at >= where.created_after)
    if where.created_before is not None:
        conditions.append(Execution.created_at < where.created_before)
    return conditions


def _fetched(row: Any, claim: Claim, queue: str) -> Fetched:
    execution_id, task_key, payload, attempt, *rest = row
    return Fetched(execution_id, claim, task_key, queue, payload, attempt, *rest)


def _outcome_parameters(outcomes: Sequence[Outcome]) -> dict[str, list[Any]]:
    kinds: list[str] = []
    results: list[str | None] = []
    failures: list[tuple[str | None, str | None, str | None]] = []
    delays: list[timedelta | None] = []
    for one in outcomes:
        failed = one if isinstance(one, Failed) else None
        completed = one if isinstance(one, Completed) else None
        kinds.append(_KINDS[type(one)])
        results.append(completed.result if completed else None)
        released = one if isinstance(one, Released) else None
        delays.append(failed.retry_after if failed else released.after if released else None)
        failure = failed.failure if failed else None
        failures.append(
            (failure.type, failure.message, failure.traceback) if failure else (None, None, None)
        )
    return {
        "ids": [one.execution_id for one in outcomes],
        "orchestrator_ids": [one.claim.orchestrator_id for one in outcomes],
        "claim_numbers": [one.claim.number for one in outcomes],
        "kinds": kinds,
        "results": results,
        "error_types": [type_ for type_, _, _ in failures],
        "errors": [message for _, message, _ in failures],
        "tracebacks": [stack for _, _, stack in failures],
        "delays": delays,
        "wakes": [one.wakes if isinstance(one, Suspended) else None for one in outcomes],
    }


def _verdict(row: Any) -> Verdict:
    if row.state is None:
        return Verdict(row.id, Disposition.LOST, None)
    disposition = Disposition.KNOWN if row.known else Disposition.RECORDED
    return Verdict(row.id, disposition, ExecutionState(row.state))


def _snapshot(row: Any) -> ExecutionSnapshot:
    return ExecutionSnapshot(
        **{name: getattr(row, name) for name in _PLAIN},
        state=ExecutionState(row.state),
        payload=readable(row.payload),
        result=readable(row.result),
    )
