"""The revisions: where they are, what they declare, the guard and the ledger that go with them.

What a user's own Alembic needs is here too: :func:`include_name`, :func:`script_location` and
:func:`alembic_config`.
"""

from pgconductor.models import SCHEMA
from pgconductor.schema.applying import applying, record_stamp, reverting
from pgconductor.schema.locations import alembic_config, include_name, script_location, sql_file
from pgconductor.schema.locking import lock_tables
from pgconductor.schema.metadata import Revision, revisions

__all__ = [
    "SCHEMA",
    "Revision",
    "alembic_config",
    "applying",
    "include_name",
    "lock_tables",
    "record_stamp",
    "reverting",
    "revisions",
    "script_location",
    "sql_file",
]
