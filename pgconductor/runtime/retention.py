"""The removal of executions that finished long ago and of old events, a little at a time."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import Final

from pgconductor.domain.retention import FOREVER, Removal
from pgconductor.runtime.wording import describe
from pgconductor.runtime.worker import Process
from pgconductor.services.retention import REMOVAL_BATCH

__all__ = ["RetentionLoop"]

logger = logging.getLogger("pgconductor.retention")

#: After each piece it rests for so many times as long as the piece took.
_REST: Final = 9
_LEAST_REST: Final = 0.01
#: After an error that will not pass by itself, a missing privilege for instance.
_AFTER_TROUBLE: Final = 300.0


class RetentionLoop:
    """A loop of its own, on a connection of its own: nothing on the hot path waits for it.

    All orchestrators share one walk through the executions, so that many of them do no more than
    one. It takes a tenth of the time at most.

    Args:
        process: What the workers share.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._link = process.backend.retention_link()
        self._removed = 0
        self._events = 0

    async def run(self) -> None:
        """Remove until cancelled."""
        try:
            while True:
                pause = await self._pause()
                await asyncio.sleep(pause)
        finally:
            await asyncio.shield(self._link.aclose())

    async def _pause(self) -> float:
        """Go on by one piece, and say how long to rest."""
        idle = self._process.settings.sweep_interval.total_seconds()
        # Not all orchestrators at the same moment.
        idle *= random.uniform(0.9, 1.1)  # noqa: S311 - no secret
        began = time.monotonic()
        try:
            removal = await self._link.remove_expired(self._process.settings.retention)
            events = await self._remove_events()
        except Exception as error:
            await self._link.rest()
            if self._process.backend.is_transient(error):
                logger.warning("removing old executions is delayed: %s", describe(error))
                return idle
            logger.exception("old executions are not removed; there will be another try")
            return max(idle, _AFTER_TROUBLE)
        self._tell(removal)
        if (removal is None or removal.ended) and events < REMOVAL_BATCH:
            await self._link.rest()
            return idle
        return max((time.monotonic() - began) * _REST, _LEAST_REST)

    async def _remove_events(self) -> int:
        """Remove a piece of the events that are older than they are kept; how many it was."""
        retain = self._process.settings.retain_events
        removed = 0 if retain == FOREVER else await self._link.remove_events(retain)
        self._events += removed
        if self._events and removed < REMOVAL_BATCH:
            logger.info("removed %d events that were emitted long ago", self._events)
            self._events = 0
        return removed

    def _tell(self, removal: Removal | None) -> None:
        """Once a walk, not once a piece."""
        if removal is not None:
            self._removed += removal.removed
        if self._removed and (removal is None or removal.ended):
            logger.info("removed %d executions that finished long ago", self._removed)
            self._removed = 0
