"""A breaking revision: the old drain and leave, the revision is applied, the new start."""

from __future__ import annotations

import pytest

from pgconductor.cli.exit_codes import ExitCode
from tests.releases.account import assert_accounted, assert_gone_before, idle, unattended
from tests.releases.build import BREAKING
from tests.releases.deployment import Deployment

pytestmark = [pytest.mark.faults, pytest.mark.slow]

REFUSED = {ExitCode.SHUTDOWN, ExitCode.SCHEMA_TOO_NEW}


def report(deployment: Deployment, what: str) -> None:
    """Keep the figures of a deployment that was to stop the old before it started the new."""
    releases = deployment.releases
    seconds = idle(deployment, releases.old, releases.breaking)
    assert seconds > 0
    deployment.report(
        f"{what}: nobody registered for {unattended(deployment):.2f} s; {seconds:.2f} s from the "
        "last effect of the old release to the first of the new one"
    )


async def test_a_breaking_deployment(deployment: Deployment) -> None:
    """A6, semantics 5: the old drain and leave, then the revision, then the new; nothing is lost.

    Whoever supervises the old ones starts them again as they were, as supervisors do. They are
    refused, and then the new release is started in their places.
    """
    old, new = deployment.releases.old, deployment.releases.breaking
    endless = {"DRILL_ENDLESS": old.version}
    places = [await deployment.supervised(old, old, new, env=endless) for _ in range(2)]
    await deployment.producer(old)
    odysseys = [deployment.invoke("odyssey") for _ in range(3)]
    await deployment.begun(*odysseys)
    await deployment.ended_by(old)
    early = await deployment.worker(new, wait=False)
    await deployment.says(early, "waiting for it")
    said = await deployment.upgraded(new)
    assert f"→ {BREAKING:04d}" in said
    assert "2 orchestrators left" in said
    await deployment.settled()
    await deployment.registered(early, *(place.child for place in places))
    for place in places:
        (drained, refused) = place.ended
        assert drained == (old.version, ExitCode.SHUTDOWN)
        assert refused[1] in REFUSED
    await deployment.ended_by(new, more=50)
    await deployment.finished()
    assert_accounted(deployment)
    assert_gone_before(deployment, BREAKING, old)
    # Interrupted at a boundary, given back, and executed once more by the new release.
    for one in odysseys:
        begun = deployment.rows(
            "SELECT release FROM effects WHERE execution_id = %s AND what = 'begun' ORDER BY id",
            one,
        )
        assert [row["release"] for row in begun] == [old.version, new.version]
    assert (deployment.gate()["installed"], deployment.gate()["floor"]) == (BREAKING, BREAKING)
    report(deployment, "breaking deployment")
