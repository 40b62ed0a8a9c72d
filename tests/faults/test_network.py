"""Answers that are lost, connections that are cut: what the database did stands, and is known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pgconductor import Conductor
from pgconductor.domain.outcomes import Disposition, Verdict
from pgconductor.runtime.machine import Machine
from pgconductor.runtime.orchestrator import Orchestrator
from pgconductor.runtime.worker import Worker
from tests.faults.drill_tasks import drill_conductor
from tests.faults.drills import Drill
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import eventually

pytestmark = pytest.mark.faults


@asynccontextmanager
async def by_way_of(proxy: TcpProxy, **settings: Any) -> AsyncIterator[Orchestrator]:
    """An orchestrator whose connections pass the proxy."""
    conductor: Conductor = drill_conductor(proxy.url, **settings)
    orchestrator = conductor.orchestrator(concurrency=4)
    await orchestrator.start()
    try:
        yield orchestrator
    finally:
        await orchestrator.stop()
        await conductor.close()


async def at_rest(orchestrator: Orchestrator) -> None:
    """Wait until nothing is on the wire: everybody listens, or waits for the next poll."""
    machine = orchestrator._machine
    assert machine is not None
    assert machine._listener is not None
    await asyncio.wait_for(machine._listener.healthy.wait(), 20)
    await eventually(
        lambda: (
            machine.process.completer.idle
            and all(w.quiet and not w.fetching and not w._wake.is_set() for w in machine.workers)
        )
    )


def workers(orchestrator: Orchestrator) -> list[Worker]:
    assert orchestrator._machine is not None
    return orchestrator._machine.workers


@pytest.fixture
def verdicts(monkeypatch: pytest.MonkeyPatch) -> list[Verdict]:
    """Every verdict that any orchestrator of this process is given."""
    seen: list[Verdict] = []
    written = Machine._on_written

    def spy(self: Machine, given: list[Verdict]) -> None:
        seen.extend(given)
        written(self, given)

    monkeypatch.setattr(Machine, "_on_written", spy)
    return seen


async def test_a_completion_whose_answer_is_lost(drill: Drill, verdicts: list[Verdict]) -> None:
    """I1: it is tried again and recognised as done: known, not lost, and not executed twice."""
    async with TcpProxy.before(drill.url) as proxy, by_way_of(proxy):
        invocation = drill.conductor.get_task("plain").invocation(0.0)
        # The completion alone carries the result; a fetch may name the execution as its boundary.
        proxy.lose_reply_to(b'"slept"')
        await drill.invoke_many("plain", [invocation])
        await drill.finished()
        await eventually(lambda: any(v.execution_id == invocation.id for v in verdicts))
    assert proxy.cuts == 1
    assert [v.disposition for v in verdicts] == [Disposition.KNOWN]
    drill.assert_settled()
    row = drill.execution(invocation.id)
    assert (row["result"], row["attempts"], row["crashes"]) == ("slept", 1, 0)


async def test_a_completion_that_never_arrived(drill: Drill, verdicts: list[Verdict]) -> None:
    """I3: cut before the server had it, it is written by the next try."""
    async with TcpProxy.before(drill.url) as proxy, by_way_of(proxy):
        invocation = drill.conductor.get_task("plain").invocation(0.0)
        proxy.cut_before(b'"slept"')
        await drill.invoke_many("plain", [invocation])
        await drill.finished()
        await eventually(lambda: len(verdicts) == 1)
    assert proxy.cuts == 1
    assert [v.disposition for v in verdicts] == [Disposition.RECORDED]
    drill.assert_settled()
    assert drill.execution(invocation.id)["attempts"] == 1


async def test_a_fetch_whose_answer_is_lost(drill: Drill, caplog: pytest.LogCaptureFixture) -> None:
    """I3, lifecycle 8: what it took is found under a living owner, and given back."""
    async with TcpProxy.before(drill.url) as proxy:
        async with by_way_of(proxy, poll_interval=3600) as orchestrator:
            await at_rest(orchestrator)
            # From now on, only a fetch names its queue on the way to the server.
            proxy.lose_reply_to(b"\x00\x00\x00\x07default")
            await drill.invoke_many("touch", range(5))
            await drill.finished()
        assert proxy.cuts == 1
    drill.assert_settled()
    assert "held and not known here" in caplog.text
    for one in drill.invoked:
        row = drill.execution(one)
        assert (row["attempts"], row["crashes"], drill.effects(one)) == (1, 0, 1)


async def test_a_heartbeat_whose_answer_is_lost(drill: Drill) -> None:
    """I9, semantics 4: levels, not messages: the cancellation in the lost answer is told again."""
    async with TcpProxy.before(drill.url) as proxy, by_way_of(proxy, listen=False) as orchestrator:
        one = await drill.invoke("slow", 60)
        await eventually(lambda: drill.state(one) == "running")
        proxy.lose_reply_to(orchestrator.registration.orchestrator_id.bytes)
        assert await drill.conductor.handle(one).cancel("a drill")
        await drill.finished()
    drill.assert_settled(cancelled=[one])


async def test_everything_is_cut_again_and_again(drill: Drill) -> None:
    """I3: connections come back, whichever loop they belonged to."""
    async with TcpProxy.before(drill.url) as proxy, by_way_of(proxy):
        for _ in range(8):
            await drill.invoke_many("touch", range(20))
            await eventually(lambda: proxy.connections > 0)
            proxy.reset()
        await drill.finished()
    drill.assert_settled()


async def test_the_network_is_silent(drill: Drill) -> None:
    """I3, I9, semantics 4: fenced within its limit, handlers are told, and it recovers alone.

    Nothing comes back and nothing is refused: only time-outs tell. The other orchestrator, whose
    network is whole, takes the execution over; the late outcome of the silent one changes nothing.
    """
    async with TcpProxy.before(drill.url) as proxy, by_way_of(proxy) as silent:
        one = await drill.invoke("slow", 1.5)
        await eventually(lambda: drill.state(one) == "running")
        proxy.swallow()
        async with drill.rescuer() as rescuer:
            await drill.finished()
            finished = drill.execution(one)
            assert finished["finished_by"] == rescuer.registration.orchestrator_id
            proxy.resume()
            await eventually(lambda: silent.exit_reason == "evicted", timeout=30)
            await silent.stop()
            assert drill.execution(one) == finished
            assert len(drill.rows("SELECT 1 FROM pgconductor.orchestrators")) == 1
    drill.assert_settled()


async def test_an_outage_longer_than_the_stale_threshold(drill: Drill) -> None:
    """I3, lifecycle 9 and 3.4: nobody is evicted; results made meanwhile are flushed afterwards."""
    async with (
        TcpProxy.before(drill.url) as proxy,
        by_way_of(proxy) as first,
        by_way_of(proxy) as second,
    ):
        ids = await drill.invoke_many("plain", [4.5] * 8)
        both = {one.registration.orchestrator_id for one in (first, second)}
        # Each executes four. What one has fetched too many of, it gives back to the other.
        await eventually(
            lambda: [len(w._attempts) for o in (first, second) for w in workers(o)] == [4, 0] * 2
        )
        owners = {one: drill.execution(one)["locked_by"] for one in ids}
        assert set(owners.values()) == both
        await proxy.refuse()
        proxy.reset()
        await eventually(
            lambda: drill.value(
                "SELECT bool_and(last_heartbeat_at < clock_timestamp() - interval '4 seconds')"
                " FROM pgconductor.orchestrators"
            ),
            timeout=20,
        )
        await proxy.accept()
        await drill.finished()
        assert first.exit_reason is second.exit_reason is None
        assert drill.registered() == {drill.own_pid}
        for one in ids:
            row = drill.execution(one)
            assert (row["finished_by"], row["crashes"]) == (owners[one], 0)
    drill.assert_settled()
