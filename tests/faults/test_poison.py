"""Handlers that take their process down: the guilty ends, the neighbours do not pay for it."""

from __future__ import annotations

from uuid import UUID

import pytest

from tests.faults.drill_tasks import drill_conductor
from tests.faults.drills import Drill

pytestmark = pytest.mark.faults


async def supervise(drill: Drill, *, concurrency: int = 8, most: int = 12) -> int:
    """Start a worker again whenever it dies, as a supervisor would; returns how often it died.

    Each one drains, so that the last ends by itself. What the dead held is taken back at once by
    the next, for a supervisor that waits for the stale threshold would only make the drill longer.
    """
    for died in range(most):
        child = await drill.worker(
            env={"DRILL_ONCE": "1", "DRILL_CONCURRENCY": str(concurrency)}, wait=False
        )
        code = await child.wait(60)
        if code == 0:
            return died
        await take_back(drill)
    raise AssertionError(f"after {most} restarts it still dies")


async def take_back(drill: Drill) -> None:
    """Recover the dead, by an orchestrator that does not execute anything itself."""
    # The dead are dead for certain, so it need not be patient.
    conductor = drill_conductor(
        drill.url, heartbeat_interval=0.1, self_fence_after=0.3, stale_after=0.4, sweep_interval=0.1
    )
    idle = conductor.orchestrator(queues=["nobody-invokes-here"], concurrency=1)
    await idle.start()
    try:
        await drill.only_registered(drill.own_pid)
    finally:
        await idle.stop()
        await conductor.close()


def assert_crashed(drill: Drill, execution_id: UUID) -> None:
    row = drill.execution(execution_id)
    assert row["state"] == "failed"
    assert "crashed its process" in row["last_error"]
    assert row["last_error_type"] == "ProcessCrashed"
    assert row["crashes"] == row["max_crashes"] == 3
    # Each crash is a start of the handler, and nothing but starts are crashes.
    assert drill.effects(execution_id) == 3


async def test_a_poison_task_among_300_neighbours(drill: Drill) -> None:
    """I3, I4, B5, semantics 2 (recover): the poison fails, no neighbour is condemned with it."""
    await drill.invoke_many("touch", range(150))
    poison = await drill.invoke("poison", "kill")
    await drill.invoke_many("touch", range(150))
    assert await supervise(drill) == 3
    drill.assert_settled(failed=[poison])
    assert_crashed(drill, poison)


async def test_two_poison_tasks(drill: Drill) -> None:
    """I3, I4: each is found, whatever the other does."""
    await drill.invoke_many("touch", range(30))
    first = await drill.invoke("poison")
    await drill.invoke_many("touch", range(30))
    second = await drill.invoke("poison")
    await drill.invoke_many("touch", range(30))
    died = await supervise(drill)
    assert 3 <= died <= 6
    drill.assert_settled(failed=[first, second])
    for one in (first, second):
        assert "crashed its process" in drill.execution(one)["last_error"]


async def test_a_suspect_of_another_queue_is_not_held_beside_a_suspect(drill: Drill) -> None:
    """Semantics 2 (recover): two workers of a process must not each hold one.

    Whoever is one crash short of the limit is alone in its process, all queues taken together:
    otherwise the poison of one queue condemns an innocent of another.
    """
    innocent = await drill.invoke("elsewhere", 1)
    guilty = await drill.invoke("watchful_poison", str(innocent), priority=1)
    drill.execute("UPDATE pgconductor.executions SET crashes = 2")
    assert await supervise(drill) == 1
    drill.assert_settled(failed=[guilty])


async def test_a_suspect_beside_a_fresh_poison(drill: Drill) -> None:
    """Semantics 2 (recover): nobody is condemned for what another may have done.

    The poison has never crashed before, so it runs like any other when the suspect is fetched.
    """
    innocent = await drill.invoke("slow", 0.6)
    guilty = await drill.invoke("watchful_poison", str(innocent), priority=1)
    drill.execute("UPDATE pgconductor.executions SET crashes = 2 WHERE id = %s", innocent)
    await supervise(drill)
    drill.assert_settled(failed=[guilty])
