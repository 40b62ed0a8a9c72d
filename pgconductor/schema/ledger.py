"""The ledger and the gate, kept in the transaction of the revision that they tell of."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from pgconductor.models import SCHEMA
from pgconductor.schema.guard import UNHELD, WRONG_HISTORY
from pgconductor.schema.metadata import Revision

__all__ = ["entry", "recorded", "stamped", "struck_out"]


def recorded(revision: Revision) -> Iterable[sa.TextClause]:
    """Statements that record an applied revision.

    Args:
        revision: Which one.
    """
    floor = revision.version if revision.breaking else 0
    yield sa.text(
        entry(
            revision,
            "UPDATE SET name = excluded.name, breaking = excluded.breaking,"
            " applied_at = excluded.applied_at",
        )
    )
    if revision.version == 1:
        yield sa.text(
            f"INSERT INTO {SCHEMA}.schema_gate (installed, floor) VALUES (1, {floor})"  # noqa: S608 - a number
        )
        return
    yield _block(f"""
    UPDATE {SCHEMA}.schema_gate SET installed = {revision.version}, floor = greatest(floor, {floor})
    WHERE installed = {revision.version - 1};
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '{WRONG_HISTORY}',
            MESSAGE = 'another session has changed the revision meanwhile';
    END IF;""")  # noqa: S608 - numbers


def struck_out(revision: Revision) -> Iterable[sa.TextClause]:
    """Statements that record that a revision was taken back.

    Args:
        revision: Which one; with the first, ledger and gate go too.
    """
    if revision.version > 1:
        yield sa.text(
            f"DELETE FROM {SCHEMA}.schema_migrations WHERE version >= {revision.version}"  # noqa: S608 - a number
        )
        yield _gate(revision.version - 1)


def stamped(known: Iterable[Revision], top: int) -> sa.TextClause:
    """The statement that makes ledger and gate say what the version table was told to say.

    Where the tables are not there, as when an empty database is stamped, it does nothing.

    Args:
        known: All revisions.
        top: The revision that was stamped.
    """
    entries = (entry(one, "NOTHING") for one in known if one.version <= top)
    statements = [
        f"DELETE FROM {SCHEMA}.schema_migrations WHERE version > {top}",  # noqa: S608 - a number
        *entries,
        str(_gate(top)).replace(r"\:", ":"),
    ]
    return sa.text(
        "DO $ledger$ DECLARE gate record; BEGIN"
        f" IF to_regclass('{SCHEMA}.schema_migrations') IS NOT NULL THEN"
        f" {UNHELD.replace(':', chr(92) + ':')} {'; '.join(statements)}; END IF;"
        " END $ledger$"
    )


def entry(revision: Revision, otherwise: str) -> str:
    """The statement that writes a revision into the ledger.

    Args:
        revision: Which one.
        otherwise: What to do if it is there.
    """
    # Literals, so that --sql renders them too; all come from a checked file of ours.
    return (
        f"INSERT INTO {SCHEMA}.schema_migrations (version, name, breaking)"  # noqa: S608 - checked
        f" VALUES ({revision.version}, {_quoted(revision.name)}, {revision.breaking})"
        f" ON CONFLICT (version) DO {otherwise}"
    )


def _gate(top: int) -> sa.TextClause:
    return sa.text(
        f"INSERT INTO {SCHEMA}.schema_gate (installed, floor)"  # noqa: S608 - a number
        f" SELECT {top}, coalesce(max(version) FILTER (WHERE breaking), 0)"
        f" FROM {SCHEMA}.schema_migrations"
        " ON CONFLICT (singleton) DO UPDATE"
        " SET installed = excluded.installed, floor = excluded.floor"
    )


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''").replace(":", r"\:") + "'"


def _block(body: str) -> sa.TextClause:
    return sa.text(f"DO $ledger$ BEGIN{body} END $ledger$")
