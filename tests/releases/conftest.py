"""Fixtures of the drills with several releases."""

from __future__ import annotations

import fcntl
import os
import pickle
from collections.abc import AsyncIterator, Callable

import pytest

from tests.releases.build import Releases, build_all
from tests.releases.deployment import Deployment
from tests.support.processes import Children


@pytest.fixture(scope="session")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    """Wheels of the checkout and of made-up releases, each installed in a folder.

    The first of xdist's workers that asks for them builds them for all.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    built = folder / "releases.pickle"
    with (folder / "releases.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built.exists():
            built.write_bytes(pickle.dumps(build_all(folder / "releases")))
    found: Releases = pickle.loads(built.read_bytes())
    return found


@pytest.fixture
async def deployment(
    database_url: str,
    releases: Releases,
    children: Children,
    record_property: Callable[[str, object], None],
) -> AsyncIterator[Deployment]:
    """A deployment on the shared server; its figures are shown at the end of the session."""
    deployment = Deployment(
        database_url, releases, children, lambda figure: record_property("figure", figure)
    )
    try:
        yield deployment
    finally:
        await deployment.close()
