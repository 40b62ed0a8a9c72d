"""Handlers that wait in memory, while their process is stopped, or the database is gone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest

from pgconductor.services import OrchestratorService
from tests.faults.drill_tasks import drill_conductor
from tests.faults.drills import RECOVERY, Drill
from tests.faults.logbook import all_ended, assert_made_once, embarked, under_way
from tests.support.processes import Child
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import eventually

pytestmark = pytest.mark.faults

#: Nobody leaves memory but because of what happens here.
PATIENT = {
    "PGCONDUCTOR_SUSPEND_AFTER": "3600",
    "PGCONDUCTOR_SHUTDOWN_GRACE": "3600",
    "DRILL_CONCURRENCY": "100",
}
WAITS = ["sleep", "child", "event", "try", "branches", "tasks"]


async def all_wait(drill: Drill) -> None:
    """Wait until all that these, and their three children, wait for is on record."""
    wanted = len(WAITS) - 2 + 2 * 4 + 3
    pending = "SELECT count(*) FROM pgconductor.steps WHERE pending"
    await eventually(lambda: drill.value(pending) == wanted, timeout=RECOVERY)


async def let_go(drill: Drill) -> None:
    """Have come what is waited for."""
    drill.execute("UPDATE pgconductor.steps SET wake_at = now() WHERE pending AND wake_at > now()")
    await drill.conductor.emit("horn")


async def assert_moored_once(drill: Drill, ids: list[UUID]) -> None:
    await all_ended(drill, alone=False)
    for one in ids:
        row = drill.execution(one)
        assert (row["state"], row["attempts"], row["crashes"]) == ("completed", 1, 0)
        assert drill.effects(one) == 2, "one before and one after the wait"
    assert drill.value("SELECT count(*) FROM pgconductor.steps WHERE pending") == 0
    children = "SELECT count(*) FROM pgconductor.executions WHERE parent_id = ANY (%s)"
    assert drill.value(children, ids) == 3


async def terminated(_drill: Drill, child: Child) -> str:
    child.terminate()
    return "exit clean"


async def swept(drill: Drill, _child: Child) -> str:
    """As a breaking migration does."""
    service = OrchestratorService(drill.conductor.engine)
    (found,) = await service.list()
    await service.sweep(below_version=found.schema_version + 1, reason="a drill")
    return "exit shutdown"


@pytest.mark.parametrize("stop", [terminated, swept])
async def test_stopping_does_not_wait_for_them(
    drill: Drill, stop: Callable[[Drill, Child], Awaitable[str]]
) -> None:
    """I3, I9, I10: they are suspended at once, though the grace is an hour; others go on."""
    ids = await drill.invoke_many("mooring", WAITS)
    child = await drill.worker(env=PATIENT)
    await all_wait(drill)
    reason = await stop(drill, child)
    assert await child.wait_for_line("exit") == reason
    assert await child.wait() == 0
    assert drill.registered() == set()
    rows = drill.rows("SELECT state, attempts, locked_by FROM pgconductor.executions")
    assert [tuple(row.values()) for row in rows] == [("waiting", 0, None)] * (len(ids) + 3)
    async with drill.rescuer():
        await let_go(drill)
        await assert_moored_once(drill, ids)


@asynccontextmanager
async def by_way_of(proxy: TcpProxy, **settings: Any) -> AsyncIterator[None]:
    """An orchestrator whose connections pass the proxy."""
    conductor = drill_conductor(proxy.url, **settings)
    orchestrator = conductor.orchestrator(concurrency=100)
    await orchestrator.start()
    try:
        yield
    finally:
        await orchestrator.stop()
        await conductor.close()


@pytest.mark.parametrize("suspend_after", [3600, 0.001], ids=["in memory", "suspended"])
async def test_what_comes_during_an_outage(drill: Drill, suspend_after: float) -> None:
    """I3: longer than the process trusts in itself; whoever waits goes on afterwards, once."""
    async with (
        TcpProxy.before(drill.url) as proxy,
        by_way_of(proxy, suspend_after=suspend_after),
    ):
        ids = await drill.invoke_many("mooring", WAITS)
        await all_wait(drill)
        await proxy.refuse()
        proxy.reset()
        await let_go(drill)
        await eventually(
            lambda: drill.value(
                "SELECT bool_and(last_heartbeat_at < clock_timestamp() - interval '4 seconds')"
                " FROM pgconductor.orchestrators"
            ),
            timeout=20,
        )
        await proxy.accept()
        await assert_moored_once(drill, ids)


@pytest.mark.parametrize("arrives", [True, False], ids=["answer lost", "never arrived"])
async def test_a_suspension_is_cut(drill: Drill, *, arrives: bool) -> None:
    """I3: it is written by the next try, or was: then it may have been woken meanwhile."""
    async with (
        TcpProxy.before(drill.url) as proxy,
        by_way_of(proxy, suspend_after=0.001),
    ):
        # The statement is prepared by then: from now on only its values are on the way.
        await drill.invoke("touch")
        await drill.finished()
        cut = proxy.lose_reply_to if arrives else proxy.cut_before
        cut(b"suspended")
        ids = await drill.invoke_many("mooring", WAITS)
        await all_wait(drill)
        await eventually(lambda: proxy.cuts == 1, timeout=RECOVERY)
        await let_go(drill)
        await assert_moored_once(drill, ids)


async def test_voyages_are_cut_again_and_again(drill: Drill) -> None:
    """I3 to I5: whatever is on its way; transactions have their effects once."""
    async with (
        TcpProxy.before(drill.url) as proxy,
        by_way_of(proxy, suspend_after=0.02),
    ):
        voyages = await embarked(drill, [[]] * 30)
        for steps in range(40, 400, 40):
            await under_way(drill, steps)
            proxy.reset()
        await all_ended(drill, alone=False)
    assert_made_once(drill, voyages, calm=False)
