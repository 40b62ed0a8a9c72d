"""The server restarts, backends are terminated, processes are killed at random: under load."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator

import pytest

from pgconductor.dev import EmbeddedServer
from tests.faults.drills import Drill
from tests.faults.logbook import all_ended, assert_made_once, embarked, under_way
from tests.support.processes import Child, Children
from tests.support.servers import connect
from tests.support.waiting import eventually

pytestmark = pytest.mark.faults

OTHERS = "datname = current_database() AND pid <> pg_backend_pid()"


@pytest.fixture
async def crash_drill(crash_server: EmbeddedServer, children: Children) -> AsyncIterator[Drill]:
    drill = Drill(str(crash_server.url), children)
    try:
        yield drill
    finally:
        await drill.conductor.close()


async def done(drill: Drill, wanted: int) -> None:
    """Wait until so many have finished."""
    count = "SELECT count(*) FROM pgconductor.executions WHERE finished_at IS NOT NULL"
    await eventually(lambda: drill.value(count) >= wanted, timeout=30)


async def test_the_server_crashes_under_load(
    crash_drill: Drill, crash_server: EmbeddedServer
) -> None:
    """I3, I7: hundreds of executions, two processes: none is lost, none is completed twice."""
    drill = crash_drill
    # A second completion of one execution would be a second row here.
    drill.execute(
        """
        CREATE TABLE completions (id uuid);
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO completions VALUES (new.id); RETURN new; END $$;
        CREATE TRIGGER note AFTER UPDATE ON pgconductor.executions FOR EACH ROW
        WHEN (new.state = 'completed') EXECUTE FUNCTION note();
        """
    )
    workers = [await drill.worker(), await drill.worker()]
    for share in (0.2, 0.6):
        await drill.invoke_many("touch", range(300))
        await done(drill, round(len(drill.invoked) * share))
        await asyncio.to_thread(crash_server.restart, "immediate")
        await drill.conductor.engine.dispose()
    await drill.finished()
    for worker in workers:
        worker.terminate()
        assert await worker.wait() == 0
    drill.assert_settled()
    assert drill.rows("SELECT id FROM completions GROUP BY id HAVING count(*) > 1") == []
    assert drill.value("SELECT count(*) FROM completions") == len(drill.invoked)


async def test_the_server_crashes_under_voyages(
    crash_drill: Drill, crash_server: EmbeddedServer
) -> None:
    """I3 to I5: steps, waits and children: all end, and transactions have their effects once."""
    drill = crash_drill
    worker = await drill.worker(env={"PGCONDUCTOR_SUSPEND_AFTER": "0.02"})
    voyages = await embarked(drill, [[]] * 30)
    for steps in (100, 250):
        await under_way(drill, steps)
        await asyncio.to_thread(crash_server.restart, "immediate")
        await drill.conductor.engine.dispose()
    await all_ended(drill, alone=False)
    worker.terminate()
    assert await worker.wait() == 0
    assert_made_once(drill, voyages, calm=False)


async def test_every_backend_is_terminated_again_and_again(drill: Drill) -> None:
    """I3, I9: fetchers, completers, heartbeats and listeners all come back."""
    workers = [await drill.worker(), await drill.worker()]
    for _ in range(4):
        await drill.invoke_many("touch", range(50))
        drill.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OTHERS}")
        await drill.conductor.engine.dispose()
        await eventually(lambda: drill.unfinished() < 50, timeout=30)
    await drill.finished()
    assert drill.registered() == {worker.pid for worker in workers}, "somebody was evicted"
    for worker in workers:
        worker.terminate()
        assert await worker.wait() == 0
    drill.assert_settled()


async def test_the_listener_is_terminated(drill: Drill) -> None:
    """C (half-open LISTEN): it listens again, and looks at once for what it missed.

    With an hour between two polls, nothing but listening finds anything here.
    """
    listening = (
        "SELECT pid FROM pg_stat_activity"
        f" WHERE query LIKE 'SELECT pg_catalog.pg_notify%%' AND {OTHERS}"
    )
    async with drill.rescuer(poll_interval=3600):
        await drill.invoke("touch")
        await drill.finished()
        (victim,) = await eventually(lambda: drill.rows(listening))
        with connect(drill.url) as connection:
            connection.execute("SELECT pg_terminate_backend(%s)", [victim["pid"]])
            # Perhaps before it listens again: then the look after it has connected finds this.
            await drill.invoke("touch")
        await drill.finished()
        await eventually(lambda: victim not in drill.rows(listening) != [])
        await drill.invoke("touch")
        await drill.finished()
    drill.assert_settled()


async def test_chaos(drill: Drill) -> None:
    """I1 to I4, I7: three processes, killed at random under load and started again."""
    seed = int(os.environ.get("PGCONDUCTOR_CHAOS_SEED", "20260101"))
    chance = random.Random(seed)
    workers: list[Child] = list(await asyncio.gather(*(drill.worker() for _ in range(3))))
    for _ in range(5):
        await drill.invoke_many("touch", range(40))
        await drill.invoke_many("slow", [chance.uniform(0.0, 0.3) for _ in range(10)])
        # Not a wait for anything: the moment of the kill is what is random.
        await asyncio.sleep(chance.uniform(0.05, 0.5))
        victim = chance.randrange(3)
        workers[victim].kill()
        await workers[victim].wait()
        workers[victim] = await drill.worker(wait=False)
    try:
        await eventually(
            lambda: (
                not drill.rows(
                    "SELECT 1 FROM pgconductor.executions WHERE finished_at IS NULL LIMIT 1"
                )
            ),
            timeout=60,
            interval=0.1,
        )
    except AssertionError as error:
        raise AssertionError(f"seed {seed}") from error
    await drill.only_registered(*(worker.pid for worker in workers))
    for worker in workers:
        worker.terminate()
        assert await worker.wait() == 0
    # An innocent that was beside three kills by chance looks like a poison: it may have failed,
    # and then says so. Everything else is completed.
    failed = drill.rows("SELECT id, last_error FROM pgconductor.executions WHERE state = 'failed'")
    assert all("crashed its process" in row["last_error"] for row in failed)
    assert len(failed) <= 3, f"seed {seed}: {failed}"
    drill.assert_settled(failed=[row["id"] for row in failed])
