"""A worker gets through whatever its handlers wait for: no size of anything stops it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from pydantic import SecretStr

from pgconductor import Conductor, Settings
from pgconductor.runtime import machine, slots
from pgconductor.runtime.attempt import Runnable
from pgconductor.runtime.gate import StartGate
from pgconductor.runtime.orchestrator import ExitReason, Orchestrator
from pgconductor.testing import FakeDatabase
from pgconductor.types import ExecutionState
from tests.support.memory_backend import RealClock, memory_backend
from tests.support.waiting import eventually
from tests.support.waiting_programs import Load, Programs, loads

_STILL: Final = 60
_SETTINGS: dict[str, Any] = {
    "database_url": SecretStr("postgresql://nowhere/nothing"),
    "poll_interval": 0.05,
    "heartbeat_interval": 1,
    "startup_policy": "refuse",
}


async def drained(load: Load) -> FakeDatabase:
    """Execute all to the end."""
    database = FakeDatabase(RealClock())
    chosen = Settings(
        **_SETTINGS,
        suspend_after=timedelta(seconds=load.suspend_after),
        give_back_after=timedelta(seconds=load.give_back_after),
    )
    conductor = Conductor(chosen)
    tasks = Programs(conductor, load.pool)
    backend = memory_backend(database, tasks.session)
    await backend.completing.invoke_many([tasks.invocation(*one) for one in load.work])
    transaction = database.transaction()
    tables = await transaction.write()
    for row in list(tables.executions.values())[: load.suspects]:
        tables.executions[row.id] = replace(row, crashes=row.max_crashes - 1)
    transaction.commit()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slots, "_PLAIN", load.plain)
        # For so long a suspect waits for handlers that may wait for what cannot start beside it.
        patch.setattr(machine, "StartGate", lambda on_open, _: StartGate(on_open, 0.05))

        def orchestrator() -> Orchestrator:
            return Orchestrator(
                lambda: backend,
                chosen,
                {
                    name: Runnable(task.options, task.handler)
                    for name, task in conductor.tasks.items()
                },
                queues=["one", "two"],
                concurrency=load.concurrency,
            )

        def finished() -> bool:
            return all(row.state.finished for row in database.executions.values())

        # Not how long it may take, but so that a load is told that stands still.
        async with asyncio.timeout(_STILL):
            while load.drain and not finished():
                assert await orchestrator().drain() is ExitReason.CLEAN
            serving = orchestrator()
            await serving.start()
            await eventually(finished, timeout=_STILL)
            await serving.stop()
            assert serving.exit_reason is ExitReason.CLEAN
    return database


@settings(
    deadline=None,
    max_examples=40,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(loads)
def test_all_that_is_due_is_completed(load: Load) -> None:
    """I3: whatever handlers wait for and hold, in any number of slots and threads."""
    rows = asyncio.run(drained(load)).executions.values()
    assert {(row.state, row.last_error) for row in rows} == {(ExecutionState.COMPLETED, None)}
    assert {row.attempts for row in rows} == {1}
