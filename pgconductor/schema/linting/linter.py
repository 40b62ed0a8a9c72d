"""Applies revisions one after the other, there and back and there again, and compares."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import sqlalchemy as sa
from alembic.config import Config
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import DBAPIError

from pgconductor.models import SCHEMA
from pgconductor.schema.linting.rendering import look_at_scripts
from pgconductor.schema.linting.rules import Finding, answered
from pgconductor.schema.linting.surface import Surface, read_surface
from pgconductor.schema.linting.watching import watch
from pgconductor.schema.locations import script_location
from pgconductor.schema.metadata import Revision, revisions

__all__ = ["lint"]


def lint(engine: sa.Engine, location: Path | None = None, *, since: int = 0) -> list[Finding]:
    """Look at every revision; after the first, also at what it does to a database in use.

    Args:
        engine: An engine with psycopg, of a database that nobody uses; it is left at the newest
            revision.
        location: Another folder than ours.
        since: The revision that the database is at; only later ones are looked at.

    Returns:
        What was found, revision by revision, with the answers that revisions give.

    Raises:
        RevisionMetadataError: A revision does not declare what it must.
    """
    config = Config()
    place = str(location or script_location()).replace("%", "%%")
    config.set_main_option("script_location", place)
    scripts = reversed(list(ScriptDirectory.from_config(config).walk_revisions()))
    found: list[Finding] = []
    with engine.connect() as connection:
        with connection.begin():
            connection.execute(sa.text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
        for revision, script in zip(revisions(location), scripts, strict=True):
            if revision.version > since:
                found += _lint_one(connection, revision, script.module)
    return found


def _lint_one(connection: sa.Connection, revision: Revision, module: ModuleType) -> list[Finding]:
    version = revision.version
    found = list(look_at_scripts(revision, module))
    before = _surface(connection)
    if version == 1:
        _run(connection, module.upgrade)
    else:
        with watch(connection, before) as seen:
            _run(connection, module.upgrade)
        seen += compared(before, _surface(connection))
        found += [Finding(version, rule, what) for rule, what in dict.fromkeys(seen)]
        if not revision.irreversible:
            found += _there_and_back(connection, revision, module, before)
    answers = getattr(module, "safe_because", None)
    return answered(found, version, breaking=revision.breaking, answers=answers)


def _there_and_back(
    connection: sa.Connection, revision: Revision, module: ModuleType, before: Surface
) -> Iterator[Finding]:
    applied = _surface(connection)
    try:
        _run(connection, module.downgrade)
    except DBAPIError as error:
        yield Finding(revision.version, "way back", f"it raises {error.orig}")
        return
    if left := _surface(connection).differences(before):
        yield Finding(revision.version, "way back", f"it leaves another {left[0]}")
    _run(connection, module.upgrade)
    if left := _surface(connection).differences(applied):
        yield Finding(revision.version, "way back", f"applied again, it makes another {left[0]}")


def compared(before: Surface, after: Surface) -> Iterator[tuple[str, str]]:
    """What older releases lose.

    Args:
        before: What they know.
        after: What a revision made of it.
    """
    for (kind, name), said in before.things.items():
        if kind == "not null" or (kind == "default" and ("column", name) not in after.things):
            continue
        says = after.things.get((kind, name))
        if says is None:
            # Whatever belonged to a table has gone with it.
            if kind in {"table", "function", "type"} or after.holds_table(name):
                yield "gone", f"{kind} {name}"
        elif says != said:
            yield "changed", f"{kind} {name}: {said} -> {says}"
    yield from _added(before, after)
    for name, (oid, file) in before.tables.items():
        if after.tables.get(name, (0, 0))[0] == oid and after.tables[name][1] != file:
            yield "rewritten", f"table {name}"


def _added(before: Surface, after: Surface) -> Iterator[tuple[str, str]]:
    for kind, name in after.things.keys() - before.things.keys():
        if kind == "function" and any(before.signatures(name)):
            yield "overloaded", f"function {name}"
        unfilled = kind == "not null" and ("default", name) not in after.things
        if unfilled and before.holds_table(name) and ("column", name) not in before.things:
            yield "required", f"column {name}"


def _surface(connection: sa.Connection) -> Surface:
    with connection.begin():
        return read_surface(connection)


def _run(connection: sa.Connection, way: Callable[[], None]) -> None:
    context = MigrationContext.configure(connection=connection)
    with Operations.context(context), context.begin_transaction():
        way()
