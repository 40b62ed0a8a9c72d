"""Recorded steps: what an execution remembers across its attempts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from uuid import UUID

from pgconductor.domain.steps import StepRecord
from pgconductor.exceptions import OwnershipLost
from pgconductor.services.unit_of_work import Bind, unit_of_work

__all__ = ["StepService"]


class StepService:
    """Steps, over whatever session, connection or engine the caller has.

    Args:
        bind: See :func:`pgconductor.services.unit_of_work.unit_of_work`.
    """

    def __init__(self, bind: Bind) -> None:
        self._work = unit_of_work(bind)

    async def record_many(self, steps: Sequence[StepRecord]) -> list[str | OwnershipLost | None]:
        """Record results of steps, in one commit.

        It may be called again with the same steps if the answer was lost.

        Args:
            steps: All by the same orchestrator.

        Returns:
            For each the result that is on record as JSON text: this one, or an earlier one of the
            same key. Or the error that its writer is not the owner; then nothing was written.
        """
        if not steps:
            return []
        async with self._work.begin() as repositories:
            return await repositories.steps.record_many(steps)

    async def results_of(
        self, execution_ids: Collection[UUID]
    ) -> Mapping[UUID, Mapping[str, str | None]]:
        """Recorded results as JSON text, by execution and key.

        Args:
            execution_ids: Which executions; those without steps are left out.
        """
        async with self._work.begin() as repositories:
            return await repositories.steps.results_of(execution_ids)
