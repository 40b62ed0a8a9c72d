"""Migrators that die, stand still or meet one another; `coordinator.md`, deaths and conflicts.

Each is a real `alembic upgrade head` in a process of its own.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.faults.migrations import Deploys, told
from tests.support.processes import Children
from tests.support.waiting import ASLEEP, eventually

pytestmark = [pytest.mark.faults]

#: Whoever stands still for a second is held to be dead.
IMPATIENT = {
    "PGCONDUCTOR_HEARTBEAT_INTERVAL": "0.2",
    "PGCONDUCTOR_SELF_FENCE_AFTER": "0.5",
    "PGCONDUCTOR_STALE_AFTER": "1",
    "PGCONDUCTOR_SWEEP_INTERVAL": "0.5",
}


@pytest.fixture
def deploys(database_url: str, children: Children, tmp_path: Path) -> Deploys:
    return Deploys(database_url, children, tmp_path)


def by(driver: str, deploys: Deploys) -> tuple[str, str]:
    """What has Alembic use a driver; of the settings' URL only asyncpg is made."""
    return "-x", f"url={deploys.url.replace('asyncpg', driver)}"


# --- killed --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("point", "at"), [("leasing", 1), ("leased", 1), ("revision", 1), ("releasing", 2)]
)
async def test_killed_at(deploys: Deploys, point: str, at: int) -> None:
    """A4: the database is at a boundary, and the next one goes on without waiting."""
    deploys.add(2, breaking=False, before="op.execute('CREATE TABLE pgconductor.half (id int)')")
    child = await deploys.frozen(point)
    child.kill()
    await child.wait()
    deploys.assert_at(at)
    half = "SELECT to_regclass('pgconductor.half') IS NOT NULL"
    assert deploys.rows(half) == [(at == 2,)]
    again = await deploys.upgraded("-x", "lease_wait=5")
    deploys.assert_at(2)
    deploys.assert_free()
    assert deploys.rows(half) == [(True,)]
    assert ("nothing to do" in told(again)) is (at == 2)


async def test_killed_inside_a_statement(deploys: Deploys) -> None:
    """The server notices that its client has gone: the statement ends, and with it the lease."""
    deploys.add(2, breaking=False, change="def change(): op.execute('SELECT pg_sleep(600)')")
    child = await deploys.start()
    await eventually(lambda: deploys.rows(ASLEEP) == [(1,)], timeout=20)
    child.kill()
    await child.wait()
    deploys.add(2, breaking=False)
    await deploys.upgraded()
    deploys.assert_at(2)
    deploys.assert_free()


async def test_killed_while_it_waits_for_orchestrators(deploys: Deploys) -> None:
    """A4: those that are asked leave all the same; others may come when the intent has expired."""
    deploys.add(2, breaking=True)
    async with deploys.fleet() as fleet:
        old = await fleet.register()
        child = await deploys.frozen("swept")
        assert await fleet.asked(old)
        child.kill()
        await child.wait()
        deploys.assert_at(1)
        with pytest.raises(Exception, match="0002"):
            await fleet.register()
        # Nobody renews it: the end comes by itself.
        deploys.execute("UPDATE pgconductor.schema_gate SET intent_expires_at = now()")
        newcomer = await fleet.register()
        assert not await fleet.asked(newcomer)
        await fleet.service.leave(old)
        await fleet.service.leave(newcomer)
    await deploys.upgraded()
    deploys.assert_at(2, floor=2)
    deploys.assert_free()


async def test_killed_between_two_revisions(deploys: Deploys) -> None:
    deploys.add(2, breaking=False)
    deploys.add(3, breaking=True)
    async with deploys.fleet() as fleet:
        old = await fleet.register()
        child = await deploys.frozen("swept")
        child.kill()
        await child.wait()
        deploys.assert_at(2)
        await fleet.service.leave(old)
    await deploys.upgraded()
    deploys.assert_at(3, floor=3)


# --- several -------------------------------------------------------------------------------------


@pytest.mark.parametrize("empty", [False, True], ids=["installed", "empty"])
async def test_four_at_once(deploys: Deploys, empty_database_url: str, empty: bool) -> None:
    """One applies each revision, the others find nothing to do; on an empty database, too."""
    for number in (2, 3, 4):
        deploys.add(number, breaking=number == 3)
    if empty:
        deploys.url = empty_database_url
    started = [await deploys.start() for _ in range(4)]
    codes = await asyncio.gather(*(child.wait(60) for child in started))
    assert codes == [0] * 4, [told(child) for child in started]
    deploys.assert_at(4, floor=3)
    deploys.assert_free()


