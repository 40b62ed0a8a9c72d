"""What is wrong with the schema itself: pure functions, as those for the rest of a database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from pgconductor.domain.diagnosis import BAD, OK, WARN, summed_up
from pgconductor.domain.health import Finding, PathReading
from pgconductor.domain.migrations import History

__all__ = ["definitions", "history", "search_path"]

_DEFINITIONS: Final = "definitions"
# What others may add to our tables, and should not; an index of theirs harms nobody.
_THEIRS: Final = frozenset({"column", "constraint", "trigger"})


def definitions(seen: Mapping[str, str], wanted: Mapping[str, str]) -> list[Finding]:
    """What was changed by hand, in comparison with what the revisions make.

    Missing indexes and storage parameters are found by checks of their own.

    Args:
        seen: The database's definitions, by kind and name.
        wanted: Those of this release's newest revision.
    """
    found = [
        Finding(BAD, _DEFINITIONS, f"{thing} is missing", _made_again(thing, wanted[thing]))
        for thing in sorted(wanted.keys() - seen.keys())
        if not thing.startswith("index ") and not wanted[thing].startswith("PRIMARY KEY")
    ]
    found += [
        _changed(thing, seen[thing], wanted[thing])
        for thing in sorted(wanted.keys() & seen.keys())
        if seen[thing] != wanted[thing]
    ]
    found += _added(seen, wanted)
    return summed_up(found, _DEFINITIONS, f"all {len(wanted)} are as the revisions make them")


def _changed(thing: str, now: str, wanted: str) -> Finding:
    kind, _, name = thing.partition(" ")
    if kind == "function":
        return Finding(BAD, _DEFINITIONS, f"{thing} was changed", _made_again(thing, wanted))
    what = f"{thing} was changed: it is {now!r}, and the revisions make {wanted!r}"
    table, _, part = name.partition(".")
    if kind == "constraint":
        advice = f"ALTER TABLE pgconductor.{table} DROP CONSTRAINT {part}; then "
        return Finding(BAD, _DEFINITIONS, what, advice + _made_again(thing, wanted))
    if kind == "index":
        advice = (
            f"make the right one under another name, with CREATE INDEX CONCURRENTLY; then drop "
            f"pgconductor.{name} and rename the new one"
        )
        return Finding(BAD, _DEFINITIONS, what, advice)
    advice = f"ALTER TABLE pgconductor.{table} has it as it was; this release relies on it"
    return Finding(BAD, _DEFINITIONS, what, advice)


def _made_again(thing: str, wanted: str) -> str:
    kind, _, name = thing.partition(" ")
    table, _, part = name.partition(".")
    if kind == "constraint" and wanted.startswith(("CHECK", "FOREIGN KEY")):
        return (
            f"ALTER TABLE pgconductor.{table} ADD CONSTRAINT {part} {wanted} NOT VALID, and then "
            f"VALIDATE CONSTRAINT {part}: it fails if rows have come that the constraint forbids"
        )
    if kind == "constraint":
        return f"ALTER TABLE pgconductor.{table} ADD CONSTRAINT {part} {wanted}"
    if kind == "function":
        return "CREATE OR REPLACE FUNCTION, with the text that `pgconductor migrate --sql` prints"
    if kind == "column":
        return f"ALTER TABLE pgconductor.{table} ADD COLUMN {part} {wanted}; its values are lost"
    return "bring it back from a backup; `pgconductor migrate --sql` prints how it is made"


def _added(seen: Mapping[str, str], wanted: Mapping[str, str]) -> Iterator[Finding]:
    functions = {thing.partition("(")[0] for thing in wanted if thing.startswith("function ")}
    ours = {_whose(thing) for thing in wanted if thing.startswith("column ")}
    for thing in sorted(seen.keys() - wanted.keys()):
        kind, _, name = thing.partition(" ")
        if kind in _THEIRS and _whose(thing) in ours:
            advice = "keep it in a table of your own: later revisions know nothing of it"
        elif thing.partition("(")[0] in functions:
            advice = f"DROP FUNCTION pgconductor.{name}: calls may mean either of the two"
        else:
            continue
        yield Finding(WARN, _DEFINITIONS, f"{thing} is made by no revision", advice)


def _whose(thing: str) -> str:
    """The table or the type that it is a part of."""
    return thing.partition(" ")[2].partition(".")[0]


def history(seen: History) -> list[Finding]:
    """Whether version table, ledger and gate say the same."""
    if seen.agrees:
        return [Finding(OK, "version table", "version table, ledger and gate agree")]
    advice = "`pgconductor migrate` changes nothing now, and says what to do"
    return [Finding(BAD, "version table", str(seen), advice)]


def search_path(seen: PathReading) -> list[Finding]:
    """Who takes our tables for others, or others' for ours.

    Args:
        seen: Of this session, and the settings.
    """
    found: list[Finding] = []
    remedy = (
        "name our tables with their schema, and set a search_path without it (ALTER ROLE or ALTER "
        "DATABASE ... SET search_path = public): see Alembic in the documentation"
    )
    if seen.own_names:
        what = f"the search_path of this session, {seen.own}, names schema pgconductor"
        if seen.own_first:
            what += " first: tables without a schema's name are made there"
        found.append(Finding(BAD if seen.own_first else WARN, "search path", what, remedy))
    elif seen.named:
        what = f"a search_path names schema pgconductor, for {'; '.join(seen.named)}"
        found.append(Finding(WARN, "search path", what, remedy))
    if seen.foreign_table:
        what = "alembic_version in schema pgconductor is not ours: another history is kept there"
        advice = (
            "give that history a search_path without pgconductor, or version_table_schema in its "
            "env.py; then ALTER TABLE pgconductor.alembic_version SET SCHEMA to where it belongs"
        )
        found.append(Finding(WARN, "search path", what, advice))
    return summed_up(found, "search path", "none names our schema")
