"""A transactional step as a block: ``async with ctx.transaction(key) as session``."""

from __future__ import annotations

import time
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pgconductor.domain.steps import Recorded, StepKind, StepRecord
from pgconductor.exceptions import (
    ConfigurationError,
    ResultEncodeError,
    StepFailed,
)
from pgconductor.runtime.codec import Codec
from pgconductor.runtime.decoding import decoded
from pgconductor.runtime.record import Record
from pgconductor.runtime.steps import Steps
from pgconductor.runtime.suspension import consists_of
from pgconductor.runtime.waits import Waits

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from pgconductor.services.transactions import OpenTransaction

__all__ = ["Transaction"]

R = TypeVar("R")


class _Done(BaseException):
    """Ends a block that an earlier attempt has committed."""


class _DoneSession:
    """Stands for the session in a block that an earlier attempt has committed.

    Behind the block it is what the session was there in that attempt: one that begins nothing.
    """

    __slots__ = ("_block",)

    def __init__(self, block: Transaction[Any]) -> None:
        object.__setattr__(self, "_block", block)

    def __getattribute__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_block")._done_session(), name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(object.__getattribute__(self, "_block")._done_session(), name, value)


class Transaction(Generic[R]):
    """A block whose writes commit with the record that it has happened.

    Made by ``ctx.transaction()``. In a later attempt the block ends at its first use of the
    session, and nothing is written again. What it is to return is assigned to :attr:`result`, which
    has it after the block, in each attempt.

    Args:
        key: Its name.
        codec: How its result is recorded.
        record: The execution's record.
        waits: What the attempt waits for.
        steps: Its steps.
    """

    def __init__(self, key: str, codec: Codec, record: Record, waits: Waits, steps: Steps) -> None:
        self._key = key
        self._codec = codec
        self._record = record
        self._waits = waits
        self._steps = steps
        self._place: int | None = None
        self._found: Recorded | None = None
        self._open: OpenTransaction | None = None
        self._at_work = waits.at_work()
        self._inside = record.inside(key)
        self._began = 0.0
        self._value: Any = None
        self._assigned = False
        self._skipping = False
        self._entered = False
        self._left = False
        self._ended = False

    @property
    def result(self) -> R:
        """What the block was to return, once it has committed.

        Raises:
            ConfigurationError: It has not.
        """
        if not self._ended:
            raise ConfigurationError(f"transaction {self._key!r} has no result before it has ended")
        value: R = self._value
        return value

    @result.setter
    def result(self, value: R) -> None:
        self._value = value
        self._assigned = True

    @property
    def replayed(self) -> bool:
        """Whether an earlier attempt has committed it."""
        return self._found is not None

    def _done_session(self) -> AsyncSession:
        """The session of a block that was committed before: inside, the block ends here."""
        if not self._left:
            self._skipping = True
            raise _Done
        if self._open is None:
            self._open = self._record.memory.open(self._key)
            self._open.retire()
        return self._open.session

    async def __aenter__(self) -> AsyncSession:
        if self._entered:
            raise ConfigurationError(
                f"transaction {self._key!r} was entered before: a block is entered once; make "
                "another by ctx.transaction(), under a key of its own"
            )
        self._entered = True
        self._at_work.__enter__()
        try:
            self._place, self._found = await self._record.begin(self._key, StepKind.STEP)
            if self._found is not None:
                done: Any = _DoneSession(self)
                return done  # type: ignore[no-any-return]  # what stands for a session is no session
            await self._waits.active()
            self._began = time.monotonic()
            self._open = self._record.memory.open(self._key)
            session = await self._open.begin()
            self._inside.__enter__()
            return session
        except BaseException:
            self._at_work.__exit__(None, None, None)
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        self._left = True
        try:
            if self._found is not None:
                return self._leave_done(self._found, error)
            if self._open is not None:
                self._inside.__exit__(None, None, None)
            await self._leave(error)
        finally:
            self._at_work.__exit__(None, None, None)
        return False

    def _leave_done(self, found: Recorded, error: BaseException | None) -> bool:
        if error is not None and not consists_of(error, _Done):
            return False
        if self._skipping and error is None:
            raise ConfigurationError(
                f"transaction {self._key!r} caught the BaseException that ends a block which was "
                "committed before; catch Exception instead"
            )
        if found.error_type is not None:
            raise StepFailed(self._key, found.error_type, found.error or "")
        self._value = decoded(self._record, self._codec, found)
        self._ended = True
        return True

    async def _leave(self, error: BaseException | None) -> None:
        transaction = self._open
        if transaction is None:
            raise ConfigurationError(f"transaction {self._key!r} was left before it was entered")
        if error is not None:
            self._record.astray()
            await transaction.roll_back()
            self._explain(transaction, error)
            return
        try:
            try:
                text = self._encoded()
            except BaseException:
                await transaction.roll_back()
                raise
            fetched = self._record.fetched
            step = StepRecord(
                *(fetched.id, fetched.claim, self._key, text),
                place=self._place,
                began=self._began,
            )
            # What ends with the execution needs no record.
            with self._record.unbroken():
                found = await self._waits.order.write(
                    lambda turn: self._record.memory.commit(
                        transaction,
                        None
                        if self._record.completed
                        else replace(step, woke=turn.woke, turn=turn.number),
                    )
                )
        except BaseException as failed:
            self._record.astray()
            self._explain(transaction, failed)
            raise
        self._record.committed = self._record.completed
        if self._record.completed:
            self._value = self._codec.decode(text)
        else:
            recorded = Recorded(key=self._key, result=found)
            self._value = decoded(self._record, self._codec, recorded)
        self._ended = True

    def _encoded(self) -> str | None:
        try:
            return self._steps.encoded(self._key, self._codec, self._value, undone=True)
        except ResultEncodeError as error:
            if self._assigned:
                raise
            raise ResultEncodeError(
                f"nothing was written by step {self._key!r}, for its result was not assigned: "
                f"{error.__cause__}"
            ) from None

    @staticmethod
    def _explain(transaction: OpenTransaction, error: BaseException) -> None:
        conflict = transaction.conflict(error)
        if conflict is not None and conflict is not error:
            raise conflict from error
