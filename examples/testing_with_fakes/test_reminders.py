"""Tests without a database and without waiting: `pytest examples/testing_with_fakes`."""

# ruff: noqa: S101 - asserts are what tests are made of

from __future__ import annotations

import asyncio
from datetime import timedelta

from reminders import Reminders

from pgconductor import ExecutionState
from pgconductor.domain.outcomes import Completed
from pgconductor.services import ExecutionService, OrchestratorService
from pgconductor.testing import FakeUnitOfWork

WEEK = timedelta(days=7)


class World:
    """The service under test, and the worker that a test plays itself."""

    def __init__(self) -> None:
        work = FakeUnitOfWork()
        self.database = work.database
        self.clock = work.database.clock
        self.executions = ExecutionService(work)
        self.orchestrators = OrchestratorService(work)
        self.reminders = Reminders(self.executions)

    async def work(self) -> list[str | None]:
        """Complete whatever is due; returns the payloads."""
        me = await self.orchestrators.register()
        fetched = await self.executions.fetch(me, limit=100)
        await self.executions.complete([Completed(one.id, one.claim) for one in fetched])
        await self.orchestrators.leave(me)
        return [one.payload for one in fetched]


def test_an_order_is_reminded_of_once() -> None:
    async def story() -> None:
        world = World()
        first = await world.reminders.order_placed(7)
        assert await world.reminders.order_placed(7) == first
        assert await world.work() == []
        world.clock.advance(WEEK)
        assert await world.work() == ['{"order_id": 7}']
        world.clock.advance(WEEK)
        assert await world.work() == []

    asyncio.run(story())


def test_a_paid_order_is_not_reminded_of() -> None:
    async def story() -> None:
        world = World()
        execution_id = await world.reminders.order_placed(7)
        assert await world.reminders.order_paid(execution_id)
        world.clock.advance(WEEK)
        assert await world.work() == []
        row = world.database.executions[execution_id]
        assert row.state is ExecutionState.CANCELLED
        assert row.cancel_reason == "paid"

    asyncio.run(story())


def test_a_reminder_that_went_out_cannot_be_called_off() -> None:
    async def story() -> None:
        world = World()
        execution_id = await world.reminders.order_placed(7)
        world.clock.advance(WEEK)
        await world.work()
        assert not await world.reminders.order_paid(execution_id)

    asyncio.run(story())
