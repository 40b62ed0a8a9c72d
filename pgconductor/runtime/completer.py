"""Outcomes on their way into the database: what gathers while one batch is written is the next."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from pgconductor.domain.backoff import Backoff
from pgconductor.domain.outcomes import (
    Completed,
    Disposition,
    Failed,
    Outcome,
    Verdict,
    unstorable,
)
from pgconductor.domain.sqlstates import Cause
from pgconductor.runtime.wording import describe, trouble
from pgconductor.services.backend import Backend

__all__ = ["Completer"]

_MAX_BATCH: Final = 1_000
_MAX_BYTES: Final = 8 * 1024 * 1024
#: Bytes of results that may be waiting before nothing more is fetched.
_MOST_WAITING: Final = 64 * 1024 * 1024
#: If more outcomes are refused one after the other, it may be none of theirs.
_FEW: Final = 3
_MOST_APART: Final = 500

logger = logging.getLogger("pgconductor.completer")


@dataclass(slots=True)
class Completer:
    """Writes outcomes in batches, clocked by the writing itself; no timer is involved.

    An outcome is kept until the database has answered for it, however long it is out of reach, and
    whatever it says meanwhile that is not about this very outcome. One that is refused alone, while
    others are taken, is tried again apart from them.

    Attributes:
        backend: The database.
        on_written: Called with the verdicts of each batch.
        on_error: Called with the error of a batch that was not written.
        capacity: How many outcomes may be waiting before ``full`` tells the workers to pause.
    """

    backend: Backend
    on_written: Callable[[list[Verdict]], None]
    on_error: Callable[[Exception], None] = lambda _error: None
    capacity: int = 5_000
    _pending: dict[UUID, Outcome] = field(default_factory=dict[UUID, Outcome])
    _writing: dict[UUID, Outcome] = field(default_factory=dict[UUID, Outcome])
    _apart: dict[UUID, asyncio.Task[None]] = field(default_factory=dict[UUID, asyncio.Task[None]])
    _refused: int = 0
    _some_written: bool = False
    _bytes: int = 0
    _limit: int = _MAX_BATCH
    _more: asyncio.Event = field(default_factory=asyncio.Event)
    _idle: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._idle.set()

    def add(self, outcome: Outcome) -> None:
        """Take an outcome; it is written as soon as the batch before it is."""
        if not self._pending:
            self._idle.clear()
            self._more.set()
        before = self._pending.get(outcome.execution_id)
        self._pending[outcome.execution_id] = outcome
        self._bytes += _size(outcome) - (0 if before is None else _size(before))

    @property
    def full(self) -> bool:
        """Whether so much is waiting that nothing more should be fetched."""
        waiting = len(self._pending) + len(self._apart)
        return waiting >= self.capacity or self._bytes >= _MOST_WAITING

    def knows(self, execution_id: UUID) -> bool:
        """Whether an outcome of this execution is on its way."""
        return any(execution_id in some for some in (self._pending, self._writing, self._apart))

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way."""
        return self._idle.is_set()

    async def flushed(self) -> None:
        """Wait until nothing is on its way."""
        await self._idle.wait()

    def discard(self) -> int:
        """Drop what is waiting, because its owner is no more; returns how many outcomes."""
        dropped = len(self._pending) + len(self._apart)
        self._bytes -= sum(map(_size, self._pending.values()))
        self._pending.clear()
        for task in self._apart.values():
            task.cancel()
        return dropped

    async def run(self) -> None:
        """Write until cancelled."""
        backoff = Backoff()
        try:
            while True:
                await self._write_next(backoff)
        finally:
            for task in self._apart.values():
                task.cancel()

    async def _write_next(self, backoff: Backoff) -> None:
        if not self._pending:
            self._look_if_idle()
            self._more.clear()
            await self._more.wait()
        self._writing = self._take()
        self._refused = 0
        self._some_written = False
        try:
            await self._write(list(self._writing.values()))
            backoff.reset()
        except Exception as error:
            self.on_error(error)
            if isinstance(error, TimeoutError):
                self._limit = max(1, len(self._writing) // 2)
            # Nothing is lost: what may have been written is recognised when it comes again.
            for outcome in self._in_another_order():
                if self._pending.setdefault(outcome.execution_id, outcome) is not outcome:
                    self._bytes -= _size(outcome)
            if self.backend.is_transient(error):
                logger.warning("completing is delayed, %s", trouble(error))
            else:
                logger.exception("completing failed; it will be tried again")
            self._writing = {}
            if self._some_written:
                backoff.reset()
            await asyncio.sleep(backoff.next())
        else:
            self._bytes -= sum(map(_size, self._writing.values()))
        self._writing = {}

    def _in_another_order(self) -> list[Outcome]:
        """What comes again; where many are refused, the others must not stay behind them."""
        again = list(self._writing.values())
        if self._refused:
            random.shuffle(again)
        return again

    def _look_if_idle(self) -> None:
        if not (self._pending or self._writing or self._apart):
            self._idle.set()

    def _take(self) -> dict[UUID, Outcome]:
        batch: dict[UUID, Outcome] = {}
        size = 0
        for execution_id, outcome in self._pending.items():
            batch[execution_id] = outcome
            size += _size(outcome)
            if len(batch) >= self._limit or size >= _MAX_BYTES:
                break
        for execution_id in batch:
            del self._pending[execution_id]
        return batch

    async def _write(self, batch: list[Outcome]) -> None:
        try:
            verdicts = await self.backend.completing.complete(batch)
        except Exception as error:
            # What may be about one of them, or about the size of the batch, is found by halving. A
            # database that is out of reach, or full, is so for all of them.
            cause = self.backend.cause(error)
            if cause is None or not cause.of_some:
                raise
            if len(batch) > 1:
                await self._write_halves(batch)
            else:
                await self._write_alone(batch[0], error, cause)
            return
        self._limit = min(self._limit * 2, _MAX_BATCH)
        self._refused = 0
        self._some_written = True
        for verdict in verdicts:
            if verdict.disposition is Disposition.LOST:
                logger.warning(
                    "the outcome of an execution was refused: it is settled already, or lost",
                    extra={"execution_id": str(verdict.execution_id)},
                )
        self.on_written(verdicts)

    async def _write_halves(self, batch: list[Outcome]) -> None:
        """One outcome that the database does not take must not hold up the others."""
        self._limit = max(1, len(batch) // 2)
        middle = len(batch) // 2
        await self._write(batch[:middle])
        await self._write(batch[middle:])

    async def _write_alone(self, outcome: Outcome, error: Exception, cause: Cause) -> None:
        """What the database does not take, though it was alone: it fails, or is kept."""
        if cause is not Cause.VALUE:
            if outcome.execution_id in self._apart:
                raise error
            # A lock is somebody's: however many he has, it says nothing of the others.
            self._refused += cause is not Cause.LOCKED
            if self._refused > _FEW or len(self._apart) >= _MOST_APART:
                raise error
            self._writing.pop(outcome.execution_id, None)
            self._apart[outcome.execution_id] = asyncio.create_task(
                self._write_apart(outcome, error), name="pgconductor-complete-apart"
            )
            return
        failure = unstorable(outcome, describe(error))
        if failure is None:
            # Nothing smaller can be said of it: its owner's end gives it back.
            logger.error("the database refuses to take an execution back: %s", describe(error))
            self.on_written([Verdict(outcome.execution_id, Disposition.LOST, None)])
            return
        logger.error(
            "the database refused an outcome, the execution fails: %s",
            describe(error),
            extra={"execution_id": str(outcome.execution_id)},
        )
        await self._write([Failed(outcome.execution_id, outcome.claim, failure)])

    async def _write_apart(self, outcome: Outcome, error: Exception) -> None:
        """Try again with one outcome, which something that is not its own fault keeps back."""
        backoff = Backoff(0.25, 60.0)
        execution_id = outcome.execution_id
        try:
            while True:
                self.on_error(error)
                logger.log(
                    logging.WARNING if self.backend.is_transient(error) else logging.ERROR,
                    "the outcome of an execution is not taken, and kept: %s",
                    describe(error),
                    extra={"execution_id": str(execution_id)},
                )
                await asyncio.sleep(backoff.next())
                try:
                    await self._write([outcome])
                except Exception as again:  # noqa: BLE001 - it is kept, whatever comes
                    error = again
                else:
                    return
        finally:
            if self._apart.get(execution_id) is asyncio.current_task():
                del self._apart[execution_id]
            self._bytes -= _size(outcome)
            self._look_if_idle()


def _size(outcome: Outcome) -> int:
    return len(outcome.result or "") if isinstance(outcome, Completed) else 0
