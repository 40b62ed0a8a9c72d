"""What operators do with executions: cancel, retry, fork, and see what they wait for."""

from __future__ import annotations

from uuid import UUID

from pgconductor.domain.limits import (
    check_count,
    check_queue,
    check_recorded_key,
    check_task_key,
    check_text,
)
from pgconductor.domain.snapshots import Page
from pgconductor.domain.trees import MAX_DEPTH, MAX_STEPS, ExecutionTree
from pgconductor.domain.waiting import MAX_WAITS, WaitingPage, WaitingPlace
from pgconductor.exceptions import ExecutionNotFound, InvalidInput
from pgconductor.services.unit_of_work import UnitOfWork

__all__ = ["OperatedExecutions"]


class OperatedExecutions:
    """The part of :class:`~pgconductor.services.ExecutionService` that operators use."""

    _work: UnitOfWork

    async def cancel(
        self,
        execution_id: UUID,
        *,
        reason: str | None = None,
        children: bool = True,
        parent_id: UUID | None = None,
    ) -> bool:
        """Cancel an execution: at once if no worker holds it, else at its next boundary.

        Args:
            execution_id: Which one.
            reason: Why; kept with the execution.
            children: Cancel the children that it waits for as well, and theirs.
            parent_id: Only if this execution waits for it, or has waited for it until it was late.

        Returns:
            False if it has finished, never was, or is no such child.

        Raises:
            InvalidInput: The reason cannot be stored.
        """
        if reason is not None:
            check_text(reason, "reason")
        async with self._work.begin() as repositories:
            return await repositories.executions.cancel(
                execution_id, reason, children=children, parent_id=parent_id
            )

    async def retry(
        self, execution_id: UUID, *, from_scratch: bool = False, from_step: str | None = None
    ) -> bool:
        """Make a failed or cancelled execution available again, with all its attempts anew.

        It resumes behind what it has on record, but for the errors that it has ended by and for
        children that have failed or were cancelled: these are dropped. An error after which
        something began is kept.

        Args:
            execution_id: Which one.
            from_scratch: Drop all of its recorded steps.
            from_step: Drop this step, and what began with it or after it.

        Returns:
            False if it is neither failed nor cancelled.

        Raises:
            InvalidInput: Both are given, or the key can name no step.
            ExecutionNotFound: There is none of that id.
            StepNotFound: It has no such step on record.
            DedupeConflict: An unfinished execution has its dedupe key.
        """
        if from_step is not None:
            check_recorded_key(from_step, "from_step")
            if from_scratch:
                raise InvalidInput("from_step", "give it or from_scratch, not both")
        async with self._work.begin() as repositories:
            if await repositories.executions.retry(
                execution_id, from_scratch=from_scratch, from_step=from_step
            ):
                return True
            if await repositories.executions.get_one_or_none(execution_id) is None:
                raise ExecutionNotFound(execution_id)
            return False

    async def fork(self, execution_id: UUID, *, from_step: str | None = None) -> UUID:
        """Make a new execution like another one: of its task, queue, payload and limits.

        It starts with what the other had on record before a step, and knows nothing of the rest.
        What it waits for begins anew; an event is one that is emitted from now on. It has no parent
        and no dedupe key, and the other is left as it is.

        Args:
            execution_id: Which one, in whatever state.
            from_step: Begin at this step; None to begin at the start.

        Returns:
            The id of the new one.

        Raises:
            InvalidInput: The key can name no step.
            ExecutionNotFound: There is none of that id.
            StepNotFound: It has no such step on record.
        """
        if from_step is not None:
            check_recorded_key(from_step, "from_step")
        async with self._work.begin() as repositories:
            made = await repositories.executions.fork(execution_id, from_step=from_step)
        if made is None:
            raise ExecutionNotFound(execution_id)
        return made

    async def tree(self, execution_id: UUID, *, depth: int = 3) -> ExecutionTree:
        """An execution with its steps, what it waits for, and its descendants.

        Args:
            execution_id: Which one.
            depth: How many generations of children, up to 20. Of all of them together, 200
                executions are shown; what is left out is counted.

        Raises:
            InvalidInput: The depth is out of range.
            ExecutionNotFound: There is none of that id.
        """
        check_count(depth, "depth", least=0, most=MAX_DEPTH)
        async with self._work.begin() as repositories:
            executions = repositories.executions
            found = await executions.get_one_or_none(execution_id)
            if found is None:
                raise ExecutionNotFound(execution_id)
            steps = await executions.steps_of([execution_id], limit=MAX_STEPS)
            family = await executions.family(execution_id, depth=depth)
            others = [one.id for one in family if one.id != execution_id]
            waits = await executions.steps_of(others, limit=MAX_STEPS, pending=True)
        return ExecutionTree.of(found, steps, family, waits)

    async def waiting(
        self,
        *,
        queue: str | None = None,
        task_key: str | None = None,
        limit: int = 50,
        waits: int = 3,
        after: WaitingPlace | None = None,
    ) -> WaitingPage:
        """Suspended executions and what they wait for, those first that have waited longest.

        Args:
            queue: Only of this queue.
            task_key: Only of this task.
            limit: At most so many executions, up to 1,000.
            waits: At most so many waits of each, up to 1,000; all are counted.
            after: ``next`` of the page before. What has come meanwhile is left out; nobody is
                listed twice whose waits are the same.

        Raises:
            InvalidInput: A number is out of range, or a name or the place is none.
        """
        Page.check_size(limit)
        check_count(waits, "waits", most=MAX_WAITS)
        if queue is not None:
            check_queue(queue)
        if task_key is not None:
            check_task_key(task_key, "task_key")
        if not isinstance(after, WaitingPlace | None):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers need not be typed
            raise InvalidInput("after", f"a WaitingPlace is due, not {type(after).__name__}")
        async with self._work.begin() as repositories:
            return await repositories.executions.waiting(
                queue=queue, task_key=task_key, limit=limit, waits=waits, after=after
            )
