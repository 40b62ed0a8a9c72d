"""Transactional steps: what a handler writes, its step and the proof of ownership in one commit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from pgconductor.domain.backoff import Backoff
from pgconductor.domain.steps import StepRecord
from pgconductor.repositories.errors import sqlstate
from pgconductor.repositories.steps import SqlStepRepository

__all__ = ["CommitUnknown", "TransactionService"]

# serialization_failure, deadlock_detected: the same work may succeed in another transaction.
_CONFLICTS: Final = frozenset({"40001", "40P01"})
_TRIES: Final = 10


class CommitUnknown(Exception):
    """The commit was sent, and its answer was not a yes: it may have happened.

    Attributes:
        error: What came instead.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class TransactionService:
    """Executes work in sessions of the application's own.

    Args:
        sessions: Makes a session, bound to the database of the executions.
    """

    def __init__(self, sessions: Callable[[], AsyncSession]) -> None:
        self._sessions = sessions

    async def execute(self, work: Callable[[AsyncSession], Awaitable[StepRecord]]) -> str | None:
        """Execute work in a transaction, record it as a step, and commit both.

        The owner is proven last, with the execution's row locked until the commit: if it is held by
        somebody else by now, everything is rolled back. After a serialization failure or a deadlock
        the work is executed again, in another session.

        Args:
            work: Gets a session, which it must neither commit nor roll back, and says what to
                record.

        Returns:
            The result that is on record as JSON text.

        Raises:
            OwnershipLost: The execution is held by somebody else; nothing was written.
            CommitUnknown: The answer to the commit was lost.
        """
        backoff = Backoff(0.01, 1.0)
        for tries_left in reversed(range(_TRIES)):
            committing = False
            try:
                async with self._sessions() as session, session.begin():
                    step = await work(session)
                    await session.flush()
                    recorded = await SqlStepRepository(session).record(step)
                    committing = True
                return recorded
            except Exception as error:
                conflict = isinstance(error, DBAPIError) and sqlstate(error) in _CONFLICTS
                if not conflict or not tries_left:
                    if committing:
                        raise CommitUnknown(error) from error
                    raise
            await asyncio.sleep(backoff.next())
        raise AssertionError("the last try has returned or raised")
