"""Why nothing can be recorded in an attempt any more, and what its handler can do."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

__all__ = [
    "CANCELLED",
    "GIVEN_BACK",
    "INSISTENT",
    "LATE",
    "LOST",
    "STOPPING",
    "SUSPENDED",
    "TIMED_OUT",
    "Stop",
]

#: Somebody cancelled the execution.
CANCELLED: Final = (
    "the execution is cancelled, and nothing is recorded for it any more: clean up by calls of "
    "your own; for what must happen for certain, invoke another task"
)
#: The attempt has taken longer than the task allows.
TIMED_OUT: Final = (
    "the attempt took longer than its time limit and has failed, and nothing is recorded in it any "
    "more: clean up by calls of your own; the next attempt goes on from what is on record"
)
#: The process is to stop, and this is a boundary.
STOPPING: Final = (
    "the process is to stop, and the attempt ends before whatever it was to begin: let it end; "
    "another process goes on from what is on record"
)
#: The process stops now, or has not reached its database for too long.
GIVEN_BACK: Final = (
    "the process stops or has lost its database, and the execution is given back: clean up by "
    "calls of your own, and undo nothing; another attempt goes on from what is on record"
)
#: Somebody else holds the execution by now.
LOST: Final = (
    "the execution is held by somebody else by now: clean up by calls of your own, and undo "
    "nothing; whoever holds it goes on from what is on record"
)
#: Everything in the handler waits.
SUSPENDED: Final = (
    "everything in the handler waits, and it leaves memory: let it end, and undo nothing; another "
    "attempt goes on from what is on record when something has come"
)
#: Something cannot be begun, or go on, behind the end of its handler.
LATE: Final = "the attempt has ended: a handler must await what it begins"
#: It has been told often enough.
INSISTENT: Final = "the handler goes on asking for what it is refused: let it end"


class Stop(StrEnum):
    """Why an attempt is ended from outside.

    Attributes:
        CANCELLED: Somebody cancelled the execution.
        INTERRUPTED: The process stops, or has lost the database for too long; it is given back.
        LOST: The execution belongs to somebody else; nothing is reported.
    """

    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    LOST = "lost"

    @property
    def why(self) -> str:
        """What the handler is told that would record something."""
        return {Stop.CANCELLED: CANCELLED, Stop.INTERRUPTED: GIVEN_BACK, Stop.LOST: LOST}[self]
