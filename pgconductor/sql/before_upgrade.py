"""What a release says to a database that its own revisions have not reached yet.

At the start of an orchestrator, and while a migration waits: these must be valid on the schema
before.
"""

from __future__ import annotations

from typing import Final

from pgconductor import sql

__all__ = ["BEFORE_UPGRADE"]

BEFORE_UPGRADE: Final = (
    sql.BEATS,
    sql.INSTALL_LOCK,
    sql.LEASE_END_HOLDER,
    sql.LEASE_HOLDER,
    sql.LEASE_NOTE,
    sql.LEASE_RELEASE,
    sql.LEASE_TAKE,
    sql.LOCK_HOLDERS,
    sql.LOCK_ORCHESTRATOR,
    sql.LOCK_STALE,
    sql.ORPHANS,
    sql.PREFLIGHT,
    sql.REGISTERED,
    sql.REMOVE_ORCHESTRATOR,
    sql.REQUEST_SHUTDOWN,
    sql.SCHEMA_HISTORY,
    sql.SCHEMA_STATUS,
    sql.TAKE_BACK,
    sql.VERSION_HEADS,
    sql.WAITED_FOR,
)
