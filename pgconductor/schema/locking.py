"""How a revision takes the locks of several tables, so that it is never what others lose to.

A statement of an orchestrator holds one of our tables and goes on to another. A revision that holds
the second and waits for the first makes a deadlock with it, and the server ends whoever notices
first: the orchestrator's transaction, whose wait began earlier. So a revision never waits for a
table while it holds another.
"""

from __future__ import annotations

from typing import Final, Protocol

import sqlalchemy as sa

from pgconductor.models import SCHEMA, Base

__all__ = ["TAKING", "lock_tables"]

#: How the statement begins; the linter knows it by that.
TAKING: Final = "DO $pgconductor_locks$"

# A try that fails gives back what it has taken, by the end of its block, and the next one begins
# with another table: of those who hold one and go on to another, some begin with this one and some
# with that, and those who begin where the revision does are simply behind it.
#
# Whoever vacuums a table gives way to a lock that is waited for, after deadlock_timeout, and to
# nobody who does not wait; so that is done before there is a lock to hold meanwhile.
#
# Should the revision wait for anything else later, it gives up before anybody finds a deadlock.
_TEMPLATE: Final = """{taking}
DECLARE
    v_tables text[] := ARRAY[{tables}];
    v_deadlock constant integer := (
        SELECT s.setting::integer FROM pg_catalog.pg_settings s WHERE s.name = 'deadlock_timeout'
    );
    v_end timestamptz;
    v_until timestamptz;
    v_name text;
BEGIN
    FOREACH v_name IN ARRAY v_tables LOOP
        IF EXISTS (
            SELECT FROM pg_catalog.pg_locks l
            WHERE l.relation = pg_catalog.to_regclass('{schema}.' || v_name)
              AND l.mode = 'ShareUpdateExclusiveLock'
        ) THEN
            BEGIN
                EXECUTE pg_catalog.format(
                    'LOCK TABLE {schema}.%I IN ACCESS EXCLUSIVE MODE', v_name);
                RAISE EXCEPTION USING ERRCODE = 'PC009';
            EXCEPTION WHEN SQLSTATE 'PC009' THEN
                NULL;
            END;
        END IF;
    END LOOP;
    v_end := pg_catalog.clock_timestamp() + 2 * v_deadlock * interval '1 millisecond';
    <<tries>>
    LOOP
        BEGIN
            EXECUTE pg_catalog.format(
                'LOCK TABLE {schema}.%I IN ACCESS EXCLUSIVE MODE', v_tables[1]);
            v_until := pg_catalog.clock_timestamp() + interval '50 milliseconds';
            FOREACH v_name IN ARRAY v_tables[2:] LOOP
                LOOP
                    BEGIN
                        EXECUTE pg_catalog.format(
                            'LOCK TABLE {schema}.%I IN ACCESS EXCLUSIVE MODE NOWAIT', v_name);
                        EXIT;
                    EXCEPTION WHEN lock_not_available THEN
                        IF pg_catalog.clock_timestamp() > v_until THEN
                            RAISE;
                        END IF;
                    END;
                    PERFORM pg_catalog.pg_sleep(0.002);
                END LOOP;
            END LOOP;
            EXIT tries;
        EXCEPTION WHEN lock_not_available THEN
            IF pg_catalog.clock_timestamp() > v_end THEN
                RAISE;
            END IF;
        END;
        v_tables := v_tables[2:] || v_tables[1];
        PERFORM pg_catalog.pg_sleep(0.1 * pg_catalog.random());
    END LOOP;
    PERFORM pg_catalog.set_config('lock_timeout', greatest(v_deadlock / 2, 1) || 'ms', true);
END
$pgconductor_locks$"""


class Executes(Protocol):
    """What ``alembic.op`` does for it."""

    def execute(self, sqltext: sa.Executable | str, /) -> None:
        """Execute a statement, or write it into the script."""
        ...


def lock_tables(op: Executes, *tables: str) -> None:
    """Take all the tables that a revision changes, first of all and together, or none.

    One is waited for, as long as ``lock_timeout`` says, while none is held. The others are asked
    for without waiting, for 50 milliseconds; if they are not to be had, all are given back, and it
    begins again with another, for twice the server's ``deadlock_timeout``. Then the statement fails
    with ``55P03``, as one that has waited for too long does: the revision is rolled back, and tried
    again by whoever applies it.

    Call it inside :func:`~pgconductor.schema.applying.applying` or ``reverting``, before anything
    else, wherever more than one of our tables is altered, or is referred to by a foreign key.

    Args:
        op: Alembic's operations.
        tables: Their names, without the schema.

    Raises:
        ValueError: No table is named, or one that is not ours.
    """
    known = {table.name for table in Base.metadata.sorted_tables}
    if not tables or not known.issuperset(tables):
        raise ValueError(f"tables of pgconductor are due, not {', '.join(tables) or 'none'}")
    ordered = sorted(set(tables), reverse=True)
    statement = _TEMPLATE.format(
        taking=TAKING, schema=SCHEMA, tables=", ".join(f"'{name}'" for name in ordered)
    )
    op.execute(sa.text(statement))
