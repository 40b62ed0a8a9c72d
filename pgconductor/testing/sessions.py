"""What is written in memory in a session of the application's ends with that session."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, SessionTransaction

from pgconductor.domain.steps import StepRecord
from pgconductor.exceptions import TransactionMisused
from pgconductor.repositories import Repositories
from pgconductor.services.transactions import OpenTransaction, TransactionService, told_if_aborted
from pgconductor.services.unit_of_work import UnitOfWork
from pgconductor.testing.database import FakeDatabase, FakeTransaction
from pgconductor.testing.unit_of_work import FakeUnitOfWork, fake_repositories

__all__ = ["FakeTransactions", "SessionTransactions", "at_once"]

T = TypeVar("T")


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns that waits for nothing.

    Raises:
        RuntimeError: It waits.
    """
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    coroutine.close()
    raise RuntimeError("another transaction on this FakeDatabase has written: end it first")


class SessionTransactions:
    """Transactions in memory that commit and roll back with sessions of SQLAlchemy's.

    A session of another kind has none: what is written in it is written at once.

    Args:
        database: The tables.
    """

    def __init__(self, database: FakeDatabase) -> None:
        self._database = database
        self._open: WeakKeyDictionary[Session, FakeTransaction] = WeakKeyDictionary()
        self._heard: WeakSet[Session] = WeakSet()

    def of(self, session: Any) -> FakeTransaction | None:
        """The transaction of a session; None if it cannot have one."""
        own = session.sync_session if isinstance(session, AsyncSession) else session
        if not isinstance(own, Session):
            return None
        found = self._open.get(own)
        if found is None:
            if not own.in_transaction():
                own.begin()  # As a statement of ours would have it begin.
            self._open[own] = found = self._database.transaction()
            if own not in self._heard:
                self._heard.add(own)
                event.listen(own, "after_commit", self._committed)
                event.listen(own, "after_transaction_end", self._ended)
        return found

    def alone(self) -> FakeTransaction:
        """One of its own, to be ended by whoever asked for it."""
        return self._database.transaction()

    def joined(self, session: Any) -> UnitOfWork:
        """The session's transaction, for a service."""
        found = self.of(session)
        return FakeUnitOfWork(self._database) if found is None else _Joined(found)

    def _committed(self, session: Session) -> None:
        found = None if session.in_nested_transaction() else self._open.pop(session, None)
        if found is not None:
            found.commit()

    def _ended(self, session: Session, transaction: SessionTransaction) -> None:
        found = self._open.pop(session, None) if transaction.parent is None else None
        if found is not None:
            found.rollback()


class _Joined:
    """A transaction that is not ended here."""

    def __init__(self, transaction: FakeTransaction) -> None:
        self._transaction = transaction

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator[Repositories]:
        yield fake_repositories(self._transaction)


class FakeTransactions(TransactionService):
    """Transactional steps whose records are in memory.

    Args:
        sessions: Makes a session, or what the application takes for one.
        with_sessions: The transactions in memory.
    """

    def __init__(self, sessions: Callable[[], Any], with_sessions: SessionTransactions) -> None:
        super().__init__(sessions)
        self._make = sessions
        self._with_sessions = with_sessions

    def open(self, key: str) -> OpenTransaction:
        """A transaction of its own, not begun.

        Args:
            key: The step that it ends with.
        """
        return _Open(self._make(), key, self._with_sessions, final=self._makes_new)


class _Open(OpenTransaction):
    """A session of the application's, and a transaction in memory that ends with it."""

    def __init__(
        self, session: Any, key: str, with_sessions: SessionTransactions, *, final: bool
    ) -> None:
        super().__init__(session, key, final=final)
        self._with_sessions = with_sessions

    async def begin(self) -> AsyncSession:
        session: Any = self.session
        return await super().begin() if isinstance(session, AsyncSession) else session

    async def commit(self, step: StepRecord | None) -> str | None:
        try:
            self.check_begun()
        except TransactionMisused:
            await self.roll_back()
            raise
        recorded: str | None = None
        transaction = self._with_sessions.of(self.session)
        alone = transaction is None
        if transaction is None:
            transaction = self._with_sessions.alone()
        try:
            with told_if_aborted():
                await _called(self.session, "flush")
                if step is not None:
                    recorded = await fake_repositories(transaction).steps.record(step)
                await _called(self.session, "commit")
            if alone:
                transaction.commit()
        except BaseException:
            transaction.rollback()
            raise
        finally:
            self.retire()
            await _called(self.session, "close")
        return recorded

    async def roll_back(self) -> None:
        await _called(self.session, "rollback")
        self.retire()
        await _called(self.session, "close")


async def _called(session: Any, name: str) -> None:
    """Call a method that what stands for a session may have."""
    method = getattr(session, name, None)
    if method is not None and inspect.isawaitable(answer := method()):
        await answer
