"""SIGTERM, SIGSTOP, a blocked event loop, a request to shut down: each in a real process."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import pytest

from pgconductor.services import OrchestratorService
from tests.faults.drills import Drill
from tests.support.processes import Child
from tests.support.waiting import eventually

pytestmark = pytest.mark.faults


def terminated(child: Child) -> bool:
    # Not by way of Popen: it polls first, and would reap the process before asyncio's watcher does.
    with suppress(ProcessLookupError):
        os.kill(child.pid, signal.SIGTERM)
    return child.returncode is not None


async def test_sigterm_lets_the_handler_finish(drill: Drill) -> None:
    """I3, C (SIGTERM lost a finished result): within the grace it ends, is flushed, and leaves."""
    one = await drill.invoke("slow", 0.5)
    child = await drill.worker()
    await child.wait_for_line("started")
    child.terminate()
    assert await child.wait_for_line("exit") == "exit clean"
    assert await child.wait() == 0
    drill.assert_settled()
    assert drill.execution(one)["attempts"] == 1


async def test_sigterm_gives_back_what_has_not_started(drill: Drill) -> None:
    """I10, A3: what is prefetched goes back at once, and no attempt is charged."""
    await drill.invoke_many("slow", [2.0] * 6)
    child = await drill.worker(env={"DRILL_CONCURRENCY": "1"})
    await child.wait_for_line("started")
    child.terminate()
    assert await child.wait() == 0
    assert drill.registered() == set()
    states = [(row["state"], row["attempts"]) for row in map(drill.execution, drill.invoked)]
    assert sorted(states) == [*[("available", 0)] * 5, ("completed", 1)]
    async with drill.rescuer():
        await drill.finished()
    drill.assert_settled()


@pytest.mark.parametrize("task", ["slow", "plain"])
async def test_a_handler_that_is_too_long_is_given_back(drill: Drill, task: str) -> None:
    """I3, I10, semantics 4 (stop): cancelled after the grace, the attempt is not charged.

    The process ends as well: neither a coroutine nor a thread that goes on may keep it.
    """
    one = await drill.invoke(task, 60)
    child = await drill.worker(env={"PGCONDUCTOR_SHUTDOWN_GRACE": "0.3"})
    await child.wait_for_line("started")
    child.terminate()
    assert await child.wait_for_line("exit") == "exit forced"
    row = drill.execution(one)
    assert (row["state"], row["attempts"], row["crashes"]) == ("available", 0, 0)
    assert drill.registered() == set()
    assert await child.wait(20) == 0
    assert await drill.conductor.handle(one).cancel()
    drill.assert_settled(cancelled=[one])


async def test_a_second_signal_hurries(drill: Drill) -> None:
    """I9: nobody has to sit out a long grace."""
    one = await drill.invoke("slow", 60)
    child = await drill.worker(env={"PGCONDUCTOR_SHUTDOWN_GRACE": "600"})
    await child.wait_for_line("started")
    child.terminate()
    child.interrupt()
    assert await child.wait_for_line("exit") == "exit forced"
    assert await child.wait() == 0
    row = drill.execution(one)
    assert (row["state"], row["attempts"]) == ("available", 0)
    assert await drill.conductor.handle(one).cancel()
    drill.assert_settled(cancelled=[one])


async def test_a_third_signal_ends_the_process(drill: Drill) -> None:
    """I3, I9: even a handler that swallows everything; its execution is recovered."""
    one = await drill.invoke("stubborn")
    child = await drill.worker(env={"PGCONDUCTOR_SHUTDOWN_GRACE": "600"})
    await child.wait_for_line("started")
    # Signals of one kind merge while they are pending: send until it is gone.
    await eventually(lambda: terminated(child), timeout=20)
    assert await child.wait() == 1
    async with drill.rescuer():
        await drill.finished()
        await drill.only_registered(drill.own_pid)
    drill.assert_settled()
    assert drill.execution(one)["result"] == "gave in"


async def test_frozen_and_thawed(drill: Drill) -> None:
    """I1, I7, B3: the thawed one's completion and heartbeat are refused; it exits as evicted."""
    one = await drill.invoke("frozen")
    child = await drill.worker()
    await child.wait_for_line("handler")
    async with drill.rescuer() as rescuer:
        await drill.finished()
        await drill.only_registered(drill.own_pid)
        finished = drill.execution(one)
        assert finished["finished_by"] == rescuer.registration.orchestrator_id
        child.sigcont()
        assert await child.wait_for_line("exit") == "exit evicted"
        assert await child.wait() == 0
        assert drill.execution(one) == finished
        assert drill.registered() == {drill.own_pid}, "it came back under the same identity"
    drill.assert_settled()


