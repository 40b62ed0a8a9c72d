"""Recorded steps, by SQLAlchemy."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from sqlalchemy import Text, cast, select

from pgconductor import sql
from pgconductor.domain.claims import Claim
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

    async def results(self, execution_id: UUID) -> Mapping[str, str | None]:
        """See the protocol."""
        rows = await self._rows(
            select(Step.key, cast(Step.result, Text).label("result"))
            .where(Step.execution_id == execution_id)
            .order_by(Step.created_at, Step.key)
        )
        return {row.key: row.result for row in rows}
