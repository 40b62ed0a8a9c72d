"""The worker command: how it ends, and what it logs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from pgconductor.cli import ExitCode
from pgconductor.services.executions import ExecutionService
from tests.support.processes import Child, Children
from tests.support.waiting import eventually

APP = """\
import asyncio
import time

from pgconductor import Conductor, TaskContext

conductor = Conductor()


@conductor.task
async def hello(ctx: TaskContext, name: str) -> str:
    ctx.logger.warning("hello %s", name)
    return f"hello {name}"


@conductor.task
async def stubborn(ctx: TaskContext) -> None:
    print("stubborn", flush=True)
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass


@conductor.task
def stuck(ctx: TaskContext) -> None:
    print("stuck", flush=True)
    time.sleep(3600)


@conductor.task
async def waits(ctx: TaskContext) -> None:
    print("waits", flush=True)
    await asyncio.sleep(3600)
"""
QUICK = {
    "PGCONDUCTOR_HEARTBEAT_INTERVAL": "0.1",
    "PGCONDUCTOR_SELF_FENCE_AFTER": "5",
    "PGCONDUCTOR_STALE_AFTER": "10",
    "PGCONDUCTOR_SWEEP_INTERVAL": "5",
    "PGCONDUCTOR_SHUTDOWN_GRACE": "0.2",
    "PGCONDUCTOR_STARTUP_POLICY": "refuse",
}

Start = Callable[..., Any]


@pytest.fixture
def start(database_url: str, tmp_path: Path, children: Children) -> Start:
    (tmp_path / "cli_app.py").write_text(APP)

    async def started(*options: str, url: str = database_url) -> Child:
        command = ("-m", "pgconductor", "worker", "cli_app:conductor", "--app-dir", tmp_path)
        return await children.start(
            *command, "--log-json", *options, "--database-url", url, env=QUICK
        )

    return started


def records(child: Child) -> list[dict[str, Any]]:
    return [json.loads(line) for line in child.errors]


async def serving(child: Child) -> None:
    await eventually(lambda: any(" serves " in line for line in child.errors), timeout=30)


async def test_drain_executes_what_is_due(engine: AsyncEngine, start: Start) -> None:
    invoked = await ExecutionService(engine).invoke("hello", "you")
    child = await start("--drain")
    assert await child.wait() == ExitCode.OK
    found = await ExecutionService(engine).get(invoked.id)
    assert found.result == "hello you"
    (said,) = [one for one in records(child) if one["message"] == "hello you"]
    assert said["level"] == "WARNING"
    assert said["execution_id"] == str(invoked.id)
    assert (said["task"], said["queue"], said["attempt"]) == ("hello", "default", 1)


@pytest.mark.parametrize("stop", [Child.terminate, Child.interrupt])
async def test_a_signal_stops_it(start: Start, stop: Callable[[Child], None]) -> None:
    child = await start()
    await serving(child)
    stop(child)
    assert await child.wait() == ExitCode.OK
    assert records(child)[-1]["message"] == "stopped cleanly"


@pytest.mark.parametrize("task", ["stubborn", "stuck"])
async def test_a_handler_that_does_not_end(engine: AsyncEngine, start: Start, task: str) -> None:
    invoked = await ExecutionService(engine).invoke(task)
    child = await start()
    await child.wait_for_line(task)
    child.terminate()
    assert await child.wait() == ExitCode.FORCED
    found = await ExecutionService(engine).get(invoked.id)
    assert (found.state, found.attempts) == ("available", 0)


async def test_the_database_asks_it_to_stop(engine: AsyncEngine, start: Start) -> None:
    child = await start()
    await serving(child)
    async with engine.begin() as connection:
        await connection.execute(
            text("UPDATE pgconductor.orchestrators SET shutdown_requested_at = now()")
        )
    assert await child.wait() == ExitCode.SHUTDOWN


async def test_it_is_evicted(engine: AsyncEngine, start: Start) -> None:
    child = await start()
    await serving(child)
    async with engine.begin() as connection:
        await connection.execute(text("DELETE FROM pgconductor.orchestrators"))
    assert await child.wait() == ExitCode.EVICTED


async def test_schemas_that_do_not_fit(
    engine: AsyncEngine, empty_database_url: str, start: Start
) -> None:
    async with engine.begin() as connection:
        await connection.execute(
            text("UPDATE pgconductor.schema_gate SET installed = 99, floor = 99")
        )
    new, missing = await asyncio.gather(start(), start(url=empty_database_url))
    assert await new.wait() == ExitCode.SCHEMA_TOO_NEW
    assert await missing.wait() == ExitCode.SCHEMA_BEHIND
    for child in (new, missing):
        assert child.errors[-1].startswith("pgconductor: the database")
        assert not any("Traceback" in line for line in child.errors)
