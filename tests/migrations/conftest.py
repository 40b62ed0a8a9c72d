"""pytest-alembic's fixtures on real Postgres."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from alembic.config import Config
from sqlalchemy import Engine, NullPool, create_engine

from pgconductor import schema


@pytest.fixture
def alembic_config() -> Config:
    return schema.alembic_config()


@pytest.fixture
def alembic_engine(empty_database_url: str) -> Iterator[Engine]:
    url = empty_database_url.replace("+asyncpg", "+psycopg", 1)
    engine = create_engine(url, poolclass=NullPool)
    yield engine
    engine.dispose()
