"""Fixtures of the drills with several releases."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from tests.releases.build import Releases, build_all
from tests.releases.deployment import Deployment
from tests.support.processes import Children


@pytest.fixture(scope="session")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    """Wheels of the checkout and of two made-up releases, each installed in a folder."""
    return build_all(tmp_path_factory.mktemp("releases"))


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
