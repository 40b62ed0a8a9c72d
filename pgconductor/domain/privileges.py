"""Which role needs what: the one place that knows, and the SQL that grants it.

Functions of ours act with the caller's privileges, so that whoever calls one needs those of its
statements. Columns are named where a part of a table is enough.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pgconductor.exceptions import InvalidInput

__all__ = ["NEEDS", "Needs", "RoleKind", "check_role", "grants", "grants_of_all"]

_SCHEMA: Final = "pgconductor"
_NAME_BYTES: Final = 63


class RoleKind(StrEnum):
    """What a role is for.

    Attributes:
        OWNER: Migrates: owns the schema and what is in it.
        RUNTIME: Orchestrators: everything that they and their handlers do, and no DDL.
        INVOKE: Invokes, waits for results, cancels and emits, and may not read payloads.
        READ: Reads everything.
        OPERATE: Reads everything, cancels, retries, forks and emits, and asks orchestrators to
            stop.
    """

    OWNER = "owner"
    RUNTIME = "runtime"
    INVOKE = "invoke"
    READ = "read"
    OPERATE = "operate"


_CREATE: Final = """\
DO <do> BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = <role>) THEN
        CREATE ROLE <name> NOLOGIN;
    END IF;
END <do>;"""

_HAND_OVER: Final = """\
DO <do> DECLARE
    command text;
BEGIN
    FOR command IN
        SELECT pg_catalog.format('TABLE %s', c.oid::regclass)
        FROM pg_catalog.pg_class c
        WHERE c.relnamespace = '<schema>'::regnamespace AND c.relkind IN ('r', 'p')
        UNION ALL
        SELECT pg_catalog.format('ROUTINE %s', p.oid::regprocedure)
        FROM pg_catalog.pg_proc p
        WHERE p.pronamespace = '<schema>'::regnamespace
        UNION ALL
        SELECT pg_catalog.format('TYPE %s', t.oid::regtype)
        FROM pg_catalog.pg_type t
        JOIN pg_catalog.pg_class c ON c.oid = t.typrelid AND c.relkind = 'c'
        WHERE t.typnamespace = '<schema>'::regnamespace
    LOOP
        EXECUTE 'ALTER ' || command || ' OWNER TO ' || <quoted name>;
    END LOOP;
END <do>;"""

# Grants are made as the schema's owner, whoever executes the script, so that the default privileges
# are those of what it makes later.
_BECOME_OWNER: Final = """\
SELECT pg_catalog.set_config('role', pg_catalog.pg_get_userbyid(nspowner), true) AS "as the owner"
FROM pg_catalog.pg_namespace WHERE nspname = '<schema>';"""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a role needs inside the schema.

    Attributes:
        tables: Privileges, by table. ``*`` is every table that is there.
        functions: Functions to execute.
        later_tables: Privileges on tables that the owner makes later.
        later_functions: Whether to execute functions that the owner makes later.
    """

    tables: Mapping[str, tuple[str, ...]]
    functions: tuple[str, ...]
    later_tables: tuple[str, ...] = ()
    later_functions: bool = False


def _on(privilege: str, *columns: str) -> str:
    return f"{privilege} ({', '.join(columns)})"


# Who calls one that calls others needs all of them.
_CALLABLE: Final = (
    "notify",
    "clock",
    "wall_clock",
    "uuidv7",
    "retained_execution",
    "join_unstarted",
    "invoke_executions",
    "invoke_batch",
    "invoke",
    "cancel_execution",
    "emit_event",
)
_READING: Final = Needs(
    tables={"*": ("SELECT",)}, functions=("clock", "wall_clock"), later_tables=("SELECT",)
)

_EMITTING: Final = _on("INSERT", "id", "name", "payload", "dedupe_key")

