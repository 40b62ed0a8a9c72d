"""What Postgres says that a revision does: locks, scans, builds, rows written.

Parsing statements would be guessing at that, and would miss what DO blocks do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event

from pgconductor.models import SCHEMA
from pgconductor.schema.linting.surface import Surface
from pgconductor.schema.locking import TAKING

__all__ = ["watch"]

_OWN_SCHEMA: Final = "pgconductor_lint"
_TRIGGER: Final = f"""
    CREATE SCHEMA IF NOT EXISTS {_OWN_SCHEMA};
    CREATE OR REPLACE FUNCTION {_OWN_SCHEMA}.tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE DEBUG '% of "%"', tg_op, tg_table_name; RETURN NULL;
    END $$
"""
# Against readers, or against writers; the lighter ones get along with both.
_HEAVY: Final = "'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'"
_LOCKS: Final = f"""
    SELECT l.relation::bigint, l.mode FROM pg_catalog.pg_locks l
    WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.granted
      AND l.mode IN ({_HEAVY})
"""  # noqa: S608 - words of ours
# Postgres's own messages at DEBUG1, and that of the trigger.
_SCANS: Final = re.compile(
    r'verifying table "(?P<verified>.+)"|validating foreign key constraint "(?P<key>.+)"'
    r'|building index ".+" on table "(?P<built>.+?)"|(?P<command>UPDATE|DELETE) of "(?P<of>.+)"'
)


class _Watcher:
    """Notes what happens on one connection, a transaction at a time."""

    def __init__(self, before: Surface) -> None:
        self._names = {oid: name for name, (oid, _) in before.tables.items()}
        self._large = before.large()
        self._messages: list[str] = []
        self._held: set[tuple[str, str]] = set()
        self._taken: set[str] = set()
        self.seen: list[tuple[str, str]] = []

    def hear(self, diagnostic: Any) -> None:
        """A message of the server's."""
        self._messages.append(str(diagnostic.message_primary))

    def locks(self, driver: Any) -> set[tuple[str, str]]:
        """Heavy locks on large tables that were there before, as table and mode."""
        found = driver.execute(_LOCKS).fetchall()
        named = ((self._names.get(oid), mode) for oid, mode in found)
        return {(name, mode) for name, mode in named if name is not None and name in self._large}

    def before_statement(self, connection: sa.Connection, *_: Any) -> None:
        driver = _driver(connection)
        if not driver.autocommit:
            self._held = self.locks(driver)

    def after_statement(
        self, connection: sa.Connection, _cursor: Any, statement: str, *_: Any
    ) -> None:
        driver = _driver(connection)
        if statement.startswith(TAKING):
            # Too late if it holds one already.
            self._taken = {name for name, _ in self.locks(driver) - self._held}
            return
        # Others take locks for what they do; these take them for the sake of it, or out of sight.
        if driver.autocommit or statement.split(None, 1)[0].upper() not in {"LOCK", "DO"}:
            return
        for name, mode in sorted(self.locks(driver) - self._held):
            self.seen.append(("locked", f"{mode} on {name}"))

    def before_commit(self, connection: sa.Connection) -> None:
        driver = _driver(connection)
        if not driver.autocommit:
            self.seen += self._judge(self._messages, self.locks(driver))
        self._messages.clear()
        self._taken.clear()

    def _judge(
        self, messages: Iterable[str], held: set[tuple[str, str]]
    ) -> Iterator[tuple[str, str]]:
        blocked = ", ".join(f"{mode} on {name}" for name, mode in sorted(held))
        tables = {name for name, _ in held}
        if len(tables) > 1 and not tables <= self._taken:
            yield "together", blocked
        for found in filter(None, map(_SCANS.match, messages)):
            if found["of"] in self._large:
                yield "rows", f"{found['command']} of {found['of']}"
            if not blocked:
                continue
            if found["verified"] in self._large:
                yield "scanned", f"{found['verified']} is read under {blocked}"
            if found["key"]:
                yield "scanned", f"the rows for {found['key']} are read under {blocked}"
            if found["built"] in self._large:
                yield "built", f"an index on {found['built']} is built under {blocked}"


def _driver(connection: sa.Connection) -> Any:
    return connection.connection.driver_connection


@contextmanager
def watch(connection: sa.Connection, before: Surface) -> Generator[list[tuple[str, str]]]:
    """Note what is done on a connection of psycopg.

    Args:
        connection: Which; in no transaction.
        before: The schema as it is.

    Yields:
        Rules and what was done; complete at the end.
    """
    with connection.begin():
        connection.execute(sa.text(_TRIGGER))
        for table in before.large():
            connection.execute(
                sa.text(
                    f"CREATE OR REPLACE TRIGGER pgconductor_lint BEFORE UPDATE OR DELETE"
                    f" ON {SCHEMA}.{table} EXECUTE FUNCTION {_OWN_SCHEMA}.tell()"
                )
            )
        connection.execute(sa.text("SET client_min_messages = debug1"))
        connection.execute(sa.text("SET lc_messages = 'C'"))
    watcher = _Watcher(before)
    driver = _driver(connection)
    listeners: dict[str, Callable[..., None]] = {
        "before_cursor_execute": watcher.before_statement,
        "after_cursor_execute": watcher.after_statement,
        "commit": watcher.before_commit,
    }
    driver.add_notice_handler(watcher.hear)
    for name, listener in listeners.items():
        event.listen(connection, name, listener)
    try:
        yield watcher.seen
    finally:
        for name, listener in listeners.items():
            event.remove(connection, name, listener)
        driver.remove_notice_handler(watcher.hear)
