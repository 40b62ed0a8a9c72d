"""A lock that is handed over in order, also between event loops in different threads."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from concurrent.futures import Future
from typing import Any

__all__ = ["Turns"]


class Turns:
    """One at a time, first come, first served.

    An ``asyncio.Lock`` belongs to one event loop, and an orchestrator beats in another.

    Args:
        timeout: How many seconds to wait at most.
    """

    def __init__(self, timeout: float = 30.0) -> None:
        self._timeout = timeout
        self._guard = threading.Lock()
        self._holder: asyncio.Task[Any] | None = None
        self._taken = False
        self._waiting: deque[tuple[asyncio.Task[Any] | None, Future[None]]] = deque()

    async def take(self) -> None:
        """Wait for the turn.

        Raises:
            RuntimeError: This very task has it, so that it would wait for itself.
            TimeoutError: Whoever has it did not give it back in time.
        """
        task = asyncio.current_task()
        with self._guard:
            if not self._taken:
                self._taken, self._holder = True, task
                return
            if self._holder is task:
                raise RuntimeError(
                    "a transaction on this FakeDatabase is open in this very task and has "
                    "written: end it first, or write through it"
                )
            turn: Future[None] = Future()
            self._waiting.append((task, turn))
        try:
            async with asyncio.timeout(self._timeout):
                await asyncio.wrap_future(turn)
        except BaseException:
            # It may have been handed over just now, in another thread.
            if not turn.cancel() and not turn.cancelled():
                self.give()
            raise

    def give(self) -> None:
        """Hand over to whoever has waited longest."""
        with self._guard:
            self._taken, self._holder = False, None
            while self._waiting and not self._taken:
                task, turn = self._waiting.popleft()
                if turn.set_running_or_notify_cancel():
                    self._taken, self._holder = True, task
                    turn.set_result(None)
