"""An old release on a database that has left it behind, and the way back."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgconductor.cli.exit_codes import ExitCode
from tests.releases.account import assert_accounted, assert_gone_before
from tests.releases.build import BESIDE, BREAKING
from tests.releases.deployment import PATIENCE, Deployment

pytestmark = [pytest.mark.faults, pytest.mark.slow]


async def test_the_old_release_is_refused(deployment: Deployment) -> None:
    """Coordinator 14: its workers and its upgrade end with one code, and change nothing."""
    old, new = deployment.releases.old, deployment.releases.breaking
    await deployment.upgraded(new)
    gate = deployment.gate()
    history = deployment.rows("SELECT * FROM pgconductor.schema_migrations")
    upgrade = await deployment.alembic(old, "upgrade", "head")
    worker = await deployment.worker(old, wait=False)
    for refused in (upgrade, worker):
        assert await refused.wait(PATIENCE) == ExitCode.SCHEMA_TOO_NEW
        assert f"revision {BREAKING:04d} is breaking" in "\n".join(refused.errors)
    assert deployment.rows("SELECT * FROM presence") == []
    assert deployment.gate() == gate
    assert deployment.rows("SELECT * FROM pgconductor.schema_migrations") == history


async def test_the_way_back(deployment: Deployment) -> None:
    """Semantics 5: taking the breaking revision back has the new release leave; the old may come.

    A worker of the new release that is started afterwards waits for its schema, and for nothing
    else: it works as soon as the revision has been applied once more.
    """
    old, new = deployment.releases.old, deployment.releases.breaking
    await deployment.upgraded(new)
    endless = {"DRILL_ENDLESS": new.version}
    first = await deployment.worker(new, env=endless)
    await deployment.producer(old)
    odyssey = deployment.invoke("odyssey")
    await deployment.begun(odyssey)
    await deployment.ended_by(new)
    downgrade = await deployment.alembic(new, "downgrade", f"{BESIDE:04d}")
    assert "1 orchestrator left" in await deployment.succeeded(downgrade)
    assert await first.wait() == ExitCode.SHUTDOWN
    second = await deployment.worker(new, wait=False)
    worker = await deployment.worker(old)
    await deployment.ended_by(old)
    await deployment.says(second, "waiting for it")
    worker.terminate()
    assert await worker.wait() == ExitCode.OK
    await deployment.upgraded(new)
    await deployment.registered(second)
    await deployment.finished()
    assert_accounted(deployment)
    assert_gone_before(deployment, BREAKING, old)
    assert deployment.beginnings(odyssey) == [new.version, old.version]
    assert deployment.ends(odyssey) == [old.version]


async def test_what_the_drain_is_for(deployment: Deployment, tmp_path: Path) -> None:
    """The breaking revision does break the old release, and the drills would notice.

    It is forced upon a worker that is at work: its result is lost, and its execution is executed
    once more when it has been taken for dead.
    """
    old, new = deployment.releases.old, deployment.releases.breaking
    worker, execution = await deployment.stuck_worker(old, until=tmp_path / "open")
    script = await deployment.alembic(new, "upgrade", f"{old.known:04d}:head", "--sql")
    await deployment.succeeded(script)
    deployment.execute("SET pgconductor.force = 'a drill';\n" + "\n".join(script.lines))
    (tmp_path / "open").touch()
    await deployment.says(worker, 'column "finished_claim" of relation "executions" does not exist')
    assert deployment.execution(execution)["state"] == "running"
    worker.kill()
    await worker.wait()
    await deployment.worker(new)
    await deployment.finished()
    assert_accounted(deployment, crashed={execution: 1})
    with pytest.raises(AssertionError):
        assert_gone_before(deployment, BREAKING, old)
