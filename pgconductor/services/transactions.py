"""Transactional steps: what a handler writes, its step and the proof of ownership in one commit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Final

from sqlalchemy import Connection, event, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction, async_sessionmaker
from sqlalchemy.orm import Session, SessionTransaction

from pgconductor.domain.backoff import Backoff
from pgconductor.domain.steps import StepRecord
from pgconductor.exceptions import (
    ConfigurationError,
    TransactionConflict,
    TransactionMisused,
    WrongSession,
)
from pgconductor.repositories.autocommit import refuse_autocommit
from pgconductor.repositories.steps import SqlStepRepository
from pgconductor.services.conflicts import Conflicts, is_aborted, is_conflict, is_flush_failed

__all__ = [
    "CommitUnknown",
    "OpenTransaction",
    "TransactionService",
    "told_if_aborted",
]

_TRIES: Final = 10


@contextmanager
def told_if_aborted() -> Generator[None]:
    """At the end of a transaction, tell in which an error was caught that has aborted it.

    Raises:
        TransactionMisused: One was.
    """
    try:
        yield
    except SQLAlchemyError as error:
        if is_aborted(error):
            # A failed flush quotes the one that was caught; the server knows of none.
            quoted = error if is_flush_failed(error) else None
            raise TransactionMisused(aborted=True) from quoted
        raise


class CommitUnknown(Exception):
    """The commit was sent, and its answer was not a yes: it may have happened.

    Attributes:
        error: What came instead.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class OpenTransaction:
    """A session of the application's, in a transaction that ends with a step.

    Args:
        session: The session; it is closed at the end.
        key: The step.
        final: Whether the session is of no use after the end; not if the same one comes again.
    """

    def __init__(self, session: AsyncSession, key: str, *, final: bool = True) -> None:
        self.session = session
        self._key = key
        self._final = final
        self._begun: AsyncSessionTransaction | None = None
        self._refused: WrongSession | None = None
        self._conflicts: Conflicts | None = None
        self._by_us = False

    async def begin(self) -> AsyncSession:
        """Begin, and give the session.

        Whichever connections it uses are refused, before anything is written, if they commit each
        statement: what a failed attempt has written would stay.
        """
        event.listen(self.session.sync_session, "after_begin", self._check_connection)
        self._conflicts = Conflicts(self.session.sync_session)
        self._begun = await self.session.begin()
        return self.session

    def _check_connection(
        self, _session: Session, _begun: SessionTransaction, made: Connection
    ) -> None:
        try:
            refuse_autocommit(made)
        except WrongSession as error:
            self._refused = error
            # Who catches this must not be able to go on with it.
            made.invalidate()
            raise

    def check_begun(self) -> None:
        """It must be the transaction still that was begun.

        Raises:
            TransactionMisused: It was ended by who was given the session.
            WrongSession: It uses a connection that commits each statement.
        """
        if self._refused is not None:
            raise self._refused
        if self._begun is not None:
            there = self.session.sync_session.get_transaction()
            if there is None or there is not self._begun.sync_transaction:
                raise TransactionMisused

    async def commit(self, step: StepRecord | None) -> str | None:
        """Record a step, prove its owner, and commit; without a step, only commit.

        The owner is proven last, with the execution's row locked until the commit: if it is held by
        somebody else by now, everything is rolled back.

        Returns:
            The result that is on record as JSON text.

        Raises:
            OwnershipLost: The execution is held by somebody else; nothing was written.
            TransactionMisused: It was ended already, or aborted, by who was given the session.
            CommitUnknown: The answer to the commit was lost.
        """
        committing = False
        recorded: str | None = None
        try:
            self.check_begun()
            with told_if_aborted():
                await self.session.flush()
                self._by_us = True
                if step is not None:
                    recorded = await SqlStepRepository(self.session).record(step)
                else:
                    # The commit of an aborted transaction is a rollback, without a word.
                    await self.session.execute(text("SELECT 1"))
            committing = True
            await self.session.commit()
        except Exception as error:
            if committing and not is_conflict(error):
                raise CommitUnknown(error) from error
            raise
        finally:
            self.retire()
            await self.session.close()
        return recorded

    def conflict(self, error: BaseException) -> TransactionConflict | None:
        """The conflict that an error comes from: the same work may succeed in another transaction.

        Args:
            error: What the work, or the commit, has raised.

        Returns:
            None if it comes from none.
        """
        if isinstance(error, CommitUnknown):
            return None
        if isinstance(error, TransactionConflict):
            return error
        by_others = Conflicts.met(error, by_us=self._by_us)
        hidden = error.aborted if isinstance(error, TransactionMisused) else is_aborted(error)
        if hidden and self._conflicts is not None:
            by_others = self._conflicts.caught()
        return None if by_others is None else TransactionConflict(self._key, by_others=by_others)

    async def roll_back(self) -> None:
        """Undo everything, and end.

        Raises:
            WrongSession: It has used a connection that commits each statement; whatever is raised
                already has come of that.
        """
        self.retire()
        await self.session.close()
        if self._refused is not None:
            raise self._refused

    def retire(self) -> None:
        """From now on the session begins no other transaction, which nobody would commit."""
        if self._begun is not None:
            session = self.session.sync_session
            if event.contains(session, "after_begin", self._check_connection):
                event.remove(session, "after_begin", self._check_connection)
        if not self._final:
            return
        message = (
            f"the session of transaction {self._key!r} is used after its block, or its function, "
            "has ended: nothing that it does would be committed. Make one of your own, or another "
            "transaction"
        )

        def refuse(_session: Session, begun: SessionTransaction) -> None:
            begun.close()  # It is in its place already, and the next use would go on in it.
            raise ConfigurationError(message)

        event.listen(self.session.sync_session, "after_transaction_create", refuse)


class TransactionService:
    """Executes work in sessions of the application's own.

    Args:
        sessions: Makes a session, bound to the database of the executions.
    """

    def __init__(self, sessions: Callable[[], AsyncSession]) -> None:
        self._sessions = sessions
        # What else a test gives may be one session, that it looks at afterwards.
        self._makes_new = isinstance(sessions, async_sessionmaker)

    def open(self, key: str) -> OpenTransaction:
        """A transaction of its own, not begun.

        Args:
            key: The step that it ends with.
        """
        return OpenTransaction(self._sessions(), key, final=self._makes_new)

    async def execute(
        self, key: str, work: Callable[[AsyncSession], Awaitable[StepRecord | None]]
    ) -> str | None:
        """Execute work in a transaction, record it as a step, and commit both.

        After a serialization failure or a deadlock the work is executed again, in another session.

        Args:
            key: The step.
            work: Gets a session, which it must neither commit nor roll back, and says what to
                record; nothing, if it has completed the execution.

        Returns:
            The result that is on record as JSON text.

        Raises:
            OwnershipLost: The execution is held by somebody else; nothing was written.
            TransactionConflict: Each of ten tries has ended in a conflict.
            CommitUnknown: The answer to the commit was lost.
        """
        backoff = Backoff(0.01, 1.0)
        for tries_left in reversed(range(_TRIES)):
            transaction = self.open(key)
            try:
                try:
                    step = await work(await transaction.begin())
                except BaseException:
                    await transaction.roll_back()
                    raise
                return await transaction.commit(step)
            except Exception as error:
                conflict = transaction.conflict(error)
                if conflict is None:
                    raise
                if not tries_left:
                    raise conflict from error
            await asyncio.sleep(backoff.next())
        raise AssertionError("the last try has returned or raised")
