"""Bring a database to the newest revision."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from tests.support.processes import UNMEASURED

# Alembic's ``context`` and ``op`` are global to the process.
_one_at_a_time = threading.Lock()

#: A checkout whose revisions the databases of the tests get, instead of our own: a later state of
#: this project, see ``yesterday.py``.
REVISIONS_VARIABLE = "PGCONDUCTOR_TEST_REVISIONS"


def migrate(url: str, revision: str = "head") -> None:
    """Upgrade a database.

    A thread of its own, because the environment starts an event loop, and the caller may have one.
    """
    if checkout := os.environ.get(REVISIONS_VARIABLE):
        _upgrade_elsewhere(checkout, url, revision)
        return
    with _one_at_a_time, ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(_upgrade, url, revision).result()


def _upgrade(url: str, revision: str) -> None:
    from alembic import command

    from pgconductor.schema import alembic_config

    command.upgrade(alembic_config(url), revision)


def _upgrade_elsewhere(checkout: str, url: str, revision: str) -> None:
    # Its revisions import its own package, and this process has ours.
    done = subprocess.run(
        [sys.executable, "-m", "alembic", "upgrade", revision],
        cwd=checkout,
        env=os.environ | UNMEASURED | {"PYTHONPATH": checkout, "PGCONDUCTOR_DATABASE_URL": url},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the revisions of {checkout} were not applied: {done.stderr}")
