"""Requests on their way to the database: what gathers while a batch is under way is the next."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from pgconductor.domain.backoff import Backoff
from pgconductor.domain.sqlstates import Cause
from pgconductor.domain.steps import StepRecord, StepStart
from pgconductor.runtime.wording import describe
from pgconductor.services.backend import Backend

__all__ = ["Lane"]

T = TypeVar("T")
A = TypeVar("A")

_MOST: Final = 500
_MAX_BYTES: Final = 8 * 1024 * 1024
#: If more of one batch are refused, and more of all, it is none of theirs.
_FEW: Final = 3
_MOST_APART: Final = 500

logger = logging.getLogger("pgconductor.journal")


@dataclass(slots=True, eq=False)
class _Request(Generic[T, A]):
    """What somebody waits for.

    Attributes:
        about: What it is about.
        answer: Where the answer goes.
    """

    about: T
    answer: asyncio.Future[A] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Lane(Generic[T, A]):
    """Requests of one kind; what gathers while a batch is under way is the next.

    A batch whose answer took too long comes again as smaller ones.

    Args:
        send: Sends a batch, and returns an answer or an error for each.
        backend: Knows what an error means.
    """

    def __init__(
        self, send: Callable[[list[T]], Awaitable[Sequence[A | Exception]]], backend: Backend
    ) -> None:
        self._send = send
        self._backend = backend
        self._waiting: list[_Request[T, A]] = []
        self._apart: set[asyncio.Task[None]] = set()
        self._limit = _MOST

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, about: T) -> asyncio.Future[A]:
        """Ask; the answer comes to the future."""
        request: _Request[T, A] = _Request(about)
        self._waiting.append(request)
        return request.answer

    async def send(self) -> None:
        """Send what waits, as one batch.

        Raises:
            Exception: The database takes none of it, for now; nothing is lost.
        """
        # Whoever has gone meanwhile is left out.
        there = [one for one in self._waiting if not one.answer.done()]
        number = self._number(there)
        batch, self._waiting = there[:number], there[number:]
        try:
            if batch:
                await self._answer(batch)
            self._limit = min(self._limit * 2, _MOST)
        except asyncio.CancelledError:
            _forget(batch)
            raise
        except Exception as error:
            if self._backend.cause(error) is None:
                # A mistake of ours: nobody may wait for ever because of it.
                logger.exception("steps could not be recorded or read")
                _refuse(batch, error)
                return
            if isinstance(error, TimeoutError):
                self._limit = max(1, len(batch) // 2)
            # What may have been written is recognised when it comes again.
            self._waiting[:0] = [one for one in batch if not one.answer.done()]
            raise

    def _number(self, there: list[_Request[T, A]]) -> int:
        """How many are sent at once, for the statement has to end in time."""
        size = 0
        for number, one in enumerate(there[: self._limit], start=1):
            size += _size(one.about)
            if size >= _MAX_BYTES:
                return number
        return self._limit

    async def _answer(self, batch: list[_Request[T, A]]) -> None:
        try:
            answers = await self._send([one.about for one in batch])
        except Exception as error:
            cause = self._backend.cause(error)
            if cause is not None and not cause.of_some:
                raise
            if len(batch) > 1:
                await self._answer_each(batch)
            elif self._keeps(batch[0], error, cause):
                self._set_apart([(batch[0], error)])
            return
        for one, answer in zip(batch, answers, strict=True):
            _give(one, answer)

    async def _answer_each(self, batch: list[_Request[T, A]]) -> None:
        """One that the database does not take must not hold up the others."""
        kept: list[tuple[_Request[T, A], Exception]] = []
        for one in batch:
            error = await self._answer_alone(one)
            if error is not None:
                kept.append((one, error))
            if len(kept) > _FEW:
                # Next time they come last, for some of the others may be taken.
                refused = {id(it) for it, _ in kept}
                batch.sort(key=lambda it: id(it) in refused)
                raise kept[0][1]
        self._set_apart(kept)

    async def _answer_alone(self, one: _Request[T, A]) -> Exception | None:
        """Ask for one; returns what keeps it back, if that is not its own fault.

        Raises:
            Exception: The database is out of reach.
        """
        try:
            (answer,) = await self._send([one.about])
        except Exception as error:
            cause = self._backend.cause(error)
            if cause is not None and not cause.of_some:
                raise
            return error if self._keeps(one, error, cause) else None
        _give(one, answer)
        return None

    @staticmethod
    def _keeps(one: _Request[T, A], error: Exception, cause: Cause | None) -> bool:
        """Whether one that was refused alone is tried again; else its owner is told the error."""
        if cause not in {None, Cause.VALUE}:
            return True
        if cause is None:
            logger.error("a step could not be recorded or read", exc_info=error)
        _refuse([one], error)
        return False

    def _set_apart(self, kept: list[tuple[_Request[T, A], Exception]]) -> None:
        if kept and len(self._apart) + len(kept) > _MOST_APART:
            raise kept[0][1]
        for one, error in kept:
            task = asyncio.create_task(self._ask_apart(one, error), name="pgconductor-step-apart")
            self._apart.add(task)
            task.add_done_callback(self._apart.discard)

    async def _ask_apart(self, one: _Request[T, A], error: Exception) -> None:
        """Try again with one that something keeps back which is not its own fault."""
        backoff = Backoff(0.25, 60.0)
        try:
            while not one.answer.done():
                logger.error("a step is not taken, and kept: %s", describe(error))
                await asyncio.sleep(backoff.next())
                try:
                    left = await self._answer_alone(one)
                except Exception as away:  # noqa: BLE001 - it is kept, whatever comes
                    left = away
                if left is None:
                    return
                error = left
        finally:
            one.answer.cancel()  # Where this was cancelled: nobody may wait for ever.

    def forget(self) -> None:
        """Cancel whoever waits."""
        for task in self._apart:
            task.cancel()
        _forget(self._waiting)


def _size(about: object) -> int:
    """About how many bytes of JSON go with it."""
    text = (
        about.result
        if isinstance(about, StepRecord)
        else about.text
        if isinstance(about, StepStart)
        else None
    )
    return len(text or "")


def _forget(batch: list[_Request[T, A]]) -> None:
    for one in batch:
        one.answer.cancel()


def _give(one: _Request[T, A], answer: A | Exception) -> None:
    if one.answer.done():
        return
    if isinstance(answer, Exception):
        one.answer.set_exception(answer)
    else:
        one.answer.set_result(answer)


def _refuse(batch: list[_Request[T, A]], error: Exception) -> None:
    for one in batch:
        if not one.answer.done():
            one.answer.set_exception(error)
