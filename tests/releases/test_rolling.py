"""A revision that is not breaking: the old and the new release side by side, and the way back."""

from __future__ import annotations

import pytest

from tests.releases.account import applied_at, assert_accounted, idle, unattended
from tests.releases.build import BESIDE
from tests.releases.deployment import Deployment

pytestmark = [pytest.mark.faults, pytest.mark.slow]


async def test_a_rolling_deployment(deployment: Deployment) -> None:
    """Semantics 5, coordinator 17: no drain, nobody has to stop, no moment without a worker."""
    old, new = deployment.releases.old, deployment.releases.beside
    first, second = await deployment.worker(old), await deployment.worker(old)
    await deployment.producer(old)
    crossings = [deployment.invoke("crossing") for _ in range(3)]
    await deployment.begun(*crossings)
    await deployment.ended_by(old)
    # The new release needs the revision: started too early, it waits for it.
    early = await deployment.worker(new, wait=False)
    await deployment.says(early, "waiting for it")
    there = deployment.rows("SELECT id FROM pgconductor.orchestrators ORDER BY id")
    await deployment.upgraded(new)
    await deployment.registered(first, second, early)
    assert deployment.gate()["installed"] == BESIDE
    asked = deployment.rows(
        "SELECT * FROM pgconductor.orchestrators WHERE shutdown_requested_at IS NOT NULL"
    )
    assert not asked
    assert deployment.rows("SELECT orchestrator_id AS id FROM presence WHERE NOT came") == []
    assert len(there) == 2
    # Both work on the new schema.
    await deployment.ended_by(old)
    await deployment.ended_by(new)
    for leaving in (first, second):
        leaving.terminate()
        assert await leaving.wait() == 0, "\n".join(leaving.errors)
        await deployment.worker(new)
    await deployment.ended_by(new)
    deployment.execute("SELECT pgconductor.emit_event('land')")
    await deployment.finished()
    assert_accounted(deployment)
    assert {(deployment.beginnings(one)[0], *deployment.ends(one)) for one in crossings} == {
        (old.version, new.version)
    }
    assert unattended(deployment) == 0
    together = -idle(deployment, old, new)
    assert together > 0, "the releases were to work side by side"
    written = "SELECT count(*) FROM pgconductor.executions WHERE fetched_with IS NOT NULL"
    assert deployment.value(written) > 0
    deployment.report(
        f"rolling: nobody registered for 0 s; both releases at work for {together:.1f} s"
    )


async def test_back_to_the_old_release(deployment: Deployment) -> None:
    """Coordinator 2.6: the old release's own upgrade has nothing to do, and its workers work."""
    old, new = deployment.releases.old, deployment.releases.beside
    await deployment.upgraded(new)
    at = applied_at(deployment, BESIDE)
    gate, history = (
        deployment.gate(),
        deployment.rows("SELECT * FROM pgconductor.schema_migrations"),
    )
    said = await deployment.upgraded(old)
    assert "nothing to do" in said
    assert deployment.gate() == gate
    assert deployment.rows("SELECT * FROM pgconductor.schema_migrations") == history
    worker = await deployment.worker(old)
    deployment.invoke("brief")
    await deployment.ended_by(old, more=1)
    await deployment.finished()
    assert_accounted(deployment)
    assert any("ahead of this release" in line for line in worker.errors)
    assert applied_at(deployment, BESIDE) == at
