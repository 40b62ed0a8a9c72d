"""I4, I5: killed, or frozen and thawed, at each durable boundary of a handler with steps."""

from __future__ import annotations

import pytest

from tests.faults.drills import Drill
from tests.support.waiting import eventually

pytestmark = pytest.mark.faults

#: Where the process stands still, and how often the step's effect is there in the end: its function
#: is called again if it had ended and was not recorded.
POINTS = [("begun", 1), ("done", 2), ("recorded", 1), ("written", 1), ("booked", 1)]


def effects_of(drill: Drill) -> dict[str, int]:
    counted = drill.rows("SELECT task, count(*) AS n FROM effects GROUP BY task")
    return {row["task"]: row["n"] for row in counted}


def assert_durable(drill: Drill, step_effects: int) -> None:
    assert effects_of(drill) == {"step": step_effects, "booking": 1}
    steps = drill.rows("SELECT key, result FROM pgconductor.steps ORDER BY key")
    assert [(row["key"], row["result"]) for row in steps] == [
        ("booking", "booking"),
        ("step", "step"),
    ]
    (one,) = drill.invoked
    assert drill.execution(one)["result"] == ["step", "booking"]


@pytest.mark.parametrize(("point", "step_effects"), POINTS)
async def test_killed(drill: Drill, point: str, step_effects: int) -> None:
    """Steps are recorded at most once, transactional effects happen exactly once."""
    one = await drill.invoke("durable")
    child = await drill.worker(env={"DRILL_STEP": point})
    await child.wait_for_line(f"frozen {point}")
    child.kill()
    await child.wait()
    async with drill.rescuer():
        await drill.finished()
        await drill.only_registered(drill.own_pid)
    drill.assert_settled()
    assert drill.execution(one)["crashes"] == 1
    assert_durable(drill, step_effects)


@pytest.mark.parametrize(("point", "step_effects"), POINTS)
async def test_frozen_and_thawed(drill: Drill, point: str, step_effects: int) -> None:
    """I1: what the one that comes back has in its hands is refused, writes and all."""
    await drill.invoke("durable")
    child = await drill.worker(env={"DRILL_STEP": point})
    await child.wait_for_line(f"frozen {point}")
    async with drill.rescuer():
        await drill.finished()
        await drill.only_registered(drill.own_pid)
        before = effects_of(drill)
        child.sigcont()
        await child.wait_for_line("exit evicted")
        await child.wait()
        await eventually(lambda: drill.registered() == {drill.own_pid})
    drill.assert_settled()
    # A function that goes on after its process was given up may still have its effect elsewhere.
    after = effects_of(drill)
    assert after["booking"] == before["booking"] == 1
    assert before["step"] == step_effects
    assert after["step"] - before["step"] in ((0, 1) if point == "begun" else (0,))
