"""A worker gets through whatever its handlers wait for: no size of anything stops it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from pgconductor import Conductor, Settings
from pgconductor.runtime import slots
from pgconductor.runtime.attempt import Runnable
from pgconductor.runtime.orchestrator import ExitReason, Orchestrator
from pgconductor.testing import FakeDatabase
from pgconductor.types import ExecutionState
from tests.support.memory_backend import RealClock, memory_backend
from tests.support.waiting import eventually
from tests.support.waiting_programs import Program, Programs, programs

_STILL: Final = 60
_SETTINGS: dict[str, Any] = {
    "database_url": SecretStr("postgresql://nowhere/nothing"),
    "poll_interval": 0.05,
    "heartbeat_interval": 1,
    "startup_policy": "refuse",
}


@dataclass(frozen=True)
class Load:
    """What is to be executed, and by what a worker.

    Attributes:
        work: Programs, each with whether its handler is plain.
        concurrency: Slots of each of two queues.
        pool: Connections of the application's pool.
        plain: How many plain handlers may wait in memory.
        suspend_after: Seconds.
        give_back_after: Seconds.
        drain: Whether an orchestrator ends whenever nothing is due, and another one begins.
    """

    work: list[tuple[bool, Program]]
    concurrency: int
    pool: int
    plain: int
    suspend_after: float
    give_back_after: float
    drain: bool


_SECONDS: Final = st.sampled_from([0.001, 0.02, 0.2])
_loads: Final = st.builds(
    Load,
    programs,
    st.integers(1, 4),
    st.integers(1, 2),
    st.integers(1, 3),
    _SECONDS,
    _SECONDS,
    st.booleans(),
)


async def drained(load: Load) -> FakeDatabase:
    """Execute all to the end."""
    database = FakeDatabase(RealClock())
    chosen = Settings(
        **_SETTINGS, suspend_after=load.suspend_after, give_back_after=load.give_back_after
    )
    conductor = Conductor(chosen)
    tasks = Programs(conductor, load.pool)
    backend = memory_backend(database, tasks.session)
    await backend.completing.invoke_many([tasks.invocation(*one) for one in load.work])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slots, "_PLAIN", load.plain)

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
@given(_loads)
def test_all_that_is_due_is_completed(load: Load) -> None:
    """I3: whatever handlers wait for and hold, in any number of slots and threads."""
    rows = asyncio.run(drained(load)).executions.values()
    assert {(row.state, row.last_error) for row in rows} == {(ExecutionState.COMPLETED, None)}
    assert {row.attempts for row in rows} == {1}
