"""What older releases can see of the schema, as Postgres itself describes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

__all__ = ["SMALL", "Surface", "read_surface"]

#: Tables of some dozens of rows: what takes time on a large one takes none there.
SMALL: Final = frozenset(
    {"orchestrators", "pgconductor_version", "queues", "retention_walk", "schema_gate"}
    | {"schema_migrations", "tasks"}
)

# Kind, name, what it says. An index that backs a constraint is told of by the constraint; whether
# a constraint is validated concerns nobody but the planner.
_QUERIES: Final = (
    """
    SELECT 'table', c.relname, c.relkind::text FROM pg_class c
    WHERE c.relnamespace = 'pgconductor'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
    """,
    """
    SELECT 'column', concat(c.relname, '.', a.attname), format_type(a.atttypid, a.atttypmod)
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    WHERE c.relnamespace = 'pgconductor'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm')
      AND a.attnum > 0 AND NOT a.attisdropped
    """,
    """
    SELECT 'default', concat(c.relname, '.', a.attname),
        concat(pg_get_expr(d.adbin, d.adrelid), a.attidentity)
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE c.relnamespace = 'pgconductor'::regnamespace
      AND c.relkind IN ('r', 'p') AND NOT a.attisdropped
      AND (d.oid IS NOT NULL OR a.attidentity <> '')
    """,
    """
    SELECT 'not null', concat(c.relname, '.', a.attname), ''
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    WHERE c.relnamespace = 'pgconductor'::regnamespace
      AND c.relkind IN ('r', 'p') AND a.attnotnull AND a.attnum > 0
    """,
    """
    SELECT 'constraint', concat(c.relname, '.', k.conname),
        replace(pg_get_constraintdef(k.oid), ' NOT VALID', '')
    FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
    WHERE k.connamespace = 'pgconductor'::regnamespace AND k.contype <> 'n'
    """,
    """
    SELECT 'index', concat(t.relname, '.', c.relname), pg_get_indexdef(i.indexrelid)
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
    WHERE c.relnamespace = 'pgconductor'::regnamespace
      AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid)
    """,
    """
    SELECT 'trigger', concat(c.relname, '.', t.tgname), pg_get_triggerdef(t.oid)
    FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
    WHERE c.relnamespace = 'pgconductor'::regnamespace
      AND NOT t.tgisinternal AND t.tgname <> 'pgconductor_lint'
    """,
    """
    SELECT 'function', concat(p.proname, '(', pg_get_function_identity_arguments(p.oid), ')'),
        concat('(', pg_get_function_arguments(p.oid), ') ', pg_get_function_result(p.oid))
    FROM pg_proc p WHERE p.pronamespace = 'pgconductor'::regnamespace
    """,
    """
    SELECT 'type', t.typname, concat(
        (SELECT string_agg(concat(a.attname, ' ', format_type(a.atttypid, a.atttypmod)), ', '
            ORDER BY a.attnum)
         FROM pg_attribute a WHERE a.attrelid = t.typrelid AND NOT a.attisdropped),
        (SELECT string_agg(quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder)
         FROM pg_enum e WHERE e.enumtypid = t.oid),
        CASE WHEN t.typtype = 'd' THEN concat(format_type(t.typbasetype, t.typtypmod),
            CASE WHEN t.typnotnull THEN ' NOT NULL' END, (
                SELECT string_agg(concat(' ', pg_get_constraintdef(k.oid)), '' ORDER BY k.conname)
                FROM pg_constraint k WHERE k.contypid = t.oid AND k.contype <> 'n'))
        END)
    FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid
    WHERE t.typnamespace = 'pgconductor'::regnamespace AND t.typcategory <> 'A'
      AND (c.oid IS NULL OR c.relkind = 'c')
    """,
)
_FILES: Final = sa.text("""
    SELECT c.relname, CAST(c.oid AS bigint), CAST(c.relfilenode AS bigint) FROM pg_class c
    WHERE c.relnamespace = CAST('pgconductor' AS regnamespace) AND c.relkind = 'r'
""")


@dataclass(frozen=True, slots=True)
class Surface:
    """A schema at one moment.

    Attributes:
        things: By kind and name, what each is.
        tables: By name, a table's oid and the file that holds its rows.
    """

    things: dict[tuple[str, str], str]
    tables: dict[str, tuple[int, int]]

    def large(self) -> set[str]:
        """Names of the tables that may be large."""
        return set(self.tables) - SMALL

    def holds_table(self, thing: str) -> bool:
        """Whether there is a table for what is named after it, as ``executions.queue`` is."""
        return ("table", thing.partition(".")[0]) in self.things

    def differences(self, other: Surface) -> list[str]:
        """Kinds and names of what is there in one only, or is not the same."""
        differing = self.things.items() ^ other.things.items()
        return sorted({f"{kind} {name}" for (kind, name), _ in differing})

    def signatures(self, function: str) -> Iterator[str]:
        """Those of all functions that have the name of this one."""
        name = function.partition("(")[0]
        return (
            other
            for kind, other in self.things
            if kind == "function" and other.partition("(")[0] == name
        )


def read_surface(connection: sa.Connection) -> Surface:
    """Read our schema.

    Args:
        connection: Where.
    """
    rows: list[Any] = []
    for query in _QUERIES:
        rows += connection.execute(sa.text(query.replace(":", r"\:"))).all()
    things = {(kind, name): says for kind, name, says in rows}
    tables = {name: (oid, file) for name, oid, file in connection.execute(_FILES)}
    return Surface(things, tables)
