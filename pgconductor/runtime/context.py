"""What a handler is given."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from datetime import datetime
from typing import Any
from uuid import UUID

from pgconductor.domain.claims import Fetched

__all__ = ["Interrupted", "TaskContext", "logger_fields"]

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
    """

    __slots__ = ("_cancelled", "_fetched", "_interrupt", "_logger")

    def __init__(self, fetched: Fetched) -> None:
        self._fetched = fetched
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

    def tell_cancelled(self) -> None:
        """Have ``cancelled`` read True from now on; the engine calls it."""
        self._cancelled = True

    def tell_stopping(self) -> None:
        """Have the next boundary end the attempt; the engine calls it."""
        self._interrupt = True