#: What each kind needs beside USAGE of the schema; an owner needs none of it.
NEEDS: Final[Mapping[RoleKind, Needs]] = {
    RoleKind.RUNTIME: Needs(
        tables={
            # DELETE is for retention, and for dedupe_scope="retained".
            "executions": ("SELECT", "INSERT", "UPDATE", "DELETE"),
            # A wait that has ended is written once more.
            "steps": (
                *("SELECT", "INSERT", "DELETE"),
                _on(
                    "UPDATE",
                    *("pending", "looked", "result", "error_type", "error", "event_id", "woke"),
                    "ended_at",
                ),
            ),
            "events": ("SELECT", "INSERT", _on("UPDATE", "matched"), "DELETE"),
            "orchestrators": ("SELECT", "INSERT", "UPDATE", "DELETE"),
            "tasks": ("SELECT", "INSERT", "UPDATE"),
            "queues": ("SELECT", "INSERT"),
            "retention_walk": ("SELECT", "UPDATE"),
            # Registering locks the gate's row in share mode, for which Postgres wants the right to
            # update some column: this one can have one value only.
            "schema_gate": ("SELECT", _on("UPDATE", "singleton")),
        },
        functions=(*_CALLABLE, "match_events", "settle"),
        later_tables=("SELECT", "INSERT", "UPDATE", "DELETE"),
        later_functions=True,
    ),
    RoleKind.INVOKE: Needs(
        tables={
            "executions": (
                _on(
                    "SELECT",
                    *("id", "task_key", "queue", "state", "run_at", "dedupe_key", "finished_at"),
                    *("dedupe_scope", "priority"),
                    *("awaited", "locked_by", "cancel_requested_at", "cancel_reason"),
                    *("result", "last_error", "last_error_type", "parent_id", "parent_key"),
                ),
                _on(
                    "INSERT",
                    *("id", "task_key", "queue", "payload", "run_at", "priority", "dedupe_key"),
                    *("dedupe_scope", "max_attempts", "max_crashes"),
                ),
                _on(
                    "UPDATE",
                    *("state", "finished_at", "cancel_requested_at", "cancel_reason", "awaited"),
                    # For dedupe_replace.
                    *("payload", "run_at", "priority"),
                ),
                # invoke_executions takes back what it inserted, for dedupe_scope="retained".
                "DELETE",
            ),
            "tasks": (_on("SELECT", "key", "max_attempts", "max_crashes"),),
            # One of the same dedupe key is looked for.
            "events": (_EMITTING, _on("SELECT", "id", "name", "dedupe_key")),
        },
        functions=_CALLABLE,
    ),
    RoleKind.READ: _READING,
    RoleKind.OPERATE: Needs(
        tables={
            **_READING.tables,
            "executions": (
                _on(
                    "UPDATE",
                    *("state", "run_at", "attempts", "crashes", "awaited", "parent_key"),
                    "dedupe_scope",
                    *("cancel_requested_at", "cancel_reason"),
                    *("finished_at", "finished_by", "finished_claim"),
                ),
                # A fork is a new execution.
                _on(
                    "INSERT",
                    *("id", "task_key", "queue", "payload", "priority"),
                    *("max_attempts", "max_crashes", "wakes"),
                ),
            ),
            "orchestrators": (_on("UPDATE", "shutdown_requested_at", "shutdown_reason"),),
            # A retry may drop the recorded steps, a fork copies them.
            "steps": (
                "DELETE",
                _on("UPDATE", "looked"),
                _on(
                    "INSERT",
                    *("execution_id", "key", "kind", "place", "result", "error_type", "error"),
                    *("detail", "child_id", "woke", "turn", "created_at", "ended_at"),
                ),
            ),
            "events": (_EMITTING,),
        },
        functions=(*_READING.functions, "notify", "uuidv7", "cancel_execution", "emit_event"),
        later_tables=_READING.later_tables,
    ),
}


