"""Bring a database to the newest revision."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

# Alembic's ``context`` and ``op`` are global to the process.
_one_at_a_time = threading.Lock()


def migrate(url: str, revision: str = "head") -> None:
    """Upgrade a database.

    A thread of its own, because the environment starts an event loop, and the caller may have one.
    """
    with _one_at_a_time, ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(_upgrade, url, revision).result()


def _upgrade(url: str, revision: str) -> None:
    from alembic import command

    from pgconductor.schema import alembic_config

    command.upgrade(alembic_config(url), revision)
