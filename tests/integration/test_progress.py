"""A worker gets through whatever its handlers wait for, on a server."""

from __future__ import annotations

import asyncio
from typing import Final

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from sqlalchemy.ext.asyncio import create_async_engine

from pgconductor import Conductor
from pgconductor.runtime import machine, slots
from pgconductor.runtime.gate import StartGate
from pgconductor.runtime.orchestrator import ExitReason
from pgconductor.services.executions import ExecutionService
from tests.integration.runtime_world import World
from tests.support.waiting import eventually
from tests.support.waiting_programs import Load, Programs, loads

_STILL: Final = 60


async def completed(world: World, load: Load) -> None:
    """Execute all to the end."""
    # The application's connections are few: who waits for one may wait for who waits.
    engine = create_async_engine(world.url, pool_size=load.pool, max_overflow=0)
    conductor = Conductor(engine=engine)
    tasks = Programs(conductor, load.pool)
    invocations = [tasks.invocation(*one) for one in load.work]
    invoked = await ExecutionService(engine).invoke_many(invocations)
    world.rows(
        "UPDATE pgconductor.executions SET crashes = max_crashes - 1 WHERE id = ANY (%s)",
        [one.id for one in invoked[: load.suspects]],
    )
    unfinished = (
        "SELECT 1 FROM pgconductor.executions"
        " WHERE state NOT IN ('completed', 'failed', 'cancelled')"
    )
    try:
        # Not how long it may take, but so that a load is told that stands still.
        async with asyncio.timeout(_STILL):
            while load.drain and world.rows(unfinished):
                drained = conductor.orchestrator(concurrency=load.concurrency).drain()
                assert await drained is ExitReason.CLEAN
            async with world.serving(conductor, concurrency=load.concurrency):
                await eventually(lambda: not world.rows(unfinished), timeout=_STILL, interval=0.1)
    finally:
        await conductor.close()
        await engine.dispose()


@settings(
    deadline=None,
    max_examples=10,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.function_scoped_fixture,
    ],
)
@given(loads)
def test_all_that_is_due_is_completed(database_url: str, load: Load) -> None:
    """I3: whatever handlers wait for and hold, in any number of slots and threads."""
    world = World(database_url)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGCONDUCTOR_SUSPEND_AFTER", str(load.suspend_after))
        patch.setenv("PGCONDUCTOR_GIVE_BACK_AFTER", str(load.give_back_after))
        patch.setenv("PGCONDUCTOR_POLL_INTERVAL", "0.1")
        patch.setattr(slots, "_PLAIN", load.plain)
        # For so long a suspect waits for handlers that may wait for what cannot start beside it.
        patch.setattr(machine, "StartGate", lambda on_open, _: StartGate(on_open, 0.05))
        asyncio.run(completed(world, load))
    ends = world.rows("SELECT state, last_error, attempts FROM pgconductor.executions")
    assert {(row["state"], row["last_error"], row["attempts"]) for row in ends} == {
        ("completed", None, 1)
    }
