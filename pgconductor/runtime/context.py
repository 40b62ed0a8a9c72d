"""What a handler is given."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, overload
from uuid import UUID

from pgconductor.domain.claims import Fetched
from pgconductor.exceptions import ConfigurationError
from pgconductor.runtime.steps import Steps

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

__all__ = ["Interrupted", "TaskContext", "logger_fields"]

P = ParamSpec("P")
R = TypeVar("R")

_logger = logging.getLogger("pgconductor.task")


class Interrupted(BaseException):
    """Ends a handler at a boundary; no ``Exception``, so that no handler swallows it."""


def logger_fields(fetched: Fetched) -> dict[str, Any]:
    """The fields that every log record about an execution carries."""
    return {
        "execution_id": str(fetched.id),
        "task": fetched.task_key,
        "queue": fetched.queue,
        "attempt": fetched.attempt,
    }


class _ExecutionLogger(logging.LoggerAdapter[logging.Logger]):
    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs


class TaskContext:
    """An attempt of an execution, as its handler sees it. Handlers do not make one.

    Args:
        fetched: The execution.
        make_steps: Makes its steps, when the first is taken; None where nothing can be recorded.
    """

    __slots__ = ("_cancelled", "_fetched", "_interrupt", "_logger", "_make_steps", "_steps")

    def __init__(self, fetched: Fetched, make_steps: Callable[[], Steps] | None = None) -> None:
        self._fetched = fetched
        self._make_steps = make_steps
        self._steps: Steps | None = None
        # Plain handlers look at them from their thread; nobody waits for them.
        self._cancelled = False
        self._interrupt = False
        self._logger: _ExecutionLogger | None = None

    @property
    def execution_id(self) -> UUID:
        """The execution's id; with a step's name it makes an idempotency key for other systems."""
        return self._fetched.id

    @property
    def task(self) -> str:
        """The task's name."""
        return self._fetched.task_key

    @property
    def queue(self) -> str:
        """The queue it was fetched from."""
        return self._fetched.queue

    @property
    def attempt(self) -> int:
        """1 at the first try."""
        return self._fetched.attempt

    @property
    def max_attempts(self) -> int:
        """How many tries the execution has."""
        return self._fetched.max_attempts

    @property
    def priority(self) -> int:
        """Its priority; higher was sooner."""
        return self._fetched.priority

    @property
    def run_at(self) -> datetime:
        """When it was due."""
        return self._fetched.run_at

    @property
    def created_at(self) -> datetime:
        """When it was invoked."""
        return self._fetched.created_at

    @property
    def cancelled(self) -> bool:
        """Whether the handler should end: cancelled, timed out, or no longer the owner.

        An async handler is told by ``asyncio.CancelledError`` as well; a plain one has only this.
        """
        return self._cancelled

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose records carry execution, task, queue and attempt."""
        if self._logger is None:
            self._logger = _ExecutionLogger(_logger, logger_fields(self._fetched))
        return self._logger

    async def checkpoint(self) -> None:
        """A boundary: if the process is to stop or the execution is to end, it ends here.

        A long handler that calls it now and then lets a deploy go ahead without waiting for it;
        the attempt is given back, and the execution starts anew elsewhere.
        """
        self.check()

    def check(self) -> None:
        """The same as :meth:`checkpoint`, for plain handlers."""
        if self._interrupt or self._cancelled:
            raise Interrupted

    @overload
    async def step(
        self, key: str, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    @overload
    async def step(
        self, key: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...

    async def step(
        self, key: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Any:
        """Call a function once, and remember what it returns: a later attempt gets that back.

        The result is recorded before it is returned, and is what the record holds: after a crash
        between the two, the function is called again. So let its effects elsewhere be repeatable,
        for instance by ``ctx.execution_id`` and the key as an idempotency key. If it raises,
        nothing is recorded. Steps of concurrent branches may be taken in any order.

        It is a boundary as well: if the process is to stop, the attempt ends before the step.

        Args:
            key: Its name, one of a kind within an attempt; see :meth:`numbered`.
            function: Async, or plain: then it is called in a thread. Its return hint is the type of
                the result, which must be storable as JSON.
            args: What to call it with.
            kwargs: Likewise.

        Returns:
            What it returned, now or in an earlier attempt.

        Raises:
            InvalidName: The key is empty, too long, or holds control characters.
            DuplicateStep: The key was taken already in this attempt.
            ResultEncodeError: The result cannot be stored.
            OwnershipLost: The execution is held by somebody else by now; nothing was recorded.
        """
        self.check()
        return await self._recording().take(key, function, args, kwargs)

    async def transact(
        self,
        key: str,
        function: Callable[Concatenate[AsyncSession, P], Awaitable[R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """A step in a transaction of the application's own database: exactly once.

        The function gets a session of the conductor's sessionmaker. What it writes, the record of
        the step and the proof that this process still holds the execution commit together, or not
        at all. A later attempt gets the result back and writes nothing again. After a serialization
        failure or a deadlock the function is called again, in another session: let it do nothing
        but write to it.

        Args:
            key: See :meth:`step`.
            function: Async; it must neither commit nor roll back, nor keep what it was given.
            args: What to call it with after the session.
            kwargs: Likewise.

        Returns:
            What it returned, now or in an earlier attempt.

        Raises:
            DuplicateStep: The key was taken already in this attempt.
            ResultEncodeError: The result cannot be stored; everything is rolled back.
            OwnershipLost: The execution is held by somebody else by now; everything is rolled back.
        """
        self.check()
        result: R = await self._recording().transact(key, function, args, kwargs)
        return result

    def step_here(
        self, key: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """The same as :meth:`step`, for plain handlers: the function is called in their thread.

        Args:
            key: See :meth:`step`.
            function: A plain function.
            args: What to call it with.
            kwargs: Likewise.

        Raises:
            ConfigurationError: An async handler calls it, which would wait for itself.
        """
        self.check()
        result: R = self._recording().take_here(key, function, args, kwargs)
        return result

    def numbered(self, key: str) -> str:
        """A key with a number that counts up within the attempt, for steps in a loop.

        The order of the calls must be the same in each attempt: number the keys of concurrent
        branches before they branch.

        Args:
            key: What is numbered, for instance ``page``; the first is ``page#1``.

        Raises:
            InvalidName: It cannot name a step.
        """
        return self._recording().numbered(key)

    def _recording(self) -> Steps:
        if self._steps is None:
            if self._make_steps is None:
                raise ConfigurationError("there is no database to record steps in")
            self._steps = self._make_steps()
        return self._steps

    def tell_cancelled(self) -> None:
        """Have ``cancelled`` read True from now on; the engine calls it."""
        self._cancelled = True

    def tell_stopping(self) -> None:
        """Have the next boundary end the attempt; the engine calls it."""
        self._interrupt = True
