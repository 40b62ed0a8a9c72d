"""An orchestrator removes what finished long ago, beside everything else that it does."""

from __future__ import annotations

import logging
from collections import Counter
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from pgconductor import Conductor, TaskContext
from pgconductor.domain.retention import Removal, Retention
from pgconductor.runtime.retention import RetentionLoop
from pgconductor.services.retention import RetentionLink, RetentionService
from tests.integration.runtime_world import World
from tests.support.servers import connect
from tests.support.waiting import eventually

OLD = """
    INSERT INTO pgconductor.executions (id, task_key, state, finished_at)
    SELECT pgconductor.uuidv7(), 'old', 'completed', now() - interval '8 days'
    FROM generate_series(1, {number})
"""
SHORTLY = timedelta(microseconds=1)


def conductor_with_a_task(world: World, **settings: Any) -> tuple[Conductor, Counter[int]]:
    conductor, done = world.conductor(**settings), Counter[int]()

    @conductor.task
    async def task(ctx: TaskContext, number: int) -> None:
        done[number] += 1

    return conductor, done


async def test_old_executions_are_removed(world: World, caplog: pytest.LogCaptureFixture) -> None:
    conductor, _ = conductor_with_a_task(world)
    world.rows(OLD.format(number=2_500))
    caplog.set_level(logging.INFO, "pgconductor.retention")
    async with world.serving(conductor):
        await eventually(lambda: world.count() == 0)
        await eventually(lambda: "removed 2500 executions" in caplog.text)
    assert caplog.text.count("removed") == 1


async def test_old_events_are_removed(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """But for those that nobody has looked at, and none where they are kept for ever."""
    world.rows(
        "INSERT INTO pgconductor.events (id, name, matched, emitted_at)"
        " SELECT pgconductor.uuidv7(), 'old', true, now() - interval '8 days'"
        " FROM generate_series(1, 1500)"
    )
    world.rows(
        "INSERT INTO pgconductor.events (id, name, matched)"
        " VALUES (pgconductor.uuidv7(), 'young', true)"
    )
    caplog.set_level(logging.INFO, "pgconductor.retention")

    def left() -> set[str]:
        return {str(row["name"]) for row in world.rows("SELECT name FROM pgconductor.events")}

    forever, _ = conductor_with_a_task(world, retain_events="forever")
    async with world.serving(forever):
        await eventually(
            lambda: bool(world.rows("SELECT 1 FROM pgconductor.retention_walk WHERE walks > 0"))
        )
    assert left() == {"old", "young"}
    conductor, _ = conductor_with_a_task(world)
    async with world.serving(conductor):
        await eventually(lambda: left() == {"young"})
        await eventually(lambda: "removed 1500 events" in caplog.text)
    assert caplog.text.count("removed") == 1


async def test_what_tasks_of_others_say_is_heeded(world: World) -> None:
    """Any orchestrator removes, also what it does not know."""
    other, _ = conductor_with_a_task(world)
    other.task("old", retain_completed="forever")(lambda ctx: None)
    async with world.serving(other):
        pass
    world.rows(OLD.format(number=3))
    world.rows("UPDATE pgconductor.retention_walk SET next_walk_at = now()")
    conductor, _ = conductor_with_a_task(world, retain_completed=SHORTLY)
    invoked = await conductor.tasks["task"].invoke(1)
    async with world.serving(conductor):
        await eventually(lambda: world.count() == 3)
    assert not world.rows("SELECT 1 FROM pgconductor.executions WHERE id = %s", invoked.id)


async def test_a_drain_loses_nothing_to_it(world: World) -> None:
    """I3: executions are removed as soon as they have completed, and only then."""
    conductor, done = conductor_with_a_task(world, retain_completed=SHORTLY)
    await conductor.tasks["task"].invoke_many(range(3_000))
    assert await conductor.orchestrator().drain() == "clean"
    assert done == Counter(range(3_000))
    left = world.rows("SELECT state FROM pgconductor.executions WHERE state <> 'completed'")
    assert left == []


async def test_it_does_not_keep_an_orchestrator_from_stopping(world: World) -> None:
    """I9: it is cut off in the middle, however patient its statements are."""
    conductor, _ = conductor_with_a_task(world, command_timeout=3_600)
    waiting = (
        "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        " AND application_name = 'pgconductor retention' AND datname = current_database()"
    )
    with connect(world.url) as holder, holder.transaction():
        holder.execute("LOCK TABLE pgconductor.retention_walk")
        async with world.serving(conductor) as orchestrator:
            await eventually(lambda: world.rows(waiting))
        assert orchestrator.exit_reason == "clean"


async def test_its_connection_is_given_up_between_walks(world: World) -> None:
    conductor, _ = conductor_with_a_task(world, sweep_interval=0.3)
    theirs = (
        "SELECT 1 FROM pg_stat_activity WHERE application_name = 'pgconductor retention'"
        " AND datname = current_database()"
    )
    async with world.serving(conductor):
        walked = "SELECT 1 FROM pgconductor.retention_walk WHERE walks > 0"
        await eventually(lambda: world.rows(walked))
        await eventually(lambda: not world.rows(theirs))


async def test_the_grants_of_a_worker_are_enough(database_url: str) -> None:
    """Those under Deploying: steps go by the foreign key, which needs no privilege of theirs."""
    name = f"pgc_{uuid4().hex[:12]}"
    with connect(database_url) as admin:
        admin.execute(
            f"CREATE ROLE {name}; GRANT USAGE ON SCHEMA pgconductor TO {name};"
            f"GRANT SELECT, UPDATE, DELETE ON pgconductor.executions TO {name};"
            f"GRANT SELECT, UPDATE ON pgconductor.retention_walk TO {name};"
            f"GRANT SELECT ON pgconductor.tasks TO {name};"
            f"{OLD.format(number=3)};"
            "INSERT INTO pgconductor.steps (execution_id, key)"
            " SELECT id, 'step' FROM pgconductor.executions".encode()
        )
        engine = create_async_engine(database_url, connect_args={"server_settings": {"role": name}})
        try:
            removal = await RetentionService(engine).remove_expired()
        finally:
            await engine.dispose()
            admin.execute(f"DROP OWNED BY {name}; DROP ROLE {name}".encode())
        assert removal == Removal(3, 3, ended=True)
        assert admin.execute("SELECT count(*) FROM pgconductor.steps").fetchone() == (0,)


# --- trouble -------------------------------------------------------------------------------------


class Troubled(RetentionLink):
    """Fails as it is told to."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.rests = 0

    async def remove_expired(self, retention: Retention) -> Removal | None:
        if self.error is not None:
            raise self.error
        return Removal(10, 0, ended=False)

    async def remove_events(self, retain: timedelta) -> int:
        return 0

    async def rest(self) -> None:
        self.rests += 1


class RefusedError(Exception):
    sqlstate = "42501"


@pytest.mark.parametrize(
    ("error", "least", "most"),
    [(None, 0, 0.2), (ConnectionResetError(), 0.2, 0.4), (RefusedError(), 300, 300)],
)
async def test_how_long_it_rests(
    world: World, error: Exception | None, least: float, most: float
) -> None:
    conductor, _ = conductor_with_a_task(world)
    async with world.serving(conductor) as orchestrator:
        assert orchestrator._machine is not None
        loop = RetentionLoop(orchestrator._machine.process)
        await loop._link.aclose()
        loop._link = link = Troubled(error)
        assert least <= await loop._pause() <= most
        assert link.rests == (error is not None)
