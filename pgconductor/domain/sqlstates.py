"""What an SQLSTATE says of who is at fault: what was sent, others, or the server."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

__all__ = ["CAUSES", "Cause", "cause_of"]


class Cause(StrEnum):
    """Why the server has refused a statement.

    Only a :attr:`VALUE` can be an outcome's own fault, and only where the statement held nothing
    else. Whatever the others say, what a handler has done is kept, and written later.

    Attributes:
        VALUE: Something that was sent cannot be stored: it never will be.
        RULE: A constraint or a trigger refused some row, perhaps because of other rows.
        SLOW: It took too long, or took too much memory: a smaller one may pass.
        LOCKED: It waited too long for a lock, of a row above all: what is about other rows passes.
        CONFLICT: Another transaction was in the way: the same one may pass if it is made again.
        AWAY: The server is out of reach, stops, starts, has no connection left, or is a standby.
        FULL: A disk is full, or the queue of notifications.
        SCHEMA: It names what is not there, as during a migration.
        OTHER: Anything else: a missing privilege, a mistake of ours, a broken server.
    """

    VALUE = "value"
    RULE = "rule"
    SLOW = "slow"
    LOCKED = "locked"
    CONFLICT = "conflict"
    AWAY = "away"
    FULL = "full"
    SCHEMA = "schema"
    OTHER = "other"

    @property
    def of_some(self) -> bool:
        """Whether it may be about some of what was sent, so that the rest passes without."""
        return self not in {Cause.CONFLICT, Cause.AWAY, Cause.FULL}


#: By code, or by class: the first two characters. docs/operating.md has it as a table.
CAUSES: Final[Mapping[str, Cause]] = {
    "08": Cause.AWAY,  # connection exception
    "09": Cause.RULE,  # triggered action exception
    "0A000": Cause.SCHEMA,  # feature not supported: a cached plan whose result has changed
    "22": Cause.VALUE,  # data exception
    "23": Cause.RULE,  # integrity constraint violation: other rows may be what is in the way
    "23502": Cause.VALUE,  # not null violation
    "23514": Cause.VALUE,  # check violation
    "25006": Cause.AWAY,  # read only transaction: the server has become a standby
    "27": Cause.RULE,  # triggered data change violation
    "38": Cause.RULE,  # external routine exception
    "39": Cause.RULE,  # external routine invocation exception
    "3F000": Cause.SCHEMA,  # invalid schema name
    "40": Cause.CONFLICT,  # transaction rollback: serialization failure, deadlock
    "42703": Cause.SCHEMA,  # undefined column
    "42883": Cause.SCHEMA,  # undefined function
    "42P01": Cause.SCHEMA,  # undefined table
    "44": Cause.RULE,  # with check option violation
    "53": Cause.FULL,  # insufficient resources: a disk, above all
    "53200": Cause.SLOW,  # out of memory
    "53300": Cause.AWAY,  # too many connections
    "53400": Cause.AWAY,  # configuration limit exceeded
    "54": Cause.VALUE,  # program limit exceeded: nested too deeply, too many columns
    "55P03": Cause.LOCKED,  # lock not available
    "57014": Cause.SLOW,  # query canceled: a statement time-out
    "57P01": Cause.AWAY,  # admin shutdown
    "57P02": Cause.AWAY,  # crash shutdown
    "57P03": Cause.AWAY,  # cannot connect now
    "57P05": Cause.AWAY,  # idle session timeout
    "P0": Cause.RULE,  # PL/pgSQL error
    "P0001": Cause.VALUE,  # raise exception: a trigger says no to this row
}
_LIMIT: Final = "54000"
_NOTIFYING: Final = "async.c"


def cause_of(sqlstate: str, source: str | None = None) -> Cause:
    """Why a statement was refused.

    Args:
        sqlstate: The server's code.
        source: The file of the server's source that raised it, if it is known. ``54000`` is the
            code of a full queue of notifications and of values that are too large for an index; the
            server's words for either depend on its language.
    """
    if sqlstate == _LIMIT and source in {None, _NOTIFYING}:
        return Cause.FULL
    return CAUSES.get(sqlstate) or CAUSES.get(sqlstate[:2]) or Cause.OTHER
