"""Recorded steps, by SQLAlchemy."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from uuid import UUID

from sqlalchemy import Text, cast, select

from pgconductor import sql
from pgconductor.domain.claims import Claim
from pgconductor.domain.steps import StepRecord
from pgconductor.exceptions import OwnershipLost
from pgconductor.models import Step
from pgconductor.repositories.executor import SqlRepository

__all__ = ["SqlStepRepository"]


class SqlStepRepository(SqlRepository):
    """Implements :class:`~pgconductor.repositories.protocols.StepRepository`."""

    async def record(
        self, execution_id: UUID, claim: Claim, key: str, result: str | None
    ) -> str | None:
        """See the protocol."""
        parameters = {
            "execution_id": execution_id,
            "orchestrator_id": claim.orchestrator_id,
            "claim_number": claim.number,
            "key": key,
            "result": result,
        }
        rows = await self._rows(sql.RECORD_STEP, parameters)
        if not rows:
            # Somebody of the same owner may have been recording the same key: the insert gave way
            # to a row that it could not see yet. A second look does.
            rows = await self._rows(sql.RECORD_STEP, parameters)
        if not rows:
            raise OwnershipLost(execution_id)
        recorded: str | None = rows[0].result
        return recorded

    async def record_many(self, steps: Sequence[StepRecord]) -> list[str | OwnershipLost | None]:
        """See the protocol."""
        (orchestrator_id,) = {one.claim.orchestrator_id for one in steps}
        rows = await self._rows(
            sql.RECORD_STEPS,
            {
                "orchestrator_id": orchestrator_id,
                "ids": [one.execution_id for one in steps],
                "claim_numbers": [one.claim.number for one in steps],
                "keys": [one.key for one in steps],
                "results": [one.result for one in steps],
            },
        )
        answers: list[str | OwnershipLost | None] = []
        for step, row in zip(steps, rows, strict=True):
            if not row.held:
                answers.append(OwnershipLost(step.execution_id))
            elif row.recorded:
                answers.append(row.result)
            else:
                # As in record(): given way to a row that this statement could not see yet.
                answers.append(
                    await self.record(step.execution_id, step.claim, step.key, step.result)
                )
        return answers

    async def results_of(
        self, execution_ids: Collection[UUID]
    ) -> Mapping[UUID, Mapping[str, str | None]]:
        """See the protocol."""
        rows = await self._rows(
            select(Step.execution_id, Step.key, cast(Step.result, Text).label("result"))
            .where(Step.execution_id.in_(execution_ids))
            .order_by(Step.created_at, Step.key)
        )
        found: dict[UUID, dict[str, str | None]] = {}
        for row in rows:
            found.setdefault(row.execution_id, {})[row.key] = row.result
        return found

    async def results(self, execution_id: UUID) -> Mapping[str, str | None]:
        """See the protocol."""
        rows = await self._rows(
            select(Step.key, cast(Step.result, Text).label("result"))
            .where(Step.execution_id == execution_id)
            .order_by(Step.created_at, Step.key)
        )
        return {row.key: row.result for row in rows}