async def test_overtaken_before_it_has_the_lease(deploys: Deploys) -> None:
    """What Alembic has read is old by then: it looks again."""
    deploys.add(2, breaking=False)
    deploys.add(3, breaking=False)
    slow = await deploys.frozen("leasing")
    await deploys.upgraded()
    await slow.send_line("go on")
    assert await slow.wait() == 0, told(slow)
    assert "0003: nothing to do" in told(slow)
    deploys.assert_at(3)


@pytest.mark.parametrize("point", ["leased", "revision"])
async def test_the_holder_stands_still(deploys: Deploys, point: str) -> None:
    """A4: it is ended by who waits for it, and whatever it does afterwards changes nothing."""
    deploys.add(2, breaking=False)
    frozen = await deploys.frozen(point)
    frozen.sigstop()
    second = await deploys.upgraded(env=IMPATIENT)
    assert "stood still was ended" in told(second)
    deploys.assert_at(2)
    deploys.assert_free()
    frozen.kill()
    frozen.sigcont()
    await frozen.wait()


async def test_a_holder_that_was_ended_finds_nothing_to_do(deploys: Deploys) -> None:
    """Thawed, it looks where the database is before it does anything."""
    deploys.add(2, breaking=True)
    async with deploys.fleet() as fleet:
        old = await fleet.register()
        first = await deploys.start()
        await eventually(lambda: "to leave first" in told(first), timeout=20)
        first.sigstop()
        second = await deploys.start(env=IMPATIENT)
        await eventually(lambda: "to leave first" in told(second), timeout=20)
        first.sigcont()
        await fleet.service.leave(old)
        assert await second.wait() == 0, told(second)
        assert await first.wait() == 0, told(first)
    assert "connecting again" in told(first)
    deploys.assert_at(2, floor=2)
    deploys.assert_free()


async def test_a_holder_that_makes_no_progress_is_named(deploys: Deploys) -> None:
    """A4: pid, application name, since when; and nothing is changed."""
    deploys.add(2, breaking=False)
    frozen = await deploys.frozen("leased")
    second = await deploys.start("-x", "lease_wait=0.5")
    assert await second.wait() == 12
    (server_pid,) = deploys.rows("SELECT lease_pid FROM pgconductor.schema_gate")[0]
    for word in (f"pid {frozen.pid}", f"({server_pid}", "pgconductor-migrate", "since 20"):
        assert word.strip("(") in told(second)
    deploys.assert_at(1)
    frozen.kill()
    await frozen.wait()


# --- told to stop --------------------------------------------------------------------------------


@pytest.mark.parametrize(("stop", "code"), [("terminate", 143), ("interrupt", 130)])
async def test_told_to_stop_while_it_waits_for_the_lease(
    deploys: Deploys, stop: str, code: int
) -> None:
    """A4, I9."""
    deploys.add(2, breaking=False)
    frozen = await deploys.frozen("leased")
    (before,) = deploys.rows("SELECT lease_id FROM pgconductor.schema_gate")
    waiting = await deploys.start()
    await eventually(lambda: "another migration is at work" in told(waiting), timeout=20)
    getattr(waiting, stop)()
    assert await waiting.wait(20) == code, told(waiting)
    assert deploys.rows("SELECT lease_id FROM pgconductor.schema_gate") == [before]
    frozen.kill()
    await frozen.wait()


@pytest.mark.parametrize(("stop", "code"), [("terminate", 143), ("interrupt", 130)])
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_told_to_stop_while_it_waits_for_orchestrators(
    deploys: Deploys, stop: str, code: int, driver: str
) -> None:
    """A4, I9: the intent is taken back, and others of the old kind may come."""
    deploys.add(2, breaking=True)
    async with deploys.fleet() as fleet:
        await fleet.register()
        waiting = await deploys.start(*by(driver, deploys))
        await eventually(lambda: "to leave first" in told(waiting), timeout=20)
        getattr(waiting, stop)()
        assert await waiting.wait(20) == code, told(waiting)
        deploys.assert_at(1)
        deploys.assert_free()
        await fleet.register()


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_told_to_stop_inside_a_statement(deploys: Deploys, driver: str) -> None:
    """It is cancelled on the server, and rolled back; more signals change nothing."""
    deploys.add(2, breaking=False, change="def change(): op.execute('SELECT pg_sleep(600)')")
    child = await deploys.start(*by(driver, deploys))
    await eventually(lambda: deploys.rows(ASLEEP) == [(1,)], timeout=20)
    for _ in range(3):
        child.terminate()
    assert await child.wait(20) == 143, told(child)
    await eventually(lambda: deploys.rows(ASLEEP) == [(0,)])
    deploys.assert_at(1)
    deploys.assert_free()
