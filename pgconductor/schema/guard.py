"""The guard that travels with the revisions, in SQL that a script made with ``--sql`` has too.

Whoever applies a revision meets it: our environment, an application's own, a DBA with psql. It
refuses, and nothing is changed, if the revision before is not there, if another migration is at
work, or if orchestrators are registered that the revision shuts out. For a breaking revision it
locks the gate first, and the lock stays until the revision commits, so that nobody registers
between the count and the change.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from pgconductor.exceptions import HistoryMismatch, LeaseLost, MigrationError, NotDrained
from pgconductor.models import SCHEMA
from pgconductor.schema.metadata import Revision

__all__ = [
    "FORCE",
    "LEASE",
    "LEASE_LOST",
    "NOT_DRAINED",
    "UNHELD",
    "WRONG_HISTORY",
    "guard_downgrade",
    "guard_upgrade",
    "refusals",
]

#: The session setting by which a migration that holds the lease is known to the guard.
LEASE: Final = "pgconductor.lease"
#: The session setting by which a DBA applies a breaking revision whoever is registered.
FORCE: Final = "pgconductor.force"

# SQLSTATEs of the guard, in a class that Postgres does not use.
LEASE_LOST: Final = "PC001"
NOT_DRAINED: Final = "PC002"
WRONG_HISTORY: Final = "PC003"

# While there is no gate, two who install must not do so at once. Known to nobody else: the number
# is arbitrary, and advisory locks belong to one database.
_INSTALLING: Final = 6_220_117_031_880_514_301

# With an older snapshot than the lock, who has just registered would not be counted.
_READ_COMMITTED: Final = """
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION USING ERRCODE = '25001',
            MESSAGE = 'revisions of pgconductor must be applied in transactions that are READ'
            ' COMMITTED';
    END IF;"""

_ALIVE: Final = """EXISTS (
        SELECT FROM pg_catalog.pg_stat_activity a
        WHERE a.pid = gate.lease_pid
          AND a.application_name = concat('pgconductor-migrate/', gate.lease_id)
    )"""
_AT_WORK: Final = """RAISE EXCEPTION USING ERRCODE = 'PC001', MESSAGE = concat(
            'another migration is at work: ', gate.lease_holder, ', since ', gate.lease_since);"""
_HOLDER: Final = f"""
    IF coalesce(current_setting('pgconductor.lease', true), '') <> '' THEN
        IF gate.lease_id::text IS DISTINCT FROM current_setting('pgconductor.lease', true) THEN
            RAISE EXCEPTION USING ERRCODE = 'PC001', MESSAGE = concat(
                'the lease of this migration was taken over by ',
                coalesce(gate.lease_holder, 'another, which has ended'));
        END IF;
    ELSIF {_ALIVE} THEN
        {_AT_WORK}
    END IF;
"""
#: For a stamp: the body of a block with a record called gate, where the tables are there.
UNHELD: Final = f"""
    SELECT * INTO gate FROM {SCHEMA}.schema_gate;
    IF {_ALIVE} THEN
        {_AT_WORK}
    END IF;"""  # noqa: S608 - a name of ours


def guard_upgrade(revision: Revision) -> sa.TextClause:
    """What must hold before a revision is applied.

    Args:
        revision: Which one.
    """
    if revision.version == 1:
        return _block(f"""

BEGIN
    IF NOT pg_catalog.pg_try_advisory_xact_lock({_INSTALLING}) THEN
        RAISE EXCEPTION USING ERRCODE = '55P03',
            MESSAGE = 'another session is installing pgconductor';
    END IF;
    IF to_regclass('{SCHEMA}.schema_gate') IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = '{WRONG_HISTORY}',
            MESSAGE = 'the tables of pgconductor are there, and the version table does not say so';
    END IF;
END""")
    excluded = f"o.schema_version < {revision.version}" if revision.breaking else None
    return _gate_guard(
        at=revision.version - 1,
        what=f"revision {revision.version:04d}",
        excluded=excluded,
        hint="they must stop first: `alembic upgrade` with the environment of pgconductor, or"
        " `pgconductor migrate`, asks them to and waits",
    )


def guard_downgrade(revision: Revision) -> sa.TextClause:
    """What must hold before a revision is taken back.

    Args:
        revision: Which one.
    """
    return _gate_guard(
        at=revision.version,
        what=f"the way back from revision {revision.version:04d}",
        excluded=f"o.schema_required >= {revision.version}",
        hint="they cannot work without it, and must stop first",
    )


def _gate_guard(*, at: int, what: str, excluded: str | None, hint: str) -> sa.TextClause:
    # Only a breaking one locks from the beginning: under a long other one, orchestrators start.
    lock = " FOR NO KEY UPDATE" if excluded else ""
    drained = "" if excluded is None else _drained(what, excluded, hint)
    committed = "" if excluded is None else _READ_COMMITTED
    return _block(f"""
DECLARE
    gate record;
    there text;
BEGIN{committed}
    SELECT * INTO gate FROM {SCHEMA}.schema_gate{lock};
    IF gate.installed IS DISTINCT FROM {at} THEN
        RAISE EXCEPTION USING ERRCODE = '{WRONG_HISTORY}', MESSAGE = concat(
            '{what} needs a database at {at:04d}, and this one says ',
            coalesce(gate.installed::text, 'nothing'));
    END IF;{_HOLDER}{drained}
END""")  # noqa: S608 - whole numbers and words of ours


def _drained(what: str, excluded: str, hint: str) -> str:
    # concat, not format: a script's dialect may double the per cent signs.
    return f"""
    SELECT string_agg(concat('orchestrator ', o.id, ' (release ', o.version, ', revision ',
        o.schema_version, ', host ', o.hostname, ', pid ', o.pid, ')'), ', ' ORDER BY o.started_at)
    INTO there
    FROM {SCHEMA}.orchestrators o WHERE {excluded};
    IF there IS NOT NULL AND coalesce(current_setting('{FORCE}', true), '') = '' THEN
        RAISE EXCEPTION USING ERRCODE = '{NOT_DRAINED}', MESSAGE = concat(
            '{what} shuts out: ', there, '; {hint}');
    END IF;"""  # noqa: S608 - whole numbers and words of ours


def _block(body: str) -> sa.TextClause:
    return sa.text(f"DO $guard${body} $guard$".replace(":", r"\:"))


@contextmanager
def refusals() -> Generator[None]:
    """Raise what the guard says as an error of its own type.

    Raises:
        LeaseLost: Another migration is at work, or has taken over.
        NotDrained: Orchestrators that the revision shuts out are registered.
        HistoryMismatch: The database is not where the revision begins.
    """
    kinds: dict[str | None, type[MigrationError]] = {
        LEASE_LOST: LeaseLost,
        NOT_DRAINED: NotDrained,
        WRONG_HISTORY: HistoryMismatch,
    }
    try:
        yield
    except DBAPIError as error:
        # psycopg2, in an application's own environment, has another name for it.
        state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
        kind = kinds.get(state)
        if kind is None:
            raise
        raise kind(_said(error)) from error


def _said(error: DBAPIError) -> str:
    # SQLAlchemy's adapter of asyncpg puts the class of the driver's error in front.
    first = str(error.orig).partition("\n")[0]
    return first.rpartition(">: ")[2]
