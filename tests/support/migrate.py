"""Bring a database to the newest revision."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor


def migrate(url: str, revision: str = "head") -> None:
    """Upgrade a database.

    A thread of its own, because the environment starts an event loop, and the caller may have one.
    """
    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(_upgrade, url, revision).result()


def _upgrade(url: str, revision: str) -> None:
    from alembic import command

    from pgconductor.schema import alembic_config

    command.upgrade(alembic_config(url), revision)