async def test_a_frozen_one_that_is_shut_down(drill: Drill) -> None:
    """I2, I9: a shutdown is a level: asked while it is frozen, it is obeyed after the thaw."""
    child = await drill.worker()
    await eventually(
        lambda: drill.value("SELECT max(heartbeat_number) FROM pgconductor.orchestrators")
    )
    child.sigstop()
    service = OrchestratorService(drill.conductor.engine)
    (found,) = await service.list()
    assert await service.request_shutdown(found.id, reason="a drill")
    child.sigcont()
    assert await child.wait_for_line("exit") == "exit shutdown"
    assert await child.wait() == 0
    drill.assert_settled()


@pytest.mark.parametrize("by", ["request", "sweep"])
async def test_a_request_to_shut_down(drill: Drill, by: str) -> None:
    """A4, A6: the handler ends, its result is kept, nothing more is fetched, the row goes."""
    one = await drill.invoke("slow", 3.0)
    child = await drill.worker(env={"DRILL_CONCURRENCY": "1"})
    await child.wait_for_line("started")
    service = OrchestratorService(drill.conductor.engine)
    (found,) = await service.list()
    if by == "request":
        assert await service.request_shutdown(found.id, reason="a drill")
    else:
        swept = await service.sweep(below_version=found.schema_version + 1, reason="a drill")
        assert [one.id for one in swept] == [found.id]
    late = await drill.invoke("touch", 1)
    assert await child.wait_for_line("exit") == "exit shutdown"
    assert await child.wait() == 0
    assert drill.state(one) == "completed"
    assert drill.state(late) == "available"
    assert await service.sweep(below_version=found.schema_version + 1, reason="a drill") == []
    async with drill.rescuer():
        await drill.finished()
    drill.assert_settled()


async def test_a_blocked_event_loop_goes_on_beating(drill: Drill) -> None:
    """I1, C (heartbeat starved by a blocking handler): not executed twice, not evicted."""
    async with drill.rescuer() as observer:
        one = await drill.invoke("block", 6, queue="blocked")
        child = await drill.worker(env={"DRILL_QUEUES": "blocked"})
        await child.wait_for_line("started")
        number = "SELECT heartbeat_number FROM pgconductor.orchestrators WHERE pid = %s"
        before = drill.value(number, child.pid)
        await drill.finished()
        assert drill.value(number, child.pid) - before >= 3
        row = drill.execution(one)
        assert row["finished_by"] != observer.registration.orchestrator_id
        assert (row["crashes"], row["attempts"], drill.effects(one)) == (0, 1, 1)
        # Whose event loop it was is told to whoever reads the log.
        await eventually(lambda: any("has been blocked" in line for line in child.errors))
        child.terminate()
        assert await child.wait() == 0
    drill.assert_settled()


async def test_signals_are_taken_as_they_come(drill: Drill) -> None:
    """I9: SIGINT stops as SIGTERM does."""
    child = await drill.worker()
    child.interrupt()
    assert await child.wait_for_line("exit") == "exit clean"
    assert await child.wait() == 0
    assert child.returncode != -signal.SIGINT
    drill.assert_settled()
