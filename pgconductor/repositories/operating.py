"""What operators ask of executions: the protocol's part, and its implementation by SQLAlchemy."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from typing import Any, Final, Protocol
from uuid import UUID

from sqlalchemy import ARRAY, Text, Uuid, any_, cast, literal, select

from pgconductor import sql
from pgconductor.domain.payloads import decode
from pgconductor.domain.snapshots import ExecutionFilter, ExecutionSnapshot, Page, Progress
from pgconductor.domain.steps import StepKind
from pgconductor.domain.trees import MAX_FAMILY, Relative, StepSnapshot
from pgconductor.domain.waiting import Waiting, WaitingExecution, WaitingPage, WaitingPlace
from pgconductor.exceptions import PayloadDecodeError, StepNotFound
from pgconductor.models import Step
from pgconductor.repositories.executor import SqlRepository
from pgconductor.types import ExecutionState

__all__ = ["OperatedExecutions", "SqlOperatedExecutions", "readable"]

_STEP: Final = tuple(
    name for name in StepSnapshot.__dataclass_fields__ if name not in {"kind", "result", "match"}
)
_STEP_COLUMNS: Final = (
    *(getattr(Step, name) for name in _STEP),
    Step.kind,
    cast(Step.result, Text).label("result"),
    cast(Step.match, Text).label("match"),
)
#: As many waits are looked at first to find an execution, and so much further when that is too few.
_WAITS_FOR_EACH: Final = 4
_FURTHER: Final = 8
_RELATIVE: Final = tuple(name for name in Relative.__dataclass_fields__ if name != "state")


class OperatedExecutions(Protocol):
    """The part of :class:`~pgconductor.repositories.ExecutionRepository` that operators use."""

    async def cancel(
        self,
        execution_id: UUID,
        reason: str | None = None,
        *,
        children: bool = True,
        parent_id: UUID | None = None,
    ) -> bool:
        """Cancel at once what no worker holds, ask the owner of what one holds.

        Args:
            execution_id: Which one.
            reason: Why.
            children: Cancel the children that it waits for as well, and theirs.
            parent_id: Only if this execution waits for it, or has waited for it until it was late.

        Returns:
            False if it has finished, never was, or is no such child.
        """
        ...

    async def retry(
        self, execution_id: UUID, *, from_scratch: bool = False, from_step: str | None = None
    ) -> bool:
        """Make a failed or cancelled execution available again, all its attempts anew.

        Recorded errors after which nothing was recorded, and children that have not completed, are
        dropped.

        Args:
            execution_id: Which one.
            from_scratch: Drop all of its recorded steps.
            from_step: Drop this step, and what began with it or after it.

        Returns:
            False if it is neither failed nor cancelled, or never was.

        Raises:
            StepNotFound: It has no such step.
            DedupeConflict: An unfinished execution has its dedupe key.
        """
        ...

    async def fork(self, execution_id: UUID, *, from_step: str | None = None) -> UUID | None:
        """Make a new execution like another, which may be in any state.

        Args:
            execution_id: Which one.
            from_step: Copy what was recorded before this step, but for waits and tries; None to
                copy nothing.

        Returns:
            Its id; None if there is no execution to be like.

        Raises:
            StepNotFound: It has no such step.
        """
        ...

    async def get_one_or_none(self, execution_id: UUID) -> ExecutionSnapshot | None:
        """One execution, or None."""
        ...

    async def progress_or_none(self, execution_id: UUID) -> Progress | None:
        """How far one execution is, or None; it reads no payload."""
        ...

    async def list(
        self, where: ExecutionFilter, *, limit: int = 50, after: UUID | None = None
    ) -> Page:
        """A page of executions, newest first.

        Args:
            where: Which ones.
            limit: How many a page.
            after: ``next`` of the page before.
        """
        ...

    async def count(self, where: ExecutionFilter) -> Mapping[ExecutionState, int]:
        """How many executions there are in each state; every state is there."""
        ...

    async def family(self, execution_id: UUID, *, depth: int) -> Sequence[Relative]:
        """An execution and its descendants, generation after generation.

        Args:
            execution_id: Which one.
            depth: How many generations of descendants.

        Returns:
            At most ``MAX_FAMILY``; of each generation those first that have not finished, then in
            the order of their ids. Empty if there is no such execution.
        """
        ...

    async def steps_of(
        self, execution_ids: Collection[UUID], *, limit: int, pending: bool = False
    ) -> Sequence[StepSnapshot]:
        """The steps of executions, in the order of their beginning.

        Args:
            execution_ids: Of which ones.
            limit: At most so many.
            pending: Only what is waited for.
        """
        ...

    async def waiting(
        self,
        *,
        queue: str | None = None,
        task_key: str | None = None,
        limit: int,
        waits: int,
        after: WaitingPlace | None = None,
    ) -> WaitingPage:
        """A page of suspended executions, those first that have waited longest.

        Args:
            queue: Only of this queue.
            task_key: Only of this task.
            limit: At most so many.
            waits: At most so many waits of each, those first that began first.
            after: Only behind this place.
        """
        ...


def readable(text: str | None) -> Any:
    """Decoded JSON; what cannot be decoded is shown as the text that it is."""
    try:
        return decode(text)
    except PayloadDecodeError:
        return text


class SqlOperatedExecutions(SqlRepository):
    """Implements what of :class:`OperatedExecutions` is for operators alone."""

    async def fork(self, execution_id: UUID, *, from_step: str | None = None) -> UUID | None:
        """See the protocol."""
        (row,) = await self._rows(sql.FORK, {"id": execution_id, "from_step": from_step})
        if row.found and row.id is None:
            raise StepNotFound(execution_id, str(from_step))
        made: UUID | None = row.id
        return made

    async def family(self, execution_id: UUID, *, depth: int) -> Sequence[Relative]:
        """See the protocol."""
        parameters = {"id": execution_id, "depth": depth, "limit": MAX_FAMILY}
        return [
            Relative(
                **{name: getattr(row, name) for name in _RELATIVE}, state=ExecutionState(row.state)
            )
            for row in await self._rows(sql.FAMILY, parameters)
        ]

    async def steps_of(
        self, execution_ids: Collection[UUID], *, limit: int, pending: bool = False
    ) -> Sequence[StepSnapshot]:
        """See the protocol."""
        wanted = literal(list(execution_ids), ARRAY(Uuid))
        query = select(*_STEP_COLUMNS).where(Step.execution_id == any_(wanted))
        if pending:
            query = query.where(Step.pending)
        rows = await self._rows(query.order_by(Step.created_at, Step.key).limit(limit))
        return [
            StepSnapshot(
                **{name: getattr(row, name) for name in _STEP},
                kind=StepKind(row.kind),
                result=readable(row.result),
                match=readable(row.match),
            )
            for row in rows
        ]

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
        parameters = {
            "queue": queue,
            "task_key": task_key,
            "limit": limit + 1,
            "few": waits,
            "since": None if after is None else after.since,
            "after": None if after is None else after.execution_id,
        }
        looked_at = _WAITS_FOR_EACH * (limit + 1)
        while True:
            rows = await self._rows(sql.WAITING, {**parameters, "most": looked_at})
            grouped = groupby(rows, key=lambda row: row.execution_id)
            found = [_waiting(list(own)) for one, own in grouped if one is not None]
            if len(found) > limit or rows[0].walked < looked_at:
                return WaitingPage.of(found, limit)
            # Those of few executions, or of others than were asked for: a fan-out, above all.
            looked_at *= _FURTHER


def _waiting(rows: Sequence[Any]) -> WaitingExecution:
    of = rows[0]
    waits = [
        Waiting(
            key=row.key,
            kind=StepKind(row.kind),
            detail=row.detail,
            match=readable(row.match),
            child_id=row.child_id,
            since=row.since,
            until=row.until,
        )
        for row in rows
    ]
    return WaitingExecution(
        execution_id=of.execution_id,
        task_key=of.task_key,
        queue=of.queue,
        since=of.waiting_since,
        count=of.waits,
        waits=waits,
    )
