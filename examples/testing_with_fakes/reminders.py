"""What is tested: a service that depends on executions, not on a database."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from pgconductor.services import ExecutionService


class Reminders:
    def __init__(self, executions: ExecutionService) -> None:
        self._executions = executions

    async def order_placed(self, order_id: int) -> UUID:
        """Remind of the payment in a week; placing the same order twice reminds once."""
        invoked = await self._executions.invoke(
            "remind_of_payment",
            {"order_id": order_id},
            delay=timedelta(days=7),
            dedupe_key=f"payment-{order_id}",
        )
        return invoked.id

    async def order_paid(self, execution_id: UUID) -> bool:
        """Call the reminder off; False if it went out already."""
        return await self._executions.cancel(execution_id, reason="paid")
