"""What an attempt is: the part of a handler's context that needs no record."""

from __future__ import annotations

import logging
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from pgconductor.domain.claims import Fetched
from pgconductor.exceptions import ConfigurationError
from pgconductor.runtime.durable import Durable
from pgconductor.runtime.races import Races
from pgconductor.runtime.reasons import CANCELLED, INSISTENT, STOPPING
from pgconductor.runtime.record import Record
from pgconductor.runtime.steps import Steps
from pgconductor.runtime.suspension import Interrupted
from pgconductor.runtime.waits import Waits

__all__ = ["AttemptContext", "Tools", "logger_fields"]

#: How often a handler that catches Exception is told that it can begin nothing any more.
_INSISTENT: Final = 100
#: How often one is told that catches BaseException.
_HOPELESS: Final = 1000

_logger = logging.getLogger("pgconductor.task")


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


@dataclass(frozen=True, slots=True)
class Tools:
    """What steps and waits of an attempt need.

    Attributes:
        record: The execution's record.
        waits: What the attempt waits for.
        steps: Its steps.
        durable: Its waits, children and events.
        races: Its races.
        max_payload_bytes: Largest payload, as JSON.
    """

    record: Record
    waits: Waits
    steps: Steps
    durable: Durable
    races: Races
    max_payload_bytes: int


class AttemptContext:
    """What an attempt is, and how its handler learns that it is to end.

    Args:
        fetched: The execution.
        make_tools: Makes what steps and waits need, when the first is begun; None where nothing can
            be recorded.
        why: Says why nothing can be recorded any more; None if it can.
    """

    __slots__ = (
        "_cancelled",
        "_fetched",
        "_interrupt",
        "_logger",
        "_make_tools",
        "_refusals",
        "_tools",
        "_why",
    )

    def __init__(
        self,
        fetched: Fetched,
        make_tools: Callable[[], Tools] | None = None,
        why: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._fetched = fetched
        self._make_tools = make_tools
        self._why = why
        self._tools: Tools | None = None
        # Plain handlers look at them from their thread; nobody waits for them.
        self._cancelled = False
        self._interrupt = False
        self._refusals = 0
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
        return self._cancelled or self._why() is not None

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
        try:
            self.check()
        except BaseException as error:
            self._refuse(error)
            if self._tools is None:
                raise
            await self._tools.record.never_if_hopeless()
            raise

    def check(self) -> None:
        """The same as :meth:`checkpoint`, for plain handlers."""
        if self._tools is not None:
            self._tools.record.check_open()
        why = self._why()
        if why is not None or self._cancelled or self._interrupt:
            raise Interrupted(why or (CANCELLED if self._cancelled else STOPPING))

    def _durable(self) -> Tools:
        """What steps and waits need; a boundary."""
        try:
            self.check()
        except BaseException as error:
            self._refuse(error)
            if self._tools is None or not self._tools.record.hopeless:
                raise
        tools = self._made()
        tools.steps.check_loop()
        return tools

    def _made(self) -> Tools:
        if self._tools is None:
            if self._make_tools is None:
                raise ConfigurationError("there is no database to record steps in")
            self._tools = self._make_tools()
        return self._tools

    def _refuse(self, error: BaseException) -> None:
        """The handler can begin nothing any more; it may catch that, and ask again for ever.

        It never waits then, so nothing else would be executed in the event loop any more.
        """
        self._refusals += 1
        if self._refusals > _HOPELESS:
            self._made().record.hopeless = True
        elif self._refusals > _INSISTENT and isinstance(error, Exception):
            raise Interrupted(INSISTENT) from error

    def tell_cancelled(self) -> None:
        """Have ``cancelled`` read True from now on; the engine calls it."""
        self._cancelled = True

    def tell_stopping(self) -> None:
        """Have the next boundary end the attempt; the engine calls it."""
        self._interrupt = True
