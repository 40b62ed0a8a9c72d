"""What tests of the runtime begin with."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from pgconductor import Conductor
from tests.integration.runtime_world import World


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    world = World(database_url)
    yield world
    await world.close()


@pytest.fixture
def conductor(world: World) -> Conductor:
    return world.conductor()
