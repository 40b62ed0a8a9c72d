"""How an attempt ended, as its owner reports it, and what the database made of the report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from itertools import islice
from typing import Final
from uuid import UUID

from pgconductor.domain.claims import Claim
from pgconductor.domain.failures import leaves, members, message_of, name_of, stack_of, storable
from pgconductor.domain.limits import MAX_ERROR_CHARS, MAX_TRACEBACK_CHARS
from pgconductor.types import ExecutionState

__all__ = [
    "Completed",
    "Disposition",
    "Failed",
    "Failure",
    "Outcome",
    "Released",
    "Suspended",
    "Verdict",
    "unstorable",
]


#: How many errors of a group are told of.
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as it is stored.

    Attributes:
        type: Name of the error's type.
        message: Its message.
        traceback: The formatted stack, or None.
    """

    type: str
    message: str
    traceback: str | None = None

    @classmethod
    def from_exception(cls, error: BaseException) -> Failure:
        """Describe ``error``; text that Postgres cannot store is escaped, long text cut.

        It takes any error whatever, and raises none.
        """
        message = message_of(error)
        if members(error) is not None:
            # Its own message says no more than how many there are.
            inside = islice(leaves(error), _SHOWN)
            message += ": " + "; ".join(f"{name_of(one)}: {message_of(one)}" for one in inside)
        return cls(name_of(error), storable(message, MAX_ERROR_CHARS), stack_of(error))

    def noted(self, note: str) -> Failure:
        """The same, with a note below its stack."""
        below = f"{self.traceback or ''}{storable(note, MAX_ERROR_CHARS)}\n"
        return replace(self, traceback=below[-MAX_TRACEBACK_CHARS:])


@dataclass(frozen=True, slots=True)
class Completed:
    """The handler returned.

    Attributes:
        execution_id: Which execution.
        claim: The owner that reports.
        result: The result as JSON text, or None.
    """

    execution_id: UUID
    claim: Claim
    result: str | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The handler raised.

    Attributes:
        execution_id: Which execution.
        claim: The owner that reports.
        failure: The error.
        retry_after: Delay before the next attempt, by the database's clock, if an attempt is left;
            None where the error is final.
    """

    execution_id: UUID
    claim: Claim
    failure: Failure
    retry_after: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Released:
    """Given back: not started, interrupted, or ended by others. It does not count as an attempt.

    Attributes:
        execution_id: Which execution.
        claim: The owner that reports.
        after: Delay before the next attempt, by the database's clock; None for none.
    """

    execution_id: UUID
    claim: Claim
    after: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Suspended:
    """Every branch of the handler waits; nothing is held until something comes.

    It does not count as an attempt.

    Attributes:
        execution_id: Which execution.
        claim: The owner that reports.
        wakes: How many of its waits had ended as far as the handler has seen. If there are more by
            now, the execution is available at once.
    """

    execution_id: UUID
    claim: Claim
    wakes: int


Outcome = Completed | Failed | Released | Suspended


def unstorable(outcome: Outcome, why: str) -> Failure | None:
    """What to store instead of an outcome that the database can never store.

    Args:
        outcome: The outcome.
        why: What the database says.

    Returns:
        An error, smaller than the outcome; None if nothing smaller is left.
    """
    if isinstance(outcome, Completed):
        return Failure("ResultEncodeError", f"the database refused the result: {why}"[:2000])
    if isinstance(outcome, Failed) and outcome.retry_after is not None:
        # The delay is what may be out of its range, for instance one of a RetryAfter.
        message = f"{outcome.failure.message}\n(no retry after {outcome.retry_after!r}: {why})"
        return Failure(outcome.failure.type, message[:8000], outcome.failure.traceback)
    if isinstance(outcome, Failed) and outcome.failure.traceback is not None:
        return Failure(outcome.failure.type, f"its error cannot be stored: {why}"[:2000])
    return None


class Disposition(StrEnum):
    """What became of a reported outcome.

    Attributes:
        RECORDED: Written by this report.
        KNOWN: An earlier report of the same owner, whose acknowledgement was lost, had written it.
        LOST: The reporter is not the owner; nothing was changed.
    """

    RECORDED = "recorded"
    KNOWN = "known"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The database's answer to one reported outcome.

    Attributes:
        execution_id: Which execution.
        disposition: Whether the report was accepted.
        state: The execution's state after it; None where ownership was lost.
    """

    execution_id: UUID
    disposition: Disposition
    state: ExecutionState | None

    @property
    def accepted(self) -> bool:
        """Whether the outcome is on record, by this report or an earlier one."""
        return self.disposition is not Disposition.LOST
