"""The asyncio tasks in which handlers are executed, as few as can be."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from contextvars import copy_context
from typing import Any, Final

from pgconductor.runtime.attempt import Attempt

__all__ = ["Relay"]

#: Seconds after which handlers that never wait let the event loop have a turn.
_TURN: Final = 0.002

logger = logging.getLogger("pgconductor.worker")


class Relay:
    """Executes attempts, one after another in one asyncio task until a handler waits.

    A task of its own for each attempt costs more than all that the engine does for it otherwise.
    So a handler that returns without having waited for anything is followed by the next one in the
    same task. One that waits keeps the task, which ends with it, and the next task takes over. Each
    attempt begins in a fresh context: what has changed its context, or was cancelled, is the last
    of its task, too.

    Args:
        take: Returns the next attempt, or None if nothing may start now.
        on_waiting: Called when a handler begins to wait.
        on_ended: Called when an attempt has ended, with whether its handler had waited.
        on_free: Called when the task that took attempts has ended: start again if need be.
    """

    def __init__(
        self,
        take: Callable[[], Attempt | None],
        on_waiting: Callable[[Attempt], None],
        on_ended: Callable[[Attempt, bool], None],
        on_free: Callable[[], None],
    ) -> None:
        self._take = take
        self._on_waiting = on_waiting
        self._on_ended = on_ended
        self._on_free = on_free
        self._context = copy_context()
        self._tasks: set[asyncio.Task[None]] = set()
        #: The one that takes attempts; the others wait with their handlers.
        self._carrier: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Have attempts taken, if that is not under way."""
        if self._carrier is None:
            # Never eager, whatever the loop's task factory: a task that begins at once would have
            # handed over before it is known here.
            self._carrier = asyncio.Task(
                self._carry(), loop=asyncio.get_running_loop(), context=self._context.copy()
            )
            self._tasks.add(self._carrier)
            self._carrier.add_done_callback(self._on_task_ended)

    async def _carry(self) -> None:
        turn = time.monotonic()
        while (attempt := self._take()) is not None:
            execution = _UntilItWaits(attempt.execute(), self._hand_over, attempt)
            try:
                await execution
            except GeneratorExit:
                # A plain handler's own, which Python has everybody on its way learn of.
                return
            except Exception as error:  # noqa: BLE001 - a mistake of ours: the next one is executed
                attempt.broke(error)
                return
            finally:
                try:
                    attempt.finish()
                finally:
                    self._on_ended(attempt, execution.waited)
            if execution.waited or attempt.stopped or copy_context() != self._context:
                return
            if time.monotonic() - turn > _TURN:
                await asyncio.sleep(0)
                turn = time.monotonic()

    def _hand_over(self, attempt: Attempt) -> None:
        self._carrier = None
        self._on_waiting(attempt)

    def _on_task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.critical("an attempt ended unexpectedly", exc_info=error)
        if self._carrier is task:
            self._carrier = None
            self._on_free()


class _UntilItWaits:
    """Awaits a coroutine, and calls back when it waits for the first time."""

    __slots__ = ("_attempt", "_coroutine", "_on_waiting", "waited")

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, None],
        on_waiting: Callable[[Attempt], None],
        attempt: Attempt,
    ) -> None:
        self._coroutine = coroutine
        self._on_waiting = on_waiting
        self._attempt = attempt
        self.waited = False

    def __await__(self) -> Generator[Any, Any, None]:
        coroutine = self._coroutine
        try:
            awaited = coroutine.send(None)
            self.waited = True
            self._on_waiting(self._attempt)
            while True:
                if self._attempt.hopeless:
                    _drop(coroutine)
                    return
                try:
                    answer = yield awaited
                except BaseException as error:  # noqa: BLE001 - it is the coroutine's, whatever it is
                    awaited = coroutine.throw(error)
                else:
                    awaited = coroutine.send(answer)
        except StopIteration:
            return


def _drop(coroutine: Coroutine[Any, Any, None]) -> None:
    """End a coroutine that catches whatever is to end it."""
    with suppress(RuntimeError):  # It has caught this, too.
        coroutine.close()
