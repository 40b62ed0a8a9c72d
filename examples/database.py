"""The database of the examples: the one that is named, or a server of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from alembic import command

from pgconductor.dev import EmbeddedServer
from pgconductor.schema import alembic_config
from pgconductor.settings import normalise_url


@contextmanager
def database() -> Iterator[str]:
    """The URL, for asyncpg, of a migrated database: the one named, or a temporary server's."""
    given = os.environ.get("PGCONDUCTOR_DATABASE_URL")
    if given:
        command.upgrade(alembic_config(given), "head")
        yield normalise_url(given).render_as_string(hide_password=False)
        return
    with EmbeddedServer.start() as server:
        command.upgrade(alembic_config(server.url), "head")
        yield server.url
