"""Steps and waits: what an execution remembers across its attempts, and what it waits for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

from pgconductor.domain.steps import (
    Decision,
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
from pgconductor.services.settling import Settling
from pgconductor.services.unit_of_work import Bind, unit_of_work

__all__ = ["StepService"]

#: How many executions are settled in one transaction, and looked for at once.
_BATCH: Final = 500
#: When to look again at what somebody else had locked.
_SOON: Final = timedelta(seconds=0.2)


class StepService:
    """Steps, over whatever session, connection or engine the caller has.

    Args:
        bind: See :func:`pgconductor.services.unit_of_work.unit_of_work`.
    """

    def __init__(self, bind: Bind) -> None:
        self._work = unit_of_work(bind)
        self._settling = Settling(self._work)

    async def record_many(self, steps: Sequence[StepRecord]) -> list[Recorded | OwnershipLost]:
        """Record how steps have ended, in one commit.

        It may be called again with the same steps if the answer was lost.

        Args:
            steps: All by the same orchestrator.

        Returns:
            For each what is on record: this, or an earlier one of the same key. Or the error that
            its writer is not the owner; then nothing was written.
        """
        if not steps:
            return []
        async with self._work.begin() as repositories:
            return await repositories.steps.record_many(steps)

    async def decide(self, decision: Decision) -> Recorded:
        """Record which of several was first, and end the waits of the others, in one commit.

        It may be called again with the same if the answer was lost.

        Args:
            decision: Which one, and the others.

        Returns:
            What is on record: this, or an earlier one of the same key.

        Raises:
            OwnershipLost: Its writer is not the owner; nothing was written.
        """
        async with self._work.begin() as repositories:
            result = await repositories.steps.decide(decision)
        return Recorded(key=decision.step.key, kind=StepKind.FIRST, result=result)

    async def start_many(self, starts: Sequence[StepStart]) -> list[Started]:
        """Begin waits, invoke children and emit events, in one commit.

        It may be called again with the same if the answer was lost.

        Args:
            starts: All by the same orchestrator.

        Returns:
            For each what has come of it.
        """
        if not starts:
            return []
        async with self._work.begin() as repositories:
            return await repositories.steps.start_many(starts)

    async def histories(self, execution_ids: Collection[UUID]) -> Mapping[UUID, History]:
        """What is on record of executions.

        Args:
            execution_ids: Which ones; those that are not there are left out.
        """
        async with self._work.begin() as repositories:
            return await repositories.steps.histories(execution_ids)

    async def settle(self, seen: Mapping[UUID, int | None]) -> list[Settled]:
        """End the waits whose time, child or event has come.

        Args:
            seen: By execution how many ends of waits its owner, who calls, has seen; None where the
                caller is not its owner.

        Returns:
            How far the waits of each are, with their ends where the caller is its owner. Those that
            somebody else has locked just now are left out: come again. So are those that could not
            be settled, see :attr:`aside`.
        """
        return await self._settling.settle(seen)

    @property
    def aside(self) -> Collection[UUID]:
        """Executions that could not be settled and are left alone for a while."""
        return self._settling.aside

    async def settle_due(self) -> timedelta | None:
        """Settle whatever is due, of any execution; orchestrators do so by themselves.

        Returns:
            When the next wait ends by its time, from now; None if none does.
        """
        seen: set[UUID] = set()
        left: set[UUID] = set()
        after: EventPlace | None = None
        again = self._settling.again
        while True:
            async with self._work.begin() as repositories:
                due = await repositories.steps.due(limit=_BATCH, without=seen, after=after)
            ids = [*dict.fromkeys([*due.execution_ids, *again])]
            again = []
            settled: set[UUID] = set()
            for start in range(0, len(ids), _BATCH):
                batch = dict.fromkeys(ids[start : start + _BATCH])
                answers = await self._settling.settle(batch, until=due.until)
                settled |= {one.execution_id for one in answers}
            left = (left | set(ids)) - settled
            fresh, seen = set(ids) - seen, seen | set(ids)
            if due.event_ids:
                # An event is looked at again until all who may wait for it were told.
                async with self._work.begin() as repositories:
                    await repositories.steps.mark_matched(due.event_ids, left=left)
                after = due.last
            elif not fresh:
                return self._next_look(left, due.next_in)

    def _next_look(self, left: set[UUID], next_in: timedelta | None) -> timedelta | None:
        waits = [] if next_in is None else [next_in]
        if left - set(self._settling.aside):
            # Somebody has locked them.
            waits.append(_SOON)
        if self._settling.next_in is not None:
            waits.append(timedelta(seconds=self._settling.next_in))
        return min(waits, default=None)
