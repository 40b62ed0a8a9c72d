"""What can be done with executions: invoke, fetch, complete, cancel, retry, read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from pgconductor.domain.claims import Claim, Fetched, Position, Registration
from pgconductor.domain.events import Emitted
from pgconductor.domain.invocations import DedupeScope, Invocation, Invoked
from pgconductor.domain.limits import (
    MAX_BATCH,
    check_count,
    check_dedupe_key,
    check_event,
    check_queue,
)
from pgconductor.domain.outcomes import Disposition, Outcome, Verdict
from pgconductor.domain.payloads import DEFAULT_MAX_BYTES, encode
from pgconductor.domain.snapshots import ExecutionFilter, ExecutionSnapshot, Page, Progress
from pgconductor.exceptions import ExecutionNotFound, InvalidInput
from pgconductor.services.operating import OperatedExecutions
from pgconductor.services.unit_of_work import Bind, unit_of_work
from pgconductor.types import ExecutionState

__all__ = ["ExecutionService", "distinct"]


class ExecutionService(OperatedExecutions):
    """Executions, over whatever session, connection or engine the caller has.

    With a session or connection, everything happens in the caller's transaction, and nothing is
    visible before the caller commits. With an engine or a sessionmaker, each call is a transaction
    of its own.

    Args:
        bind: See :func:`pgconductor.services.unit_of_work.unit_of_work`.
        max_payload_bytes: Largest payload, as JSON.
    """

    def __init__(self, bind: Bind, *, max_payload_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self._work = unit_of_work(bind)
        self._max_payload_bytes = max_payload_bytes

    async def invoke(
        self,
        task_key: str,
        payload: Any = None,
        *,
        queue: str = "default",
        run_at: datetime | None = None,
        delay: timedelta | None = None,
        priority: int = 0,
        dedupe_key: str | None = None,
        dedupe_scope: DedupeScope = DedupeScope.UNFINISHED,
        dedupe_replace: bool = False,
        max_attempts: int | None = None,
        max_crashes: int | None = None,
    ) -> Invoked:
        """Invoke a task by name, with a payload of plain JSON values.

        Args:
            task_key: The task's name.
            payload: None, or what JSON can hold.
            queue: Where it goes.
            run_at: Not before this instant.
            delay: Not before this long from now, by the database's clock.
            priority: Higher is sooner.
            dedupe_key: While an execution of this task, queue and key is unfinished, it stands for
                this invocation.
            dedupe_scope: Which executions count.
            dedupe_replace: With the scope ``UNSTARTED``: the execution that is there gets this
                payload, the earlier ``run_at`` of both, and the higher priority.
            max_attempts: How often it may be tried; the default is what the task declares, or 3.
            max_crashes: How often it may take its process down; likewise.

        Returns:
            The execution's id, and whether it is new.

        Raises:
            InvalidInput: Something is not acceptable; nothing was written.
            SchemaMissing: The database has no pgconductor schema.
        """
        invocation = Invocation(
            task_key=task_key,
            payload=self._encode(payload),
            queue=queue,
            run_at=run_at,
            delay=delay,
            priority=priority,
            dedupe_key=dedupe_key,
            dedupe_scope=dedupe_scope,
            dedupe_replace=dedupe_replace,
            max_attempts=max_attempts,
            max_crashes=max_crashes,
        )
        (invoked,) = await self.invoke_many([invocation])
        return invoked

    async def invoke_many(self, invocations: Sequence[Invocation]) -> list[Invoked]:
        """Invoke many tasks in one statement.

        Args:
            invocations: At most 10,000.

        Returns:
            As many, in the same order; invocations of the same dedupe key lead to one execution.

        Raises:
            InvalidInput: There are too many, or the id of one is used already.
            SchemaMissing: The database has no pgconductor schema.
        """
        distinct(invocations, lambda one: one.id, "invocations")
        if not invocations:
            return []
        async with self._work.begin() as repositories:
            return await repositories.executions.add_many(invocations)

    def _encode(self, payload: Any) -> str | None:
        return None if payload is None else encode(payload, max_bytes=self._max_payload_bytes)

    async def fetch(
        self,
        registration: Registration,
        *,
        queue: str = "default",
        limit: int = 1,
        task_keys: Sequence[str] | None = None,
        claim: Claim | None = None,
        after: Position | None = None,
    ) -> list[Fetched]:
        """Take executions that are due; the caller then owns them.

        Args:
            registration: The owner, from :meth:`OrchestratorService.register`.
            queue: From which queue.
            limit: At most so many, up to 10,000.
            task_keys: Only these tasks; others are left for those who know them. None for all.
            claim: A claim made beforehand, so that the caller knows it even if the answer is lost.
            after: Begin at this place of the queue instead of its first: a hint that spares a
                look at what was taken before. What has come in ahead of it is not seen.

        Returns:
            Executions in the order in which they are due. Empty, too, if the orchestrator has been
            asked to stop or is no longer registered; its heartbeat tells which. If one of them is
            ``alone``, it is the only one.
        """
        check_queue(queue)
        check_count(limit, "limit", most=MAX_BATCH)
        claim = claim or registration.next_claim()
        async with self._work.begin() as repositories:
            return await repositories.executions.fetch(
                claim, queue, limit=limit, task_keys=task_keys, after=after
            )

    async def held(self, registration: Registration) -> Mapping[UUID, Claim]:
        """What an orchestrator holds according to the database.

        Args:
            registration: The orchestrator.

        Returns:
            The claim of each execution that it holds.
        """
        async with self._work.begin() as repositories:
            return await repositories.executions.held(registration.orchestrator_id)

    async def complete(self, outcomes: Sequence[Outcome]) -> list[Verdict]:
        """Report how attempts ended: completed, failed or released, any mixture in one statement.

        It may be called again with the same outcomes if the answer was lost.

        Args:
            outcomes: At most one for each execution, at most 10,000.

        Returns:
            A verdict for each, in the same order. One that is ``LOST`` changed nothing: the
            execution was recovered meanwhile and belongs to somebody else.

        Raises:
            InvalidInput: Two outcomes are of the same execution, or there are too many.
        """
        distinct(outcomes, lambda one: one.execution_id, "outcomes")
        if not outcomes:
            return []
        async with self._work.begin() as repositories:
            verdicts = await repositories.executions.complete(outcomes)
            lost = [one.execution_id for one in verdicts if one.disposition is Disposition.LOST]
            if not lost:
                return verdicts
            # An earlier report of ours may have been committing when this one looked: a second
            # look, which sees it, tells that from somebody else's ownership.
            again = await repositories.executions.complete(
                [one for one in outcomes if one.execution_id in set(lost)]
            )
            second = {one.execution_id: one for one in again}
            return [second.get(one.execution_id, one) for one in verdicts]

    async def emit_text(
        self, name: str, payload: str | None = None, dedupe_key: str | None = None
    ) -> Emitted:
        """Emit an event whose payload is JSON text already; see :class:`EventService`.

        Args:
            name: Its name.
            payload: JSON text, or None.
            dedupe_key: While an event of this name and key is kept, it stands for this one.

        Returns:
            Its id, and whether it is new.

        Raises:
            InvalidName: It cannot name an event, or the key cannot be one.
        """
        check_event(name)
        if dedupe_key is not None:
            check_dedupe_key(dedupe_key)
        async with self._work.begin() as repositories:
            return await repositories.steps.emit(name, payload, dedupe_key)

    async def get(self, execution_id: UUID) -> ExecutionSnapshot:
        """One execution as it is now.

        Raises:
            ExecutionNotFound: There is none of that id.
        """
        async with self._work.begin() as repositories:
            found = await repositories.executions.get_one_or_none(execution_id)
        if found is None:
            raise ExecutionNotFound(execution_id)
        return found

    async def progress(self, execution_id: UUID) -> Progress:
        """How far an execution is: its state, and its result or error.

        It reads no payload, and needs no right to.

        Args:
            execution_id: Which one.

        Raises:
            ExecutionNotFound: There is none of that id.
        """
        async with self._work.begin() as repositories:
            found = await repositories.executions.progress_or_none(execution_id)
        if found is None:
            raise ExecutionNotFound(execution_id)
        return found

    async def list(
        self,
        where: ExecutionFilter | None = None,
        *,
        limit: int = 50,
        after: UUID | None = None,
    ) -> Page:
        """A page of executions, newest first.

        Args:
            where: Which ones; None for all.
            limit: How many a page, up to 1,000.
            after: ``next`` of the page before.
        """
        async with self._work.begin() as repositories:
            return await repositories.executions.list(
                where or ExecutionFilter(), limit=limit, after=after
            )

    async def count(self, where: ExecutionFilter | None = None) -> Mapping[ExecutionState, int]:
        """How many executions there are in each state.

        Args:
            where: Which ones; None for all.
        """
        async with self._work.begin() as repositories:
            return await repositories.executions.count(where or ExecutionFilter())

    async def mark_awaited(self, execution_id: UUID) -> None:
        """Have ``pgconductor_finished`` notified with the id when the execution finishes.

        Args:
            execution_id: Which one; nothing happens if it has finished already.
        """
        async with self._work.begin() as repositories:
            await repositories.executions.mark_awaited(execution_id)


_T = TypeVar("_T")


def distinct(items: Sequence[_T], key: Callable[[_T], object], field: str) -> None:
    """Raise unless all items have different keys and are not too many.

    Raises:
        InvalidInput: They have not, or are.
    """
    if len(items) > MAX_BATCH:
        raise InvalidInput(field, f"at most {MAX_BATCH} at once")
    if len({key(item) for item in items}) != len(items):
        raise InvalidInput(field, "two of them are for the same execution")
