"""Fixtures of the drills."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.faults.drills import Drill
from tests.support.processes import Children


@pytest.fixture
async def drill(database_url: str, children: Children) -> AsyncIterator[Drill]:
    """A drill on the shared server."""
    drill = Drill(database_url, children)
    try:
        yield drill
    finally:
        await drill.conductor.close()
