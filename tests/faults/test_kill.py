"""kill -9 at each marked point: nothing is lost, nothing is done twice that need not be."""

from __future__ import annotations

import signal

import pytest

from tests.faults.drills import Drill
from tests.support.servers import connect
from tests.support.waiting import eventually

pytestmark = pytest.mark.faults


async def test_right_after_registration(drill: Drill) -> None:
    """I2, I3, A3: a row without a heartbeat yet is recovered like any other."""
    child = await drill.worker("registered")
    await child.wait_for_line("frozen")
    assert drill.registered() == {child.pid}
    child.kill()
    assert await child.wait() == -signal.SIGKILL
    await drill.invoke("touch", 1)
    async with drill.rescuer():
        await drill.finished()
        await drill.only_registered(drill.own_pid)
    drill.assert_settled()


async def test_right_after_the_first_fetch(drill: Drill) -> None:
    """I3, A3, B1: fetched and not started; the attempt is given back, and one crash is counted."""
    ids = await drill.invoke_many("touch", range(20))
    child = await drill.worker("fetched")
    await child.wait_for_line("frozen")
    held = drill.rows("SELECT id FROM pgconductor.executions WHERE state = 'running'")
    assert held
    child.kill()
    await child.wait()
    async with drill.rescuer():
        await drill.finished()
        await drill.only_registered(drill.own_pid)
    drill.assert_settled()
    for one in ids:
        row = drill.execution(one)
        assert row["attempts"] == 1, "the attempt of the dead was not given back"
        assert row["crashes"] == (1 if one in {h["id"] for h in held} else 0)
        assert drill.effects(one) == 1


async def test_in_the_handler(drill: Drill) -> None:
    """I3, I4: at least once, so the effect of the dead handler is there twice."""
    one = await drill.invoke("frozen")
    child = await drill.worker()
    await child.wait_for_line("handler")
    child.kill()
    await child.wait()
    async with drill.rescuer():
        await drill.finished()
        await drill.only_registered(drill.own_pid)
    drill.assert_settled()
    assert drill.effects(one) == 2
    assert drill.execution(one)["crashes"] == 1


async def test_in_a_handler_that_may_run_at_most_once(drill: Drill) -> None:
    """I4, semantics 2: max_crashes=1 ends at the first crash, and says why."""
    one = await drill.invoke("at_most_once")
    child = await drill.worker()
    await child.wait_for_line("handler")
    child.kill()
    await child.wait()
    async with drill.rescuer():
        await drill.finished()
        await drill.only_registered(drill.own_pid)
    drill.assert_settled(failed=[one])
    assert drill.effects(one) == 1
    assert "crashed its process" in drill.execution(one)["last_error"]


async def test_between_the_handlers_end_and_the_completion(drill: Drill) -> None:
    """I3, I4, B11: a result that was never written is made again."""
    one = await drill.invoke("touch", 7)
    child = await drill.worker("ended")
    await child.wait_for_line("frozen")
    assert drill.state(one) == "running"
    child.kill()
    await child.wait()
    async with drill.rescuer():
        await drill.finished()
        await drill.only_registered(drill.own_pid)
    drill.assert_settled()
    assert drill.effects(one) == 2
    assert drill.execution(one)["result"] == 7


async def test_in_the_flush(drill: Drill) -> None:
    """I1, I3, I7: the statement is at the server when its process dies; its outcome stands."""
    one = await drill.invoke("slow", 0.3)
    child = await drill.worker()
    await child.wait_for_line("started")
    with connect(drill.url) as blocker, blocker.transaction():
        blocker.execute("SELECT 1 FROM pgconductor.executions WHERE id = %s FOR UPDATE", [one])
        await eventually(
            lambda: drill.value(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                " AND datname = current_database()"
                # The beginning of complete.sql: no more of a query than 1 KiB is shown.
                " AND query LIKE '-- running -> completed%%'"
            )
        )
        child.kill()
        await child.wait()
    async with drill.rescuer():
        await drill.finished()
        await drill.only_registered(drill.own_pid)
    drill.assert_settled()
    row = drill.execution(one)
    assert (row["crashes"], row["attempts"], drill.effects(one)) == (0, 1, 1)


async def test_after_the_commit_and_before_the_process_knows(drill: Drill) -> None:
    """I1, I7: completed is final; the recovery of the dead owner does not revive it."""
    one = await drill.invoke("touch", 3)
    child = await drill.worker("committed")
    await child.wait_for_line("frozen")
    finished_by = drill.execution(one)["finished_by"]
    child.kill()
    await child.wait()
    async with drill.rescuer():
        await drill.only_registered(drill.own_pid)
    drill.assert_settled()
    row = drill.execution(one)
    assert (row["finished_by"], row["crashes"], drill.effects(one)) == (finished_by, 0, 1)
