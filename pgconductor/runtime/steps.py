"""Steps inside an attempt: executed once, remembered, and returned from then on."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final, TypeVar

from pgconductor.domain.failures import message_of
from pgconductor.domain.limits import check_count, check_duration
from pgconductor.domain.outcomes import Failure
from pgconductor.domain.retry import RetryPolicy
from pgconductor.domain.steps import Recorded, StepKind, StepRecord, StepStart
from pgconductor.exceptions import (
    ConfigurationError,
    InvalidInput,
    OwnershipLost,
    PayloadDecodeError,
    ResultEncodeError,
    StepFailed,
    StepTimeout,
)
from pgconductor.runtime.codec import Codec
from pgconductor.runtime.decoding import decoded
from pgconductor.runtime.hints import is_async
from pgconductor.runtime.order import Place
from pgconductor.runtime.record import Record
from pgconductor.runtime.results import codec_of
from pgconductor.runtime.scopes import Scope
from pgconductor.runtime.threads import DaemonThreads, current_call, in_thread
from pgconductor.runtime.waits import Waits

R = TypeVar("R")

__all__ = ["StepOptions", "Steps"]


_RETRY: Final = RetryPolicy(first_delay=timedelta(seconds=1), max_delay=timedelta(minutes=10))


@dataclass(frozen=True, slots=True)
class StepOptions:
    """How patient a step is.

    Attributes:
        max_attempts: How often its function is called before the step has failed for good, which is
            then on record. None: an error is the handler's at once, and is not.
        retry: When it is called again.
        timeout: How long a call may take; None for no limit.

    Raises:
        InvalidInput: One is out of its range.
    """

    max_attempts: int | None = None
    retry: RetryPolicy = _RETRY
    timeout: timedelta | None = None

    def __post_init__(self) -> None:
        if self.max_attempts is not None:
            check_count(self.max_attempts, "max_attempts")
        elif self.retry is not _RETRY:
            raise InvalidInput("retry", "says when to try again: say how often, by max_attempts")
        if self.timeout is not None:
            check_duration(self.timeout, "timeout")


_PLAIN: Final = StepOptions()
#: The number of a step, and when it began.
_Begun = tuple[int | None, float]


class Steps:
    """The steps of one attempt.

    Args:
        record: The execution's record.
        waits: What the attempt waits for.
        threads: Where plain functions are called.
        max_bytes: Largest result of a step, as JSON.
    """

    def __init__(
        self,
        record: Record,
        waits: Waits,
        *,
        loop: asyncio.AbstractEventLoop,
        threads: DaemonThreads,
        max_bytes: int,
    ) -> None:
        self._record = record
        self._waits = waits
        self._loop = loop
        self._threads = threads
        self._max_bytes = max_bytes
        self._tries: dict[str, Recorded | None] = {}

    def check_loop(self) -> None:
        """Whoever calls must be in the worker's event loop, or in none.

        Raises:
            ConfigurationError: It is in another one.
        """
        running = asyncio._get_running_loop()
        if running is not None and running is not self._loop:
            raise ConfigurationError(
                "this is another event loop than the worker's; in a plain handler, or in a thread, "
                "wait by ctx.here(...), not by asyncio.run()"
            )

    async def take(
        self,
        key: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: StepOptions = _PLAIN,
    ) -> Any:
        """Execute a step, or return what it is remembered by."""
        with self._waits.at_work():
            codec = codec_of(function)
            place, found = await self._record.begin(key, StepKind.STEP)
            if found is not None:
                return self._known(codec, found)
            await self._waits.active()
        began = time.monotonic()
        number = 1
        while True:
            if options.max_attempts is not None and await self._tried(key, number):
                number += 1
                continue
            with self._waits.at_work():
                try:
                    result = await self._called(key, function, args, kwargs, options)
                except Exception as error:
                    failure = await self._failed(key, error, number, (place, began), options)
                    if failure is error:
                        self._record.astray()
                        raise
                    if failure is not None:
                        raise failure from error
                except BaseException:
                    self._record.astray()
                    raise
                else:
                    step = self._ended(key, codec, result, (place, began))
                    return self._known(codec, await self._record.write(step))
            await self._tried(key, number)
            number += 1

    async def _called(
        self,
        key: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: StepOptions,
    ) -> Any:
        with self._record.inside(key), self._record.contained(key):
            if options.timeout is None:
                return await self._call(function, args, kwargs)
            return await self._within(key, options.timeout, function, args, kwargs)

    async def _within(
        self,
        key: str,
        timeout: timedelta,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        limit = asyncio.timeout(timeout.total_seconds())
        try:
            async with limit:
                return await self._call(function, args, kwargs)
        except TimeoutError as error:
            if not limit.expired():
                raise  # It is the function's own.
            raise StepTimeout(key, timeout) from error

    async def _call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if is_async(function):
            return await function(*args, **kwargs)
        call, called = in_thread(function, *args, **kwargs)
        future = self._loop.run_in_executor(self._threads, called)
        self._waits.calls[future] = call
        try:
            result = await future
        finally:
            del self._waits.calls[future]
        return await result if inspect.isawaitable(result) else result

    async def _failed(
        self, key: str, error: Exception, number: int, at: _Begun, options: StepOptions
    ) -> Exception | None:
        """Put on record that a call has failed; what to raise, or None if there is another try."""
        if options.max_attempts is None or isinstance(error, OwnershipLost):
            return error
        fetched = self._record.fetched
        failure = Failure.from_exception(error)
        delay = options.retry.decide(error, number)
        if delay is not None and number < options.max_attempts:
            start = StepStart(
                execution_id=fetched.id,
                claim=fetched.claim,
                key=_try(key, number),
                kind=StepKind.TRY,
                delay=delay,
                failure=failure,
            )
            with self._record.unbroken(), Scope.beginning(start.key):
                started = await self._record.memory.start(start)
            self._tries[_try(key, number)] = started.recorded
            return None
        step = StepRecord(
            *(fetched.id, fetched.claim, key),
            place=at[0],
            failure=failure,
            began=at[1],
        )
        found = await self._record.write(step)
        return StepFailed(key, found.error_type or failure.type, found.error or "")

    async def _tried(self, key: str, number: int) -> bool:
        """Whether a call has failed before; then it is time for the next one."""
        name = _try(key, number)
        found = self._tries.get(name) or (await self._record.history()).records.get(name)
        if found is None:
            return False
        Scope.note(name)
        if found.pending:
            await self._waits.until_ended(found)
        return True

    def take_here(
        self, key: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """The same, called from a plain handler's thread; the function is called in it."""
        if asyncio._get_running_loop() is not None:
            raise ConfigurationError("step_here is for plain handlers; await step() instead")
        codec = codec_of(function)
        if is_async(function):
            raise _not_plain(function)
        place, found = self.here(self._record.begin(key, StepKind.STEP))
        if found is not None:
            return self._known(codec, found)
        began = time.monotonic()
        try:
            with self._record.inside(key):
                result = function(*args, **kwargs)
            if inspect.isawaitable(result):  # A lambda does not tell before that it gives one.
                if inspect.iscoroutine(result):
                    result.close()
                raise _not_plain(function)
        except BaseException:
            self._record.astray()
            raise
        step = self._ended(key, codec, result, (place, began))
        written = asyncio.run_coroutine_threadsafe(self._record.write(step), self._loop)
        return self._known(codec, written.result())

    def here(self, awaitable: Coroutine[Any, Any, R]) -> R:
        """What a coroutine of the attempt returns, in a plain handler's thread."""
        own = self._record.own(awaitable)
        call = current_call()
        if call is None:
            return asyncio.run_coroutine_threadsafe(own, self._loop).result()
        with self._threads.waiting(call):
            return asyncio.run_coroutine_threadsafe(own, self._loop).result()

    async def transact(
        self,
        key: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Execute a transactional step, or return what it is remembered by."""
        with self._waits.at_work():
            codec = codec_of(function)
            place, found = await self._record.begin(key, StepKind.STEP)
            if found is not None:
                return self._known(codec, found)
            await self._waits.active()

            text: str | None = None
            turn: Place | None = None
            turns = self._waits.order
            began = time.monotonic()

            async def work(session: Any) -> StepRecord | None:
                nonlocal text, turn
                # An earlier call was rolled back: with it, that it completed the execution.
                self._record.completed = False
                turns.drop(turn)
                with self._record.inside(key), self._record.contained(key):
                    answer = function(session, *args, **kwargs)
                    if not inspect.isawaitable(answer):
                        raise InvalidInput("fn", f"{function!r} is not async, as transact needs it")
                    result = await answer
                step = self._ended(key, codec, result, (place, began), undone=True)
                text = step.result
                turn = turns.reserve()
                if self._record.completed:
                    # What ends with the execution needs no record.
                    return None
                return replace(step, woke=turn.woke, turn=turn.number)

            try:
                with self._record.unbroken():
                    recorded = await self._record.memory.transact(key, work)
                if turn is not None:
                    await turns.happened(turn)
                self._record.committed = self._record.completed
                if self._record.completed:
                    return codec.decode(text)
                return decoded(self._record, codec, Recorded(key=key, result=recorded))
            except BaseException:
                turns.drop(turn)
                self._record.astray()
                raise

    def _known(self, codec: Codec, found: Recorded) -> Any:
        if found.error_type is not None:
            raise StepFailed(found.key, found.error_type, found.error or "")
        return decoded(self._record, codec, found)

    def _ended(
        self,
        key: str,
        codec: Codec,
        result: object,
        at: _Begun,
        *,
        undone: bool = False,
    ) -> StepRecord:
        """What to record of a step.

        Raises:
            ResultEncodeError: Its result cannot be stored, or not be read back.
        """
        fetched = self._record.fetched
        text = self.encoded(key, codec, result, undone=undone)
        return StepRecord(*(fetched.id, fetched.claim, key, text), place=at[0], began=at[1])

    def encoded(
        self, key: str, codec: Codec, result: object, *, undone: bool = False
    ) -> str | None:
        """The JSON text of a step's result, which can be read back.

        Args:
            key: The step.
            codec: Of its result's type.
            result: What it has returned.
            undone: Whether what it has written is rolled back after an error.

        Raises:
            ResultEncodeError: It cannot be stored, or not be read back.
        """
        try:
            text = codec.encode(result, max_bytes=self._max_bytes, field="result")
        except Exception as error:
            # A validator of the type's own may raise anything.
            self._record.astray()
            what = "cannot be stored"
            if isinstance(error.__cause__, PayloadDecodeError):
                what, error = "cannot be read back", error.__cause__
            done = (
                f"nothing was written by step {key!r}, for"
                if undone
                else f"the effects of step {key!r} have happened,"
            )
            raise ResultEncodeError(f"{done} its result {what}: {message_of(error)}") from error
        return text


def _not_plain(function: Callable[..., Any]) -> InvalidInput:
    return InvalidInput("fn", f"{function!r} is async: take it by ctx.here(ctx.step(...)) instead")


def _try(key: str, number: int) -> str:
    return f"{key}~{number}"
