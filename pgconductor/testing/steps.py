"""Recorded steps, in memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from uuid import UUID

from pgconductor.domain.claims import Claim
from pgconductor.domain.steps import StepRecord
from pgconductor.exceptions import OwnershipLost
from pgconductor.testing.database import FakeTransaction
from pgconductor.testing.executions import holds
from pgconductor.testing.invoking import check_json
from pgconductor.testing.rows import StepRow

__all__ = ["FakeStepRepository"]


class FakeStepRepository:
    """Implements :class:`~pgconductor.repositories.StepRepository`."""

    def __init__(self, transaction: FakeTransaction) -> None:
        self._transaction = transaction

    async def record(
        self, execution_id: UUID, claim: Claim, key: str, result: str | None
    ) -> str | None:
        """See the protocol."""
        tables = await self._transaction.write()
        if not holds(tables.executions.get(execution_id), claim):
            raise OwnershipLost(execution_id)
        check_json(result, "result")
        row = StepRow(execution_id, key, result, self._transaction.now())
        return tables.steps.setdefault((execution_id, key), row).result

    async def record_many(self, steps: Sequence[StepRecord]) -> list[str | OwnershipLost | None]:
        """See the protocol."""
        answers: list[str | OwnershipLost | None] = []
        for one in steps:
            try:
                answers.append(await self.record(one.execution_id, one.claim, one.key, one.result))
            except OwnershipLost as lost:
                answers.append(lost)
        return answers

    async def results_of(
        self, execution_ids: Collection[UUID]
    ) -> Mapping[UUID, Mapping[str, str | None]]:
        """See the protocol."""
        found = {one: await self.results(one) for one in execution_ids}
        return {one: results for one, results in found.items() if results}

    async def results(self, execution_id: UUID) -> Mapping[str, str | None]:
        """See the protocol."""
        rows = self._transaction.read().steps.values()
        mine = [one for one in rows if one.execution_id == execution_id]
        mine.sort(key=lambda one: (one.created_at, one.key))
        return {one.key: one.result for one in mine}