def check_role(name: str) -> str:
    """Return a role's name if Postgres can have a role of that name.

    Args:
        name: As it is in ``pg_roles``, without quotes; upper case is kept.

    Raises:
        InvalidInput: It is empty, too long, reserved, or not printable.
    """
    if not name:
        raise InvalidInput("role", "the name is empty")
    if not name.isprintable():
        raise InvalidInput("role", f"{name!r} has a character that cannot be printed")
    try:
        length = len(name.encode())
    except UnicodeEncodeError as error:
        raise InvalidInput("role", f"{name!r} is no valid text") from error
    if length > _NAME_BYTES:
        raise InvalidInput(
            "role", f"a name has at most {_NAME_BYTES} bytes, and {name!r} has {length}"
        )
    if name in {"public", "none"} or name.startswith("pg_"):
        raise InvalidInput("role", f"Postgres keeps the name {name!r} for itself")
    return name


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    # With E'' a backslash means the same whatever standard_conforming_strings is.
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def grants(role: str, kind: RoleKind, *, create: bool = False) -> str:
    """A script that gives a role what it needs, and takes from PUBLIC what it has.

    It may be executed again, and is one transaction. The schema's owner executes it, or a member of
    that role, or a superuser; an owner's script is for a superuser, or for whoever may create
    schemas and is a member of the role.

    Args:
        role: The role's name.
        kind: What it is for.
        create: Make the role, without login, if it is not there.

    Returns:
        SQL for ``psql``.

    Raises:
        InvalidInput: No role can have that name.
    """
    check_role(role)
    body = _owner(role) if kind is RoleKind.OWNER else _others(role, NEEDS[kind])
    made = [_filled(_CREATE, role)] if create else []
    # A name may hold "--" or "*/"; it cannot hold a line's end.
    lines = [f"-- {role}: {kind.value}", "BEGIN;", *made, *body, "COMMIT;"]
    return "\n".join(lines) + "\n"


def grants_of_all(prefix: str, *, create: bool = False) -> str:
    """The scripts of all kinds, for roles named ``<prefix>_owner``, ``<prefix>_runtime`` and so on.

    Args:
        prefix: What their names begin with.
        create: As in :func:`grants`.

    Raises:
        InvalidInput: A name is none that a role can have.
    """
    scripts = [grants(f"{prefix}_{kind.value}", kind, create=create) for kind in RoleKind]
    return "\n".join(scripts)


def _filled(template: str, role: str) -> str:
    name = _identifier(role)
    parts = {
        "schema": _SCHEMA,
        "role": _literal(role),
        "name": name,
        "quoted name": _literal(name),
        "do": _dollar(role),
    }
    # In one go: a role may be named like a placeholder.
    return re.sub(r"<([a-z ]+)>", lambda found: parts[found[1]], template)


def _dollar(text: str) -> str:
    """A dollar quote that the text does not end."""
    number = 0
    while f"$do{number}" in text:
        number += 1
    return f"$do{number}$"


def _owner(role: str) -> Iterator[str]:
    name = _identifier(role)
    yield f"CREATE SCHEMA IF NOT EXISTS {_SCHEMA} AUTHORIZATION {name};"
    yield f"ALTER SCHEMA {_SCHEMA} OWNER TO {name};"
    yield f"REVOKE ALL ON SCHEMA {_SCHEMA} FROM PUBLIC;"
    yield "-- What another role has made there before; indexes go with their tables."
    yield _filled(_HAND_OVER, role)


def _others(role: str, needs: Needs) -> Iterator[str]:
    name = _identifier(role)
    yield _filled(_BECOME_OWNER, role)
    yield f"REVOKE ALL ON SCHEMA {_SCHEMA} FROM PUBLIC;"
    for objects in ("TABLES", "ROUTINES"):
        yield f"REVOKE ALL ON ALL {objects} IN SCHEMA {_SCHEMA} FROM PUBLIC;"
    yield f"GRANT USAGE ON SCHEMA {_SCHEMA} TO {name};"
    for table, privileges in needs.tables.items():
        what = f"ALL TABLES IN SCHEMA {_SCHEMA}" if table == "*" else f"{_SCHEMA}.{table}"
        yield f"GRANT {', '.join(privileges)} ON {what} TO {name};"
    functions = ", ".join(f"{_SCHEMA}.{function}" for function in needs.functions)
    yield f"GRANT EXECUTE ON FUNCTION {functions} TO {name};"
    later = f"ALTER DEFAULT PRIVILEGES IN SCHEMA {_SCHEMA} GRANT"
    if needs.later_tables:
        yield f"{later} {', '.join(needs.later_tables)} ON TABLES TO {name};"
    if needs.later_functions:
        yield f"{later} EXECUTE ON ROUTINES TO {name};"
