"""One attempt of one execution: decode, call, encode, and say how it ended."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Final

from pgconductor.domain.claims import Fetched
from pgconductor.domain.failures import is_modest, shown
from pgconductor.domain.outcomes import Completed, Failed, Failure, Outcome, Released, Suspended
from pgconductor.exceptions import (
    ChildError,
    CompletionNotCommitted,
    ConfigurationError,
    PayloadDecodeError,
    ResultEncodeError,
    StepFailed,
    SuspensionSwallowed,
    WaitTimeout,
)
from pgconductor.runtime.context import Tools, logger_fields
from pgconductor.runtime.context_waits import TaskContext
from pgconductor.runtime.durable import Durable
from pgconductor.runtime.leftovers import watch_leftovers
from pgconductor.runtime.memory import Memory
from pgconductor.runtime.mishaps import mishap
from pgconductor.runtime.races import Races
from pgconductor.runtime.reasons import INSISTENT, TIMED_OUT, Stop
from pgconductor.runtime.record import Record
from pgconductor.runtime.runnable import Runnable
from pgconductor.runtime.sentry import Sentry
from pgconductor.runtime.slots import AttemptDesk
from pgconductor.runtime.steps import Steps
from pgconductor.runtime.suspension import Ending, Interrupted, consists_of, holds
from pgconductor.runtime.telling import given_back, is_of_others, tell_failure
from pgconductor.runtime.threads import Threads
from pgconductor.runtime.waits import Waits

__all__ = ["Attempt", "Durability", "Runnable", "Stop"]

logger = logging.getLogger("pgconductor.executions")

#: What another attempt would be told again: some of it is on record.
_FINAL: Final = (PayloadDecodeError, ResultEncodeError, StepFailed, ChildError, WaitTimeout)
#: Seconds that a cancelled handler has to clean up before it is cancelled again.
_PATIENCE: Final = 10.0


@dataclass(frozen=True, slots=True)
class Durability:
    """What steps and waits of attempts need.

    Attributes:
        memory: Where steps are recorded.
        sentry: Who looks whether what is waited for has come.
        suspend_after: Seconds that an attempt stays in memory while it only waits.
        max_payload_bytes: Largest payload, as JSON.
        lingers: Whether one that was replayed stays longer.
    """

    memory: Memory
    sentry: Sentry
    suspend_after: float
    max_payload_bytes: int
    lingers: bool = True


#: How a handler ends that was told to.
_TOLD: Final = (asyncio.CancelledError, Interrupted)


class Attempt:
    """Executes one fetched execution.

    Args:
        fetched: The execution.
        runnable: Its task.
        threads: Where plain handlers are called.
        report: Called once with the outcome, unless ownership is lost.
        max_result_bytes: Largest result, as JSON.
        durability: What its steps and waits need; None where nothing can be recorded.
    """

    def __init__(
        self,
        fetched: Fetched,
        runnable: Runnable,
        *,
        threads: Threads,
        report: Callable[[Outcome], None],
        max_result_bytes: int,
        durability: Durability | None = None,
    ) -> None:
        self.fetched = fetched
        self.context = TaskContext(fetched, self._make_tools, self._why)
        #: Whether its handler is called in a thread.
        self.plain = not runnable.handler.is_async
        #: Its slot.
        self.desk = AttemptDesk(fetched, plain=self.plain)
        self._durability = durability
        self._tools: Tools | None = None
        self._runnable = runnable
        self._threads = threads
        self._report = report
        self._max_result_bytes = max_result_bytes
        self._stop: Stop | None = None
        self._reported = self._abandoned = False
        self._over = False
        #: Whether the handler catches whatever ends it.
        self.hopeless = False
        self._told_at: float | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread: asyncio.Future[Any] | None = None
        # Whether the handler goes on in the event loop, and not in a thread.
        self._in_loop = runnable.handler.is_async
        # Why there is no other try, if its policy has failed.
        self._note: str | None = None

    def _make_tools(self) -> Tools:
        durability, task = self._durability, self._task
        if durability is None or task is None:
            raise ConfigurationError("there is no database to record steps in")
        main = task if self._in_loop else None
        record = Record(self.fetched, durability.memory, main, self._give_up, self._why)
        waits = Waits(
            self.fetched.id,
            durability.sentry,
            desk=self.desk,
            patience=0.0 if self.fetched.alone else durability.suspend_after,
            known=lambda: record.tasks,
            branched=lambda: record.branched,
            may_linger=durability.lingers and not self.fetched.alone,
            limit=lambda: self.desk.limit,
        )
        self.desk.on_slot = waits.turns.go_on
        record.waits, record.ended = waits, self._over
        self._tools = Tools(
            record,
            waits,
            Steps(
                record,
                waits,
                loop=task.get_loop(),
                threads=self._threads.steps,
                max_bytes=self._max_result_bytes,
            ),
            Durable(
                record,
                waits,
                max_bytes=durability.max_payload_bytes,
                encode_result=self._encode_result,
            ),
            Races(record, waits),
            durability.max_payload_bytes,
        )
        return self._tools

    def _encode_result(self, result: Any) -> str | None:
        return self._runnable.handler.encode_result(result, max_bytes=self._max_result_bytes)

    @property
    def _timed_out(self) -> bool:
        return self.desk.limit is not None and self.desk.limit.expired()

    def _why(self) -> str | None:
        """Why nothing can be recorded any more; None if it can."""
        if self._stop is not None:
            return self._stop.why
        return TIMED_OUT if self._timed_out else None

    @property
    def stopped(self) -> bool:
        """Whether it was ended from outside."""
        task = self._task
        return self._stop is not None or (
            task is not None
            # Taken back before Python 3.13, a cancellation is delivered all the same.
            and (task.cancelling() > 0 or bool(getattr(task, "_must_cancel", False)))
        )

    def broke(self, error: Exception) -> None:
        """The engine failed around the handler."""
        if self._reported:
            extra = logger_fields(self.fetched)
            logger.critical("the engine failed after an attempt", exc_info=error, extra=extra)
        else:
            self._say(mishap(self.fetched, error, self._runnable.options.retry))

    def finish(self) -> None:
        """It has ended: what has not said how is given back."""
        self._say(Released(self.fetched.id, self.fetched.claim))

    def stop(self, why: Stop) -> None:
        """End the attempt at its next await; a plain handler sees ``ctx.cancelled``.

        May be called again: a handler that swallowed the first cancellation gets another, but not
        before it has had some seconds to clean up.
        """
        now = time.monotonic()
        if why is Stop.CANCELLED and self._told_at is not None and now < self._told_at + _PATIENCE:
            return
        self._told_at = now
        if self._stop is not Stop.LOST:
            self._stop = why
        self.context.tell_cancelled()
        if self._task is not None and self._thread is None:
            self._task.cancel()

    def abandon(self) -> None:
        """Stop waiting for a handler that does not end: give the execution back without it."""
        if self._stop is None:
            self._stop = Stop.INTERRUPTED
        self._say(Released(self.fetched.id, self.fetched.claim))
        self._abandoned = True
        if self._task is not None:
            self._task.cancel()

    def _give_up(self) -> None:
        """The handler catches whatever it is told, and asks again: end the attempt without it."""
        tools = self._tools
        if self.hopeless or tools is None:
            return
        self.hopeless = True
        said = "a handler catches BaseException and goes on; it is left where it is"
        logger.error(said, extra=logger_fields(self.fetched))
        if not self._reported:
            key = tools.waits.suspended_by
            told = Interrupted(INSISTENT) if key is None else SuspensionSwallowed(key)
            self._say(self._judged(told))
        self._end()
        if self._task is not None:
            self._task.cancel()

    def _end(self) -> None:
        self._over = True
        if self._tools is not None:
            self._tools.record.ended = True
            self._tools.waits.close()

    def _say(self, outcome: Outcome) -> None:
        if not self._reported and self._stop is not Stop.LOST:
            self._report(outcome)
            self._reported = True

    async def execute(self) -> None:
        """Call the handler and report how it ended; ``stop`` cancels the task that awaits this."""
        self._task = asyncio.current_task()
        try:
            outcome = await self._outcome()
        except BaseException as error:  # noqa: BLE001 - a handler may raise anything at all
            outcome = self._judged(error)
        try:
            self._end()
        except Exception:
            # Whatever it left, the handler has ended as it has.
            logger.exception("an attempt was not put away", extra=logger_fields(self.fetched))
        self._say(outcome)
        if self._tools is not None:
            watch_leftovers(self._tools.record, outcome)
        if self._thread is not None:
            await self._end_of_thread(self._thread)

    async def _outcome(self) -> Outcome:
        handler = self._runnable.handler
        arguments = handler.arguments(self.fetched.payload)
        limit = self._runnable.options.timeout
        if limit is None:
            result = await self._call(arguments)
        else:
            self.desk.limit = asyncio.timeout(limit.total_seconds())
            async with self.desk.limit:
                result = await self._call(arguments)
        if self._tools is not None:
            self._check_end(self._tools)
        text = self._encode_result(result)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("completed", extra=logger_fields(self.fetched))
        return Completed(self.fetched.id, self.fetched.claim, text)

    def _check_end(self, tools: Tools) -> None:
        """A handler that has returned may not have been entitled to."""
        if tools.waits.suspended_by is not None:
            raise SuspensionSwallowed(tools.waits.suspended_by)
        if tools.record.broken is not None:
            raise tools.record.broken
        if tools.record.completed:
            # If it was committed, the database knows better.
            raise CompletionNotCommitted(self.fetched.id)

    def _call(self, arguments: tuple[Any, ...]) -> Awaitable[Any]:
        handler = self._runnable.handler
        if handler.is_async:
            call: Awaitable[Any] = handler.function(self.context, *arguments)
            return call
        return self._in_thread(arguments)

    async def _in_thread(self, arguments: tuple[Any, ...]) -> Any:
        function = self._runnable.handler.function
        call = partial(copy_context().run, function, self.context, *arguments)
        threads = self._threads.handlers
        self._thread = asyncio.get_running_loop().run_in_executor(threads, call)
        result = await asyncio.shield(self._thread)
        if not inspect.isawaitable(result):
            return result
        # A wrapper, or a lambda, does not tell before that there is an async function in it.
        self._thread, self._in_loop = None, True
        if self._stop is not None:
            if inspect.iscoroutine(result):
                result.close()
            raise asyncio.CancelledError
        if self._tools is not None:
            self._tools.record.go_on_in(asyncio.current_task())
        return await result

    async def _end_of_thread(self, thread: asyncio.Future[Any]) -> None:
        """A thread cannot be ended from outside: its slot is taken until it ends by itself."""
        if thread.done() or self._abandoned:
            return
        self.desk.outlived()
        await asyncio.wait([thread])
        if not thread.cancelled() and (error := thread.exception()) is not None:
            logger.info(
                "a plain handler raised after its attempt had ended: %s",
                shown(error),
                extra=logger_fields(self.fetched),
            )

    def _judged(self, error: BaseException) -> Outcome:
        try:
            return self._failure(error)
        except Exception as broken:  # noqa: BLE001 - without an outcome, it would be tried for ever
            broken.add_note(f"while the end of a handler was judged: {type(error).__name__}")
            return mishap(self.fetched, broken, self._runnable.options.retry)

    def _retry_after(self, error: Exception) -> timedelta | None:
        """When to try again, by the policy; a policy that fails says that there is no other try."""
        try:
            return self._runnable.options.retry.decide(error, self.fetched.attempt)
        except Exception as broken:
            logger.error(
                "the retry policy failed: %s",
                shown(broken),
                exc_info=broken if is_modest(broken) else None,
                extra=logger_fields(self.fetched),
            )
            self._note = f"No retry: its retry policy raised {shown(broken)}"
            return None

    def _told(self, error: BaseException) -> Failure:
        failure = Failure.from_exception(error)
        return failure.noted(self._note) if self._note else failure

    def _failure(self, error: BaseException) -> Outcome:
        """What an error means: a stop that was asked for, or a failure, to be retried or not."""
        fetched = self.fetched
        waits = self._tools.waits if self._tools is not None else None
        if waits is not None and waits.suspended_by is not None:
            if consists_of(error, (Ending, asyncio.CancelledError)):
                if waits.overdue:
                    return Released(fetched.id, fetched.claim)
                return Suspended(fetched.id, fetched.claim, waits.wakes)
            if not isinstance(error, SuspensionSwallowed):
                swallowed = SuspensionSwallowed(waits.suspended_by)
                swallowed.__cause__ = error
                error = swallowed
        if self._stop is None and self._timed_out and consists_of(error, _TOLD):
            error = TimeoutError()  # It was told while it cleaned up.
        refusal = self._tools.record.refusal if self._tools is not None else None
        if refusal is not None and self._stop is None and consists_of(error, Interrupted):
            error = refusal
        stopped = self._stop is not None or consists_of(error, Interrupted)
        if stopped and consists_of(error, _TOLD):
            return Released(fetched.id, fetched.claim)
        if isinstance(error, TimeoutError) and self._timed_out:
            self.context.tell_cancelled()
            limit = self._runnable.options.timeout
            error = TimeoutError(f"the attempt took longer than {limit}").with_traceback(
                error.__traceback__
            )
        if is_of_others(error):
            return given_back(fetched, error)
        if holds(error, _FINAL):
            retry_after = None
        elif isinstance(error, Exception):
            retry_after = self._retry_after(error)
        else:
            # SystemExit, KeyboardInterrupt and the like end the attempt, never the process. They
            # are no Exception, so the policy's default would not retry them.
            retry_after = self._runnable.options.retry.delay(fetched.attempt)
        committed = self._tools is not None and self._tools.record.committed
        tell_failure(fetched, error, retry_after, committed=committed)
        return Failed(fetched.id, fetched.claim, self._told(error), retry_after)
