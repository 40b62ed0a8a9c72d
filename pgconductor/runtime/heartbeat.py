"""The heartbeat, on a thread and a connection of its own, which a blocked handler cannot starve."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import random
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final, Protocol

from pgconductor.domain.orchestrators import Heartbeat
from pgconductor.exceptions import NotRegistered
from pgconductor.runtime.wording import describe
from pgconductor.settings import Settings

__all__ = ["HeartbeatThread", "Link", "elapsed_clock"]

#: Seconds for the first beat after a time in which the process stood still.
_LAST_CHANCE: Final = 1.0

logger = logging.getLogger("pgconductor.heartbeat")


class Link(Protocol):
    """A way to beat; made, used and closed in the thread's own event loop."""

    async def beat(self) -> Heartbeat:
        """Beat once."""
        ...

    async def aclose(self) -> None:
        """Close the connection."""
        ...


def elapsed_clock() -> float:
    """Seconds that have passed, those of a suspended machine included where the system tells."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class HeartbeatThread(threading.Thread):
    """Beats until stopped, and calls back on the main loop.

    Args:
        make_link: Makes the connection, called in the thread.
        settings: Intervals.
        loop: The main loop, where the callbacks are called.
        on_answer: Called with each answer.
        on_evicted: Called when the row is gone.
        on_failure: Called with the error of a beat that was not acknowledged.
        on_fence: Called with True when the last acknowledged beat is too old, and with False when
            there is one again.
    """

    def __init__(
        self,
        make_link: Callable[[], Link],
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
        *,
        on_answer: Callable[[Heartbeat], None],
        on_evicted: Callable[[], None],
        on_failure: Callable[[Exception], None],
        on_fence: Callable[[bool], None],
    ) -> None:
        super().__init__(name="pgconductor-heartbeat", daemon=True)
        self._make_link = make_link
        self._settings = settings
        self._loop = loop
        self._on_answer = on_answer
        self._on_evicted = on_evicted
        self._on_failure = on_failure
        self._on_fence = on_fence
        self._ended = asyncio.Event()
        self._own_loop: asyncio.AbstractEventLoop | None = None
        self._nudged: asyncio.Event | None = None
        self._stopping = False
        self._fenced = False
        self._last_ack = elapsed_clock()
        self._failed = False
        self._main_alive_at = elapsed_clock()
        self._stall_reported = False
        self._interval = settings.heartbeat_interval.total_seconds()

    @property
    def interval(self) -> float:
        """Beat as often as this, in seconds; the orchestrator shortens it while nobody listens."""
        return self._interval

    @interval.setter
    def interval(self, seconds: float) -> None:
        shorter, self._interval = seconds < self._interval, seconds
        if shorter:
            # Not only after a pause of the old length.
            self._nudge()

    def main_is_alive(self) -> None:
        """The main loop says so, every second or so."""
        self._main_alive_at = elapsed_clock()

    def beat_now(self) -> None:
        """Beat at once, for there may be something to learn. May be called from any thread."""
        self._nudge()

    def stop(self) -> None:
        """End the thread; join it afterwards."""
        self._stopping = True
        self._nudge()

    def _nudge(self) -> None:
        loop, nudged = self._own_loop, self._nudged
        if loop is not None and nudged is not None:
            with suppress(RuntimeError):  # The thread's loop has just ended.
                loop.call_soon_threadsafe(nudged.set)

    async def joined(self, seconds: float) -> None:
        """Wait for the thread's end, for so long at the most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ended.wait()

    def run(self) -> None:
        """The thread's body."""
        try:
            asyncio.run(self._beat_forever())
        finally:
            self._call(self._ended.set)

    async def _beat_forever(self) -> None:
        self._own_loop = asyncio.get_running_loop()
        self._nudged = asyncio.Event()
        link = self._make_link()
        try:
            while not self._stopping:
                self._nudged.clear()
                self._watch_main_loop()
                if self._main_loop_dead():
                    logger.critical("the event loop has been blocked for too long: not alive")
                elif not await self._beat(link):
                    return
                self._check_fence()
                pause = self._pause()
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._nudged.wait()
        finally:
            await link.aclose()

    def _pause(self) -> float:
        pause = self.interval * random.uniform(0.9, 1.1)  # noqa: S311 - no secret
        if self._failed or elapsed_clock() - self._last_ack > self.interval:
            # Tried again soon: the fence is near, or there is something to learn.
            pause = min(pause, 1.0)
        left = self._left()
        return min(pause, left) if left > 0 else pause

    def _left(self) -> float:
        """Seconds until the fence."""
        fence = self._settings.self_fence_after.total_seconds()
        return fence - (elapsed_clock() - self._last_ack)

    def _patience(self) -> float | None:
        """Seconds that a beat may take; None for as many as the link has."""
        if (left := self._left()) > 0:
            return left
        # The process stood still. This beat may find that nobody has missed it; if it hangs, the
        # fence must close all the same. What is fenced already has nothing to hurry for.
        return None if self._fenced else _LAST_CHANCE

    async def _beat(self, link: Link) -> bool:
        """Beat once; False if the row is gone."""
        started = elapsed_clock()
        try:
            # No answer must not keep the fence from closing in time.
            async with asyncio.timeout(self._patience()):
                answer = await link.beat()
        except NotRegistered:
            if not self._stopping:
                self._call(self._on_evicted)
            return False
        except Exception as error:  # noqa: BLE001 - whatever it is, the next beat may succeed
            self._failed = True
            logger.warning("a heartbeat was not acknowledged: %s", describe(error))
            self._call(partial(self._on_failure, error))
            return True
        self._last_ack = started
        self._failed = False
        self._call(lambda: self._on_answer(answer))
        return True

    def _check_fence(self) -> None:
        fenced = self._left() <= 0
        if fenced != self._fenced:
            self._fenced = fenced
            self._call(lambda: self._on_fence(fenced))

    def _main_loop_dead(self) -> bool:
        stall = elapsed_clock() - self._main_alive_at
        return stall > self._settings.max_loop_stall.total_seconds()

    def _watch_main_loop(self) -> None:
        stall = elapsed_clock() - self._main_alive_at
        if stall < self._settings.stale_after.total_seconds():
            self._stall_reported = False
        elif not self._stall_reported:
            self._stall_reported = True
            logger.error(
                "the event loop has been blocked for %.0f s: some async handler computes or waits "
                "without await; make it a plain function, which gets a thread",
                stall,
            )
            with suppress(OSError, ValueError):  # A redirected stderr has no file descriptor.
                faulthandler.dump_traceback(all_threads=True)

    def _call(self, callback: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # The main loop has ended; nobody is left to be told.
            self._loop.call_soon_threadsafe(callback)
