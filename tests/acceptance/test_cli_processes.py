"""``worker --processes``: a supervisor with real processes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from pgconductor.cli import ExitCode
from pgconductor.services.executions import ExecutionService
from tests.support.processes import Child, Children
from tests.support.servers import connect
from tests.support.waiting import eventually

pytestmark = pytest.mark.faults

APP = """\
import asyncio
import os
from pathlib import Path

from pgconductor import Conductor, TaskContext

conductor = Conductor()


def say_holding() -> None:
    # The processes share their output: only a single write keeps a line in one piece.
    os.write(1, f"holding {os.getpid()}\\n".encode())


@conductor.task
async def loop(ctx: TaskContext) -> str:
    return type(asyncio.get_running_loop()).__module__


@conductor.task
async def hold(ctx: TaskContext) -> int:
    say_holding()
    while not Path("open").exists():
        await asyncio.sleep(0.01)
    return os.getpid()


@conductor.task
async def block(ctx: TaskContext) -> None:
    say_holding()
    while True:
        pass
"""
QUICK = {
    "PGCONDUCTOR_HEARTBEAT_INTERVAL": "0.1",
    "PGCONDUCTOR_SELF_FENCE_AFTER": "2",
    "PGCONDUCTOR_STALE_AFTER": "3",
    "PGCONDUCTOR_SWEEP_INTERVAL": "0.5",
    "PGCONDUCTOR_SHUTDOWN_GRACE": "60",
}


class Stage:
    """An application, a database, and supervisors between them.

    Args:
        url: The database's.
        folder: Where the application is, and where its processes look for the file ``open``.
        children: Starts the supervisors.
    """

    def __init__(self, url: str, folder: Path, children: Children) -> None:
        self.url = url
        self.folder = folder
        self._children = children
        (folder / "supervised_app.py").write_text(APP)

    async def start(
        self, *options: str, app: str = "supervised_app:conductor", **env: str
    ) -> Child:
        command = ("-m", "pgconductor", "worker", app, "--log-json", "--concurrency", "1")
        wanted = {**QUICK, "PGCONDUCTOR_DATABASE_URL": self.url, **env}
        return await self._children.start(*command, *options, env=wanted, cwd=self.folder)

    def pids(self) -> set[int]:
        """The processes that are registered."""
        with connect(self.url) as connection:
            rows = connection.execute("SELECT pid FROM pgconductor.orchestrators").fetchall()
        return {int(str(row[0])) for row in rows}

    async def serving(self, count: int, *, without: frozenset[int] = frozenset()) -> set[int]:
        """Wait until so many processes are registered, none of them among those of before."""

        def there() -> set[int]:
            pids = self.pids()
            return pids if len(pids) == count and not pids & without else set()

        return await eventually(there, timeout=60, interval=0.05)

    def open(self) -> None:
        (self.folder / "open").touch()


@pytest.fixture
def stage(database_url: str, tmp_path: Path, children: Children) -> Stage:
    return Stage(database_url, tmp_path, children)


def records(child: Child) -> list[dict[str, Any]]:
    return [json.loads(line) for line in child.errors]


def messages(child: Child) -> list[str]:
    return [one["message"] for one in records(child)]


async def logged(child: Child, message: str) -> None:
    await eventually(lambda: message in messages(child), timeout=30)


async def holding(child: Child) -> int:
    """The process that holds an execution next."""
    return int((await child.wait_for_line("holding")).split()[1])


# --- work ----------------------------------------------------------------------------------------


async def test_the_processes_share_the_work(engine: AsyncEngine, stage: Stage) -> None:
    executions = ExecutionService(engine)
    supervisor = await stage.start("--processes", "3")
    pids = await stage.serving(3)
    assert supervisor.pid not in pids
    held = [await executions.invoke("hold") for _ in range(3)]
    # Each has room for one only, and none ends before the third has begun.
    assert {await holding(supervisor) for _ in held} == pids
    stage.open()
    supervisor.terminate()
    assert await supervisor.wait(60) == ExitCode.OK
    assert stage.pids() == set()
    found = [await executions.get(one.id) for one in held]
    assert {one.result for one in found} == pids
    assert {one.get("process_number") for one in records(supervisor)} == {None, 1, 2, 3}
    assert messages(supervisor)[-1] == "all processes have ended (exit code 0)"


async def test_a_drain_ends_when_all_have_drained(engine: AsyncEngine, stage: Stage) -> None:
    executions = ExecutionService(engine)
    invoked = [await executions.invoke("loop") for _ in range(20)]
    supervisor = await stage.start("--drain", PGCONDUCTOR_PROCESSES="2")
    assert await supervisor.wait(60) == ExitCode.OK
    found = [await executions.get(one.id) for one in invoked]
    pytest.importorskip("uvloop")
    assert {one.result for one in found} == {"uvloop"}
    ended = [one for one in messages(supervisor) if one.endswith("ended with exit code 0 (OK)")]
    assert len(ended) == 2


async def test_one_process_needs_no_supervisor(stage: Stage) -> None:
    worker = await stage.start("--processes", "1")
    assert await stage.serving(1) == {worker.pid}
    worker.terminate()
    assert await worker.wait() == ExitCode.OK


# --- crashes -------------------------------------------------------------------------------------


async def test_a_process_that_crashes_is_started_again(engine: AsyncEngine, stage: Stage) -> None:
    """I2, I3: its execution is recovered, and the other process is left alone."""
    executions = ExecutionService(engine)
    supervisor = await stage.start("--processes", "2")
    before = await stage.serving(2)
    invoked = await executions.invoke("hold")
    killed = await holding(supervisor)
    os.kill(killed, signal.SIGKILL)
    stage.open()
    after = await stage.serving(2, without=frozenset({killed}))
    assert len(after & before) == 1
    await eventually(lambda: finished(executions, invoked.id), timeout=30)
    found = await executions.get(invoked.id)
    assert (found.crashes, found.result in after) == (1, True)
    supervisor.terminate()
    assert await supervisor.wait(60) == ExitCode.OK
    assert any("was killed by SIGKILL; started again" in one for one in messages(supervisor))


async def finished(executions: ExecutionService, execution_id: Any) -> bool:
    return (await executions.get(execution_id)).state.finished


async def test_an_evicted_one_comes_back_under_a_new_identity(stage: Stage) -> None:
    supervisor = await stage.start("--processes", "2")
    before = await stage.serving(2)
    with connect(stage.url) as connection:
        connection.execute("DELETE FROM pgconductor.orchestrators")
    await stage.serving(2, without=frozenset(before))
    supervisor.terminate()
    assert await supervisor.wait(60) == ExitCode.OK


async def test_when_the_supervisor_is_killed_its_processes_leave(
    engine: AsyncEngine, stage: Stage
) -> None:
    """They stop as if they had been told to: what is under way is finished."""
    executions = ExecutionService(engine)
    supervisor = await stage.start("--processes", "2")
    await stage.serving(2)
    invoked = await executions.invoke("hold")
    await holding(supervisor)
    supervisor.kill()
    await logged(supervisor, "the supervisor has gone: stopping")
    stage.open()
    # Its output ends with the last of its processes.
    assert await supervisor.wait(60) == -signal.SIGKILL
    assert stage.pids() == set()
    assert (await executions.get(invoked.id)).state == "completed"


# --- the database, and mistakes ------------------------------------------------------------------


async def test_one_that_the_database_asks_to_stop_stops_all(stage: Stage) -> None:
    supervisor = await stage.start("--processes", "2")
    await stage.serving(2)
    with connect(stage.url) as connection:
        connection.execute(
            "UPDATE pgconductor.orchestrators SET shutdown_requested_at = now()"
            " WHERE id = (SELECT id FROM pgconductor.orchestrators LIMIT 1)"
        )
    assert await supervisor.wait(60) == ExitCode.SHUTDOWN
    assert stage.pids() == set()


async def test_a_mistake_is_reported_once(stage: Stage) -> None:
    supervisor = await stage.start("--processes", "5", app="supervised_app:nothing")
    assert await supervisor.wait(60) == ExitCode.USAGE
    said = [one for one in supervisor.errors if one.startswith("pgconductor:")]
    assert said == ["pgconductor: module 'supervised_app' has no attribute 'nothing'"]


async def test_a_schema_that_does_not_fit(empty_database_url: str, stage: Stage) -> None:
    supervisor = await stage.start(
        "--processes",
        "2",
        PGCONDUCTOR_DATABASE_URL=empty_database_url,
        PGCONDUCTOR_STARTUP_POLICY="refuse",
    )
    assert await supervisor.wait(60) == ExitCode.SCHEMA_BEHIND


# --- signals -------------------------------------------------------------------------------------


def to_all(child: Child) -> None:
    """What a terminal does at Ctrl-C, and a service manager when it stops a service."""
    os.killpg(child.pid, signal.SIGINT)


@pytest.mark.parametrize("stop", [Child.terminate, Child.interrupt, to_all])
async def test_a_stop_counts_once(
    engine: AsyncEngine, stage: Stage, stop: Callable[[Child], None]
) -> None:
    """Nobody is hurried: the handler ends by itself, long after the signal."""
    executions = ExecutionService(engine)
    supervisor = await stage.start("--processes", "2")
    await stage.serving(2)
    invoked = await executions.invoke("hold")
    await holding(supervisor)
    stop(supervisor)
    # The idle one has left, the other one has heard of it and waits.
    await stage.serving(1)
    stage.open()
    assert await supervisor.wait(60) == ExitCode.OK
    found = await executions.get(invoked.id)
    assert (found.state, found.attempts) == ("completed", 1)
    assert stage.pids() == set()


async def test_a_second_signal_hurries(engine: AsyncEngine, stage: Stage) -> None:
    executions = ExecutionService(engine)
    supervisor = await stage.start("--processes", "2")
    await stage.serving(2)
    invoked = await executions.invoke("hold")
    await holding(supervisor)
    to_all(supervisor)
    await stage.serving(1)
    to_all(supervisor)
    assert await supervisor.wait(60) == ExitCode.FORCED
    found = await executions.get(invoked.id)
    assert (found.state, found.attempts) == ("available", 0)
    assert stage.pids() == set()


@pytest.mark.orphans_expected
async def test_a_third_signal_ends_even_a_blocked_process(
    engine: AsyncEngine, stage: Stage
) -> None:
    executions = ExecutionService(engine)
    supervisor = await stage.start("--processes", "2")
    await stage.serving(2)
    await executions.invoke("block")
    pid = await holding(supervisor)
    for said in ("stopping", "hurrying", "killing"):
        supervisor.terminate()
        await logged(supervisor, f"{said} all processes")
    assert await supervisor.wait(60) == ExitCode.ERROR
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_signal_while_the_application_is_imported(stage: Stage) -> None:
    (stage.folder / "slow_app.py").write_text("print('importing', flush=True)\nwhile True: pass\n")
    supervisor = await stage.start("--processes", "2", app="slow_app:conductor")
    await supervisor.wait_for_line("importing")
    to_all(supervisor)
    assert await supervisor.wait(60) == ExitCode.OK
    assert not any("Traceback" in one for one in supervisor.errors)
