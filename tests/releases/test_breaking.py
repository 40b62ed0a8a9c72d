"""A breaking revision: the old drain and leave, the revision is applied, the new start."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgconductor.cli.exit_codes import ExitCode
from tests.releases.account import assert_accounted, assert_gone_before, idle, unattended
from tests.releases.build import BESIDE, BREAKING, Release
from tests.releases.deployment import APART, PATIENCE, Deployment
from tests.support.waiting import eventually

pytestmark = [pytest.mark.faults, pytest.mark.slow]

# A worker that learns of nothing unless it is notified.
UNAWARE = {
    "PGCONDUCTOR_HEARTBEAT_INTERVAL": "60",
    "PGCONDUCTOR_SELF_FENCE_AFTER": "90",
    "PGCONDUCTOR_STALE_AFTER": "120",
}


def report(deployment: Deployment, new: Release, what: str) -> None:
    """Tell the figures of a deployment that was to stop the old before it started the new."""
    seconds = idle(deployment, deployment.releases.old, new)
    assert seconds > 0
    deployment.report(
        f"{what}: nobody registered for {unattended(deployment):.2f} s; {seconds:.2f} s from the "
        "last effect of the old release to the first of the new one"
    )


def notify(deployment: Deployment, orchestrator_id: object) -> None:
    """Have an orchestrator beat at once."""
    deployment.execute(f"NOTIFY pgconductor_control, '{orchestrator_id}'")


async def test_a_breaking_deployment(deployment: Deployment, tmp_path: Path) -> None:
    """A6, semantics 5: the old drain and leave, then the revision, then the new; nothing is lost.

    Whoever supervises the old ones starts them again as they were, as supervisors do. They are
    refused, for one of the old has a handler that takes its time; then the new release is started
    in their places, and waits.
    """
    old, new = deployment.releases.old, deployment.releases.breaking
    # Whoever waits in memory, an hour if need be, holds up nobody.
    endless = {"DRILL_ENDLESS": old.version, "PGCONDUCTOR_SUSPEND_AFTER": "3600"}
    slow, last = await deployment.stuck_worker(old, until=tmp_path / "open")
    places = [await deployment.supervised(old, old, new, env=endless) for _ in range(2)]
    await deployment.producer(old)
    odysseys = [deployment.invoke("odyssey") for _ in range(3)]
    crossings = [deployment.invoke("crossing") for _ in range(3)]
    await deployment.begun(*odysseys, *crossings)
    await deployment.ended_by(old)
    early = await deployment.worker(new, wait=False)
    await deployment.says(early, "waiting for it")
    upgrade = await deployment.alembic(new, "upgrade", "head")
    await deployment.settled()
    shut_down = (old.version, ExitCode.SHUTDOWN)
    assert [place.ended for place in places] == [[shut_down, shut_down]] * 2
    # What is not breaking has not waited.
    assert (deployment.gate()["installed"], deployment.gate()["floor"]) == (BESIDE, 0)
    (tmp_path / "open").touch()
    assert await slow.wait(PATIENCE) == ExitCode.SHUTDOWN
    said = await deployment.succeeded(upgrade)
    assert f"→ {BREAKING:04d}" in said
    assert "3 orchestrators left" in said
    await deployment.registered(early, *(place.child for place in places))
    await deployment.ended_by(new, more=50)
    deployment.execute("SELECT pgconductor.emit_event('land')")
    await deployment.finished()
    assert_accounted(deployment)
    assert_gone_before(deployment, BREAKING, old)
    assert deployment.ends(last) == [old.version]
    # They have waited from one release to the next, in nobody's memory.
    for one in crossings:
        assert deployment.beginnings(one)[0] == old.version
        assert deployment.ends(one) == [new.version]
    # Interrupted at a boundary, given back, and executed once more by the new release.
    for one in odysseys:
        assert deployment.beginnings(one) == [old.version, new.version]
    assert (deployment.gate()["installed"], deployment.gate()["floor"]) == (BREAKING, BREAKING)
    report(deployment, new, "breaking, the new workers waiting for the schema")


async def test_with_a_frozen_worker(deployment: Deployment) -> None:
    """Coordinator 12, 13: taken for dead by the migration; thawed, it ends and changes nothing."""
    old, new = deployment.releases.old, deployment.releases.breaking
    endless = {"DRILL_ENDLESS": old.version}
    frozen = await deployment.worker(old, queues=[APART], env=endless)
    odyssey = deployment.invoke("odyssey", APART)
    await deployment.begun(odyssey)
    await deployment.producer(old)
    newcomer = await deployment.worker(new, wait=False)
    await deployment.says(newcomer, "waiting for it")
    await deployment.freeze(frozen)
    said = await deployment.upgraded(new)
    assert "was found stale" in said
    assert "1 orchestrator evicted" in said
    await deployment.registered(newcomer)
    await deployment.ended_by(new)
    await deployment.finished()
    assert_accounted(deployment, crashed={odyssey: 1})
    assert_gone_before(deployment, BREAKING, old)
    assert deployment.beginnings(odyssey) == [old.version, new.version]
    before = deployment.everything()
    frozen.sigcont()
    assert await frozen.wait() == ExitCode.EVICTED
    assert deployment.everything() == before
    assert deployment.registered_pids() == {newcomer.pid}
    report(deployment, new, "breaking, a frozen worker taken for dead after 3 s")


async def test_a_revision_that_reaches_far(deployment: Deployment) -> None:
    """Coordinator 12, docs/revisions.md: what the dead hold cannot be read before the revision.

    So the migration goes on waiting for the one that is frozen, and says why. It is given up; when
    a worker of the older release has been there, which can read it, the next one succeeds.
    """
    old, new = deployment.releases.old, deployment.releases.deep
    endless = {"DRILL_ENDLESS": old.version}
    frozen = await deployment.worker(old, queues=[APART], env=endless)
    odyssey = deployment.invoke("odyssey", APART)
    await deployment.begun(odyssey)
    await deployment.producer(old)
    await deployment.freeze(frozen)
    upgrade = await deployment.alembic(new, "upgrade", "head")
    await deployment.says(upgrade, "cannot take back what dead orchestrators hold")
    # It would wait until its deadline: nobody is there who can.
    upgrade.terminate()
    assert await upgrade.wait() == ExitCode.TERMINATED
    assert f"pid {frozen.pid}" in "\n".join(upgrade.errors)
    assert deployment.gate()["installed"] == BESIDE
    rescuer = await deployment.worker(old, env=endless)
    await deployment.until("SELECT count(*) = 1 FROM pgconductor.orchestrators")
    assert deployment.registered_pids() == {rescuer.pid}
    assert "1 orchestrator left" in await deployment.upgraded(new)
    assert await rescuer.wait() == ExitCode.SHUTDOWN
    await deployment.worker(new)
    await deployment.finished()
    before = deployment.everything()
    frozen.sigcont()
    assert await frozen.wait() == ExitCode.EVICTED
    assert deployment.everything() == before
    assert_accounted(deployment, crashed={odyssey: 1})
    assert_gone_before(deployment, BREAKING, old)
    assert deployment.ends(odyssey) == [new.version]


async def test_evicting_who_does_not_leave(deployment: Deployment, tmp_path: Path) -> None:
    """Coordinator 11, 13: its executions go to others, and what it writes afterwards is refused."""
    old, new = deployment.releases.old, deployment.releases.breaking
    stuck, execution = await deployment.stuck_worker(old, until=tmp_path / "open", env=UNAWARE)
    (identity,) = deployment.rows("SELECT id FROM pgconductor.orchestrators")
    said = await deployment.upgraded(
        new,
        {
            "PGCONDUCTOR_MIGRATION_DRAIN_TIMEOUT": "2",
            "PGCONDUCTOR_MIGRATION_ON_DRAIN_TIMEOUT": "evict",
            "PGCONDUCTOR_STALE_AFTER": "120",
        },
    )
    assert f"evicted: orchestrator {identity['id']}" in said
    await deployment.worker(new)
    await deployment.finished()
    report(deployment, new, "breaking, a worker evicted after 2 s, the new one started afterwards")
    before = deployment.execution(execution)
    (tmp_path / "open").touch()

    def knows() -> bool:
        return "evicted: found stale" in "\n".join(stuck.errors)

    # It does not know yet, and has a result to write. Unless it was slow to look when it was last
    # asked to leave, a moment before.
    await eventually(
        lambda: knows() or "not taken, and kept" in "\n".join(stuck.errors), timeout=PATIENCE
    )
    if not knows():
        assert stuck.returncode is None
        notify(deployment, identity["id"])
    assert await stuck.wait() == ExitCode.EVICTED
    assert deployment.execution(execution) == before
    assert_accounted(deployment, crashed={execution: 1})
    # The thread could not be ended: at least once, not exactly once, is what handlers are promised.
    assert deployment.ends(execution)[:1] == [new.version]
    assert deployment.ends(execution)[1:] in ([old.version], [])


async def test_failing_at_the_deadline(deployment: Deployment, tmp_path: Path) -> None:
    """Coordinator 11: it is named, nothing is changed for the breaking one, the old may go on."""
    old, new = deployment.releases.old, deployment.releases.breaking
    stuck, execution = await deployment.stuck_worker(old, until=tmp_path / "open")
    (identity,) = deployment.rows("SELECT id FROM pgconductor.orchestrators")
    upgrade = await deployment.alembic(
        new, "upgrade", "head", env={"PGCONDUCTOR_MIGRATION_DRAIN_TIMEOUT": "1"}
    )
    assert await upgrade.wait(PATIENCE) == ExitCode.NOT_DRAINED
    said = upgrade.errors[-1]
    for named in (identity["id"], f"pid {stuck.pid}", old.version, "1 executions running", "stuck"):
        assert str(named) in said
    gate = deployment.gate()
    assert (gate.pop("installed"), gate.pop("floor"), gate.pop("singleton")) == (BESIDE, 0, True)
    assert set(gate.values()) == {None}
    assert deployment.value("SELECT max(version) FROM pgconductor.schema_migrations") == BESIDE
    assert "finished_claim" in deployment.execution(execution)
    await deployment.worker(old)
    deployment.invoke("brief")
    await deployment.ended_by(old, more=1)
    # Asked to stop, the first one has stopped as soon as it could.
    (tmp_path / "open").touch()
    assert await stuck.wait() == ExitCode.SHUTDOWN
    await deployment.finished()
    assert_accounted(deployment)
    assert deployment.ends(execution) == [old.version]
