"""The contract suite's databases: every test runs against the fake and against PostgreSQL."""

from __future__ import annotations

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from pgconductor.testing import FakeDatabase
from tests.contracts.harness import FakeHarness, Harness, PostgresHarness


@pytest.fixture(params=["fake", "postgres"])
def db(request: pytest.FixtureRequest) -> Harness:
    """The database under test."""
    if request.param == "fake":
        return FakeHarness(FakeDatabase())
    return PostgresHarness(request.getfixturevalue("engine"))


@pytest.fixture
def postgres(engine: AsyncEngine) -> PostgresHarness:
    """PostgreSQL alone, for what the fake does not have: locks."""
    return PostgresHarness(engine)
