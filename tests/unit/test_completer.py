"""What the completer does with errors that are not an outcome's fault."""

from __future__ import annotations

import asyncio
from typing import cast
from uuid import uuid4

import pytest

from pgconductor.domain.claims import Claim
from pgconductor.domain.outcomes import Completed, Disposition, Outcome, Verdict
from pgconductor.runtime.completer import Completer
from pgconductor.services.backend import Backend
from pgconductor.types import ExecutionState


class ServerError(Exception):
    def __init__(self, sqlstate: str) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


class Failing:
    """Refuses the first two writes with an error, then takes everything."""

    is_data_error = staticmethod(Backend.is_data_error)
    is_lost = staticmethod(Backend.is_lost)
    is_transient = staticmethod(Backend.is_transient)

    def __init__(self, sqlstate: str) -> None:
        self.completing = self
        self.left = 2
        self.sqlstate = sqlstate
        self.taken: list[Outcome] = []

    async def complete(self, outcomes: list[Outcome]) -> list[Verdict]:
        if self.left:
            self.left -= 1
            raise ServerError(self.sqlstate)
        self.taken += outcomes
        state = ExecutionState.COMPLETED
        return [Verdict(one.execution_id, Disposition.RECORDED, state) for one in outcomes]


@pytest.mark.parametrize("sqlstate", ["53100", "42501", "42P01", "58030", "XX000", "57014"])
async def test_a_result_outlives_trouble_that_is_not_its_own(sqlstate: str) -> None:
    """I3: a full disk must not turn what was completed into a failure."""
    backend = Failing(sqlstate)
    completer = Completer(cast("Backend", backend), lambda _: None)
    outcome = Completed(uuid4(), Claim(uuid4(), 1), "1")
    completer.add(outcome)
    running = asyncio.create_task(completer.run())
    await asyncio.wait_for(completer.flushed(), 20)
    running.cancel()
    assert backend.taken == [outcome]
