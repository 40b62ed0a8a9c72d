"""Outcomes on their way into the database: what gathers while one batch is written is the next."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from pgconductor.domain.backoff import Backoff
from pgconductor.domain.outcomes import Completed, Disposition, Failed, Failure, Outcome, Verdict
from pgconductor.runtime.wording import describe, trouble
from pgconductor.services.backend import Backend

__all__ = ["Completer"]

_MAX_BATCH: Final = 1_000
_MAX_BYTES: Final = 8 * 1024 * 1024

logger = logging.getLogger("pgconductor.completer")


@dataclass(slots=True)
class Completer:
    """Writes outcomes in batches, clocked by the writing itself; no timer is involved.

    An outcome is kept until the database has answered for it, however long it is out of reach.

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
        self._pending[outcome.execution_id] = outcome

    @property
    def full(self) -> bool:
        """Whether so much is waiting that nothing more should be fetched."""
        return len(self._pending) >= self.capacity

    def knows(self, execution_id: UUID) -> bool:
        """Whether an outcome of this execution is on its way."""
        return execution_id in self._pending or execution_id in self._writing

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way."""
        return self._idle.is_set()

    async def flushed(self) -> None:
        """Wait until nothing is on its way."""
        await self._idle.wait()

    def discard(self) -> int:
        """Drop what is waiting, because its owner is no more; returns how many outcomes."""
        dropped = len(self._pending)
        self._pending.clear()
        return dropped

    async def run(self) -> None:
        """Write until cancelled."""
        backoff = Backoff()
        while True:
            if not self._pending:
                self._idle.set()
                self._more.clear()
                await self._more.wait()
            self._writing = self._take()
            try:
                await self._write(list(self._writing.values()))
                backoff.reset()
            except Exception as error:
                self.on_error(error)
                if isinstance(error, TimeoutError):
                    self._limit = max(1, len(self._writing) // 2)
                # Nothing is lost: what may have been written is recognised when it comes again.
                for outcome in self._writing.values():
                    self._pending.setdefault(outcome.execution_id, outcome)
                if self.backend.is_transient(error):
                    logger.warning("completing is delayed, %s", trouble(error))
                else:
                    logger.exception("completing failed; it will be tried again")
                self._writing = {}
                await asyncio.sleep(backoff.next())
            self._writing = {}

    def _take(self) -> dict[UUID, Outcome]:
        batch: dict[UUID, Outcome] = {}
        size = 0
        for execution_id, outcome in self._pending.items():
            batch[execution_id] = outcome
            size += len(outcome.result or "") if isinstance(outcome, Completed) else 0
            if len(batch) >= self._limit or size >= _MAX_BYTES:
                break
        for execution_id in batch:
            del self._pending[execution_id]
        return batch

    async def _write(self, batch: list[Outcome]) -> None:
        try:
            verdicts = await self.backend.completing.complete(batch)
        except Exception as error:
            # Only what is wrong with an outcome, or with the size of the batch, is mended by
            # halving. A full disk or a missing privilege is not: the results are kept.
            too_large = self.backend.is_transient(error) and not self.backend.is_lost(error)
            if not (self.backend.is_data_error(error) or (too_large and len(batch) > 1)):
                raise
            await self._write_halves(batch, error)
            return
        self._limit = min(self._limit * 2, _MAX_BATCH)
        for verdict in verdicts:
            if verdict.disposition is Disposition.LOST:
                logger.warning(
                    "the outcome of an execution was refused: it is settled already, or lost",
                    extra={"execution_id": str(verdict.execution_id)},
                )
        self.on_written(verdicts)

    async def _write_halves(self, batch: list[Outcome], error: Exception) -> None:
        """One outcome that the database cannot store must not hold up the others."""
        if len(batch) > 1:
            self._limit = max(1, len(batch) // 2)
            middle = len(batch) // 2
            await self._write(batch[:middle])
            await self._write(batch[middle:])
            return
        (outcome,) = batch
        failure = _unstorable(outcome, error)
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


def _unstorable(outcome: Outcome, error: Exception) -> Failure | None:
    """What to store instead of an outcome that the database refuses; None if nothing is left."""
    if isinstance(outcome, Completed):
        return Failure("ResultEncodeError", f"the database refused the result: {error}"[:2000])
    if isinstance(outcome, Failed) and outcome.retry_after is not None:
        # The delay is what may be out of its range, for instance one of a RetryAfter.
        message = f"{outcome.failure.message}\n(no retry after {outcome.retry_after!r}: {error})"
        return Failure(outcome.failure.type, message[:8000], outcome.failure.traceback)
    if isinstance(outcome, Failed) and outcome.failure.traceback is not None:
        return Failure(outcome.failure.type, f"its error cannot be stored: {error}"[:2000])
    return None
