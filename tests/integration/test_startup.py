"""An orchestrator starts against every relation of what it knows and what the database holds."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import pytest

from pgconductor import Conductor, TaskContext
from pgconductor.exceptions import (
    MigrationUnderWay,
    SchemaBehind,
    SchemaMissing,
    SchemaTooNew,
)
from pgconductor.services import MigrationCoordinator
from tests.integration.runtime_world import World
from tests.migrations.support import current
from tests.support.servers import connect
from tests.support.waiting import eventually

REGISTERED = "SELECT id FROM pgconductor.orchestrators"
AHEAD = "UPDATE pgconductor.schema_gate SET installed = 7, floor = {floor}"
INTENT = """
    UPDATE pgconductor.schema_gate SET intent_floor = {floor}, intent_ceiling = {ceiling},
        intent_expires_at = now() + interval '{expires}'
"""


def with_task(conductor: Conductor) -> Conductor:
    @conductor.task
    async def task(ctx: TaskContext) -> None:
        return

    return conductor


@pytest.fixture
async def empty(empty_database_url: str) -> AsyncIterator[World]:
    world = World(empty_database_url)
    yield world
    await world.close()


# --- the relations -------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["wait", "upgrade", "refuse"])
async def test_at_the_same_revision(world: World, policy: str) -> None:
    conductor = with_task(world.conductor(startup_policy=policy))
    assert await conductor.orchestrator().drain() == "clean"


@pytest.mark.parametrize("policy", ["wait", "upgrade", "refuse"])
async def test_ahead_by_what_breaks_nothing(
    world: World, policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    world.rows(AHEAD.format(floor=1))
    conductor = with_task(world.conductor(startup_policy=policy))
    assert await conductor.orchestrator().drain() == "clean"
    assert "at revision 0007, ahead of this release, which knows 0001" in caplog.text


@pytest.mark.parametrize("policy", ["wait", "upgrade", "refuse"])
async def test_ahead_by_what_breaks(world: World, policy: str) -> None:
    """At once, whatever the policy: waiting does not make a database older."""
    world.rows(AHEAD.format(floor=6))
    conductor = with_task(world.conductor(startup_policy=policy))
    with pytest.raises(SchemaTooNew):
        await conductor.orchestrator().run()
    assert world.rows(REGISTERED) == []


@pytest.mark.parametrize(("floor", "ceiling"), [("2", "NULL"), ("NULL", "0")])
async def test_about_to_be_shut_out(world: World, floor: str, ceiling: str) -> None:
    """At once, too: the supervisor starts it again; and nobody is kept out for ever."""
    world.rows(INTENT.format(floor=floor, ceiling=ceiling, expires="1 hour"))
    conductor = with_task(world.conductor(startup_policy="wait"))
    with pytest.raises(MigrationUnderWay):
        await conductor.orchestrator().run()
    assert world.rows(REGISTERED) == []
    world.rows(INTENT.format(floor=floor, ceiling=ceiling, expires="-1 second"))
    assert await conductor.orchestrator().drain() == "clean"


# --- waiting -------------------------------------------------------------------------------------


async def test_it_waits_for_a_deployment(empty: World, caplog: pytest.LogCaptureFixture) -> None:
    conductor = with_task(empty.conductor(startup_policy="wait"))
    orchestrator = conductor.orchestrator()
    working = asyncio.create_task(orchestrator.run())
    await eventually(lambda: re.search(r"waiting for it, (300|2\d\d) s left", caplog.text))
    await MigrationCoordinator(empty.url).upgrade()
    await eventually(lambda: empty.rows(REGISTERED) != [])
    await orchestrator.stop()
    assert await working == "clean"


async def test_it_does_not_wait_for_ever(empty: World) -> None:
    conductor = with_task(empty.conductor(startup_policy="wait", startup_wait=0.3))
    with pytest.raises(SchemaMissing):
        await conductor.orchestrator().run()


async def test_it_waits_while_a_revision_is_applied(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """The gate is locked for as long as that takes, which may be longer than any start."""
    orchestrator = with_task(
        world.conductor(startup_policy="wait", startup_timeout=0.3)
    ).orchestrator()
    with connect(world.url) as migration:
        migration.autocommit = False
        migration.execute("SELECT * FROM pgconductor.schema_gate FOR UPDATE")
        working = asyncio.create_task(orchestrator.run())
        await eventually(lambda: "a revision is being applied; waiting for it" in caplog.text)
        migration.rollback()
    # Then it starts, however quick that has to be.
    await eventually(lambda: working.done() or world.rows(REGISTERED) != [])
    await orchestrator.stop()
    await asyncio.gather(working, return_exceptions=True)


async def test_a_stop_ends_the_waiting(empty: World, caplog: pytest.LogCaptureFixture) -> None:
    """I9."""
    orchestrator = with_task(empty.conductor(startup_policy="wait")).orchestrator()
    working = asyncio.create_task(orchestrator.run())
    await eventually(lambda: "waiting for it" in caplog.text)
    await orchestrator.stop()
    assert await asyncio.wait_for(working, 20) == "clean"


async def test_it_refuses(world: World, empty: World) -> None:
    with pytest.raises(SchemaMissing):
        await with_task(empty.conductor(startup_policy="refuse")).orchestrator().run()
    world.rows("UPDATE pgconductor.schema_gate SET installed = 0, floor = 0")
    with pytest.raises(SchemaBehind):
        await with_task(world.conductor(startup_policy="refuse")).orchestrator().run()


# --- upgrading -----------------------------------------------------------------------------------


async def test_it_upgrades(empty: World) -> None:
    """Several at once: one does, the others find it done."""
    conductors = [with_task(empty.conductor(startup_policy="upgrade")) for _ in range(3)]
    orchestrators = [one.orchestrator() for one in conductors]
    await asyncio.gather(*(one.start() for one in orchestrators))
    assert current(empty.url) == [("0001",)]
    assert len(empty.rows(REGISTERED)) == 3
    await asyncio.gather(*(one.stop() for one in orchestrators))


async def test_a_stop_ends_the_upgrading(empty: World) -> None:
    """I9: while another one installs, for instance."""
    locked = "SELECT pg_advisory_lock(6220117031880514301)"
    with connect(empty.url) as other:
        other.execute(locked.encode())
        orchestrator = with_task(empty.conductor(startup_policy="upgrade")).orchestrator()
        working = asyncio.create_task(orchestrator.run())
        trying = (
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name LIKE 'pgconductor-migrate%'"
        )
        await eventually(lambda: empty.rows(trying) != [])
        await orchestrator.stop()
        assert await asyncio.wait_for(working, 20) == "clean"
    assert empty.rows("SELECT 1 FROM pg_namespace WHERE nspname = 'pgconductor'") == []


# --- overtaken while it works --------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        INTENT.format(floor="2", ceiling="NULL", expires="1 hour"),
        INTENT.format(floor="NULL", ceiling="0", expires="1 hour"),
        AHEAD.format(floor=7),
    ],
    ids=["announced", "announced back", "done"],
)
async def test_a_level_in_every_answer(world: World, change: str) -> None:
    """A6: without any message, and without being asked by name."""
    orchestrator = with_task(world.conductor()).orchestrator()
    working = asyncio.create_task(orchestrator.run())
    await eventually(lambda: world.rows(REGISTERED) != [])
    world.rows(change)
    assert await asyncio.wait_for(working, 20) == "shutdown"
    assert world.rows(REGISTERED) == []


async def test_statements_that_do_not_fit_any_more(world: World) -> None:
    """An old one that slept through all of it: its statements fail, and it asks why."""
    orchestrator = with_task(world.conductor(self_fence_after=30, stale_after=60)).orchestrator()
    working = asyncio.create_task(orchestrator.run())
    await eventually(lambda: world.rows(REGISTERED) != [])
    world.rows(
        "ALTER TABLE pgconductor.orchestrators RENAME COLUMN heartbeat_number TO beats;"
        + AHEAD.format(floor=7)
    )
    assert await asyncio.wait_for(working, 30) in {"shutdown", "forced"}
    world.rows("DELETE FROM pgconductor.orchestrators")


async def test_a_damage_that_is_no_migration(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody has renamed a column: it goes on trying, for the schema is said to fit."""
    orchestrator = with_task(world.conductor(self_fence_after=30, stale_after=60)).orchestrator()
    await orchestrator.start()
    world.rows("ALTER TABLE pgconductor.orchestrators RENAME COLUMN heartbeat_number TO beats")
    await eventually(lambda: "a heartbeat was not acknowledged" in caplog.text)
    world.rows("ALTER TABLE pgconductor.orchestrators RENAME COLUMN beats TO heartbeat_number")
    beats = "SELECT 1 FROM pgconductor.orchestrators WHERE heartbeat_number > {}"
    (row,) = world.rows("SELECT heartbeat_number FROM pgconductor.orchestrators")
    await eventually(lambda: world.rows(beats.format(row["heartbeat_number"])) != [])
    await orchestrator.stop()
    assert orchestrator.exit_reason == "clean"
