"""Handlers with child processes of their own: neither takes the other's signals or connections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from pgconductor.cli import ExitCode
from pgconductor.services.executions import ExecutionService
from tests.support.processes import Child, Children
from tests.support.waiting import eventually

pytestmark = pytest.mark.faults

QUICK = {"PGCONDUCTOR_SHUTDOWN_GRACE": "30", "PGCONDUCTOR_SWEEP_INTERVAL": "1"}
#: As for a machine without uvloop: the application's folder is looked at first.
NO_UVLOOP = 'raise ImportError("none here")\n'

INVOKES: dict[tuple[str, str], Any] = {
    ("plain", "by_process"): [-15] * 20,
    ("plain", "by_fork_server"): [-15] * 3,
    ("plain", "by_pool"): [[1, 2, 3]] * 3,
    ("plain", "by_subprocess"): [-15] * 3,
    ("plain", "by_os_fork"): [-15, -9],
    ("plain", "by_signals_of_child"): {"term": True, "int": True, "blocked": [], "woken": -1},
    ("plain", "by_leaving_the_handler"): [1, 7, 1],
    ("on_the_loop", "by_process"): [-15] * 20,
    ("on_the_loop", "by_pool"): [[1, 2, 3]] * 3,
    ("on_the_loop", "by_asyncio"): -15,
    ("with_connections", "by_using_connections"): [0, True],
}


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The event loop of the workers whose application is in ``tmp_path``."""
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    else:
        (tmp_path / "uvloop.py").write_text(NO_UVLOOP)
    app = Path(__file__).with_name("forking_app.py")
    (tmp_path / "forking_app.py").write_text(app.read_text())
    return str(request.param)


async def stopped_by_one_signal(worker: Child) -> None:
    """What the children were told has not been counted."""
    worker.terminate()
    assert await worker.wait() == ExitCode.OK, worker.errors


@pytest.mark.parametrize("processes", [1, 2])
async def test_children_and_worker_leave_each_other_alone(
    engine: AsyncEngine, tmp_path: Path, children: Children, loop: str, processes: int
) -> None:
    command = ("-m", "pgconductor", "worker", "forking_app:conductor", "--app-dir", tmp_path)
    url = engine.url.render_as_string(hide_password=False)
    worker = await children.start(
        *command,
        *(f"--processes={processes}", "--queue=default"),
        *("--database-url", url),
        env=QUICK,
    )
    service = ExecutionService(engine)
    on = await service.invoke("loop")
    made = {
        key: (await service.invoke(key[0], payload=key[1], max_attempts=1)).id for key in INVOKES
    }

    async def all_done() -> bool:
        assert worker.returncode is None, worker.errors
        states = {key: (await service.get(one)).state for key, one in made.items()}
        left = [key for key, state in states.items() if not state.finished]
        assert not left, f"not over: {left}"
        return True

    await eventually(all_done, timeout=90, interval=0.2)
    found = {key: await service.get(one) for key, one in made.items()}
    results = {key: one.result for key, one in found.items()}
    assert results == INVOKES, "\n".join(worker.errors)
    assert {one.attempts for one in found.values()} == {1}
    assert {one.crashes for one in found.values()} == {0}
    assert (await service.get(on.id)).result.startswith(loop)
    async with engine.connect() as connection:
        kept = text("SELECT count(*) FROM pgconductor.executions WHERE queue = 'elsewhere'")
        assert await connection.scalar(kept) == 3
    await stopped_by_one_signal(worker)
