"""Indexes that a revision builds and drops while everybody goes on writing.

``CREATE INDEX CONCURRENTLY`` cannot be part of a transaction, and a build that was interrupted
leaves an invalid index behind. ``IF NOT EXISTS`` would keep that one and report success. So a
revision that calls one of these does nothing else: it may be interrupted anywhere, and is applied
again from its beginning.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Protocol

import sqlalchemy as sa
from alembic.operations import Operations
from sqlalchemy.exc import DBAPIError

from pgconductor.exceptions import HistoryMismatch, LeaseLost
from pgconductor.models import SCHEMA

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext

__all__ = ["create_index_concurrently", "drop_index_concurrently"]

#: How long a build waits for the transactions that were open before it.
WAIT: Final = timedelta(minutes=5)

# Where to look for a build of another session's. It goes on in the server after its client died.
_FOUND: Final = sa.text("""
    SELECT i.indisvalid AND i.indisready AS whole, t.relname::text AS on_table, (
        SELECT min(p.pid) FROM pg_catalog.pg_stat_progress_create_index p
        WHERE p.index_relid = i.indexrelid
    ) AS built_by
    FROM pg_catalog.pg_index i
    JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
    JOIN pg_catalog.pg_class t ON t.oid = i.indrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = :schema AND c.relname = :name
""")


class HasContext(Protocol):
    """``alembic.op``, or an ``Operations`` object."""

    def get_context(self) -> MigrationContext:
        """Alembic's migration context."""
        ...


def create_index_concurrently(
    op: HasContext,
    name: str,
    table: str,
    columns: Sequence[str | sa.TextClause],
    *,
    unique: bool = False,
    where: str | None = None,
    wait: timedelta = WAIT,
) -> None:
    """Build an index on a table of ours that is in use; a valid one is left as it is.

    What an interrupted build has left is dropped first. A build of another session's that still
    goes on is waited for. With ``--sql`` the script cannot look: it drops what bears the name,
    builds, and fails unless the index is valid.

    Args:
        op: Alembic's operations.
        name: The index.
        table: The table, of our schema.
        columns: Columns, or expressions as ``text()``.
        unique: Whether a value may occur once only. If the rows do not allow it, the build fails.
        where: The predicate of a partial index.
        wait: How long to wait, for other sessions' transactions and for another's build.

    Raises:
        LeaseLost: Another session builds the index, and has not finished in time.
        HistoryMismatch: An index of that name is on another table, or the build left an invalid
            one.
    """
    with _outside(op, wait) as own:
        if not own.get_context().as_sql and _is_whole(own, name, table, wait):
            return
        _drop(own, name)
        own.create_index(
            name,
            table,
            list(columns),
            schema=SCHEMA,
            unique=unique,
            postgresql_where=None if where is None else sa.text(where),
            postgresql_concurrently=True,
        )
        own.execute(_assert_whole(name))


def drop_index_concurrently(op: HasContext, name: str, *, wait: timedelta = WAIT) -> None:
    """Drop an index of ours without keeping anybody from its table; no matter if it is gone.

    Args:
        op: Alembic's operations.
        name: The index.
        wait: How long to wait for other sessions' transactions.
    """
    with _outside(op, wait) as own:
        _drop(own, name)


@contextmanager
def _outside(op: HasContext, wait: timedelta) -> Generator[Operations]:
    """Outside a transaction, and with another patience than a statement that blocks others has.

    A build that waits keeps nobody from reading and writing, so it may wait for long.
    """
    context = op.get_context()
    own = Operations(context)
    milliseconds = int(wait.total_seconds() * 1000)
    with context.autocommit_block():
        before = None
        if not context.as_sql:
            before = own.get_bind().scalar(sa.text("SELECT current_setting('lock_timeout')"))
        own.execute(f"SET lock_timeout = {milliseconds}")
        back = "RESET lock_timeout" if before is None else f"SET lock_timeout = '{before}'"
        try:
            yield own
        except BaseException:
            # If the connection is gone, that is the error to be told of, and nothing is set on it.
            with suppress(DBAPIError, OSError):
                own.execute(back)
            raise
        own.execute(back)


def _is_whole(own: Operations, name: str, table: str, wait: timedelta) -> bool:
    """Whether the index is there and valid, once nobody builds it any more."""
    deadline = time.monotonic() + wait.total_seconds()
    while True:
        query = own.get_bind().execute(_FOUND, {"schema": SCHEMA, "name": name})
        found = query.one_or_none()
        if found is None:
            return False
        if found.on_table != table:
            raise HistoryMismatch(f"the index {name} is there, on {found.on_table}, not on {table}")
        if found.built_by is None:
            return bool(found.whole)
        if time.monotonic() >= deadline:
            raise LeaseLost(f"another session, pid {found.built_by}, builds the index {name}")
        time.sleep(0.1)


def _drop(own: Operations, name: str) -> None:
    own.execute(f'DROP INDEX CONCURRENTLY IF EXISTS {SCHEMA}."{name}"')


def _assert_whole(name: str) -> sa.TextClause:
    return sa.text(f"""DO $whole$
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_catalog.pg_index i
        WHERE i.indexrelid = to_regclass('{SCHEMA}."{name}"') AND i.indisvalid AND i.indisready
    ) THEN
        RAISE EXCEPTION USING ERRCODE = 'PC003', MESSAGE = 'the index {name} is not valid';
    END IF;
END $whole$""")
