"""Looks whether what executions wait for has come: those here in memory, and all that are due."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final
from uuid import UUID

from pgconductor.domain.backoff import Backoff
from pgconductor.runtime.waits import Waits
from pgconductor.runtime.wording import trouble
from pgconductor.services.backend import Backend

__all__ = ["Lookout"]

_MOST: Final = 500
#: Seconds after which it looks again, at the latest, at what somebody else had locked.
_SOON: Final = 0.2

logger = logging.getLogger("pgconductor.waits")


class Lookout:
    """Settles waits, and tells attempts that are in memory.

    Args:
        backend: The database.
        interval: Seconds between two looks at all that is due, at most.
        activity: Counts what has happened, for :attr:`looked_at`.
        on_looked: Called after each look at all that is due.
    """

    def __init__(
        self,
        backend: Backend,
        interval: float,
        *,
        activity: Callable[[], int] = lambda: 0,
        on_looked: Callable[[], None] = lambda: None,
    ) -> None:
        self._backend = backend
        self._interval = interval
        self._activity = activity
        self._on_looked = on_looked
        #: How many looks at all that is due there have been.
        self.looks = 0
        #: The count of activity when the last of them began.
        self.looked_at: int | None = None
        self._here: dict[UUID, Waits] = {}
        self._parents: dict[str, UUID] = {}
        self._children: dict[UUID, set[str]] = {}
        self._looking_for: dict[UUID, None] = {}
        self._working: asyncio.Task[None] | None = None
        self._kicked = asyncio.Event()
        self._leaving = False

    # What attempts ask for.

    def watch(self, waits: Waits, child_id: UUID | None) -> None:
        """Tell these waits when what they wait for has come, for instance a child."""
        self._here[waits.execution_id] = waits
        if child_id is not None:
            self._parents[str(child_id)] = waits.execution_id
            self._children.setdefault(waits.execution_id, set()).add(str(child_id))
        if self._leaving:
            # Its wait was on its way into the record when the others were told.
            waits.leave()

    def forget(self, waits: Waits) -> None:
        """They wait for nothing any more."""
        if self._here.get(waits.execution_id) is waits:
            del self._here[waits.execution_id]
            for child in self._children.pop(waits.execution_id, ()):
                self._parents.pop(child, None)

    def look(self, execution_id: UUID) -> None:
        """Something may have come for this execution, whoever holds it."""
        self._looking_for[execution_id] = None
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work(), name="pgconductor-lookout")

    def keeps(self, waits: Waits, seconds: float) -> bool:  # noqa: ARG002 - the protocol's
        """See the protocol: they go by the clock of this process."""
        return False

    # What is heard.

    def child_ended(self, child_id: str) -> None:
        """An execution that somebody waits for has finished."""
        parent = self._parents.pop(child_id, None)
        if parent is not None and parent in self._here:
            self.look(parent)

    def look_at_all(self) -> None:
        """Something may have come for any execution that is here."""
        for execution_id in self._here:
            self.look(execution_id)

    def kick(self) -> None:
        """Something may have come for any execution at all."""
        self._kicked.set()

    def suspend_all(self) -> None:
        """Suspend whatever does nothing but wait, from now on."""
        self._leaving = True
        for waits in list(self._here.values()):
            waits.leave()

    async def _work(self) -> None:
        backoff = Backoff()
        while self._looking_for:
            batch = list(self._looking_for)[:_MOST]
            for one in batch:
                del self._looking_for[one]
            seen = {one: self._seen(one) for one in batch}
            try:
                answers = await self._backend.steps.settle(seen)
            except Exception as error:
                if not self._backend.is_transient(error):
                    # All that is due is looked at in any case, sooner or later.
                    logger.exception("waits could not be settled")
                    continue
                # A handler that has gone on may be what locks a row. Others are due in any case.
                self._looking_for |= {one: None for one in batch if one in self._here}
                logger.warning("waits are delayed, %s", trouble(error))
                await asyncio.sleep(backoff.next())
                continue
            for settled in answers:
                waits = self._here.get(settled.execution_id)
                if waits is not None:
                    waits.settled(settled)
            # What could not be settled is tried again with all that is due.
            done = {settled.execution_id for settled in answers}
            locked = seen.keys() - done - set(self._backend.steps.aside)
            if not locked:
                backoff.reset()
                continue
            # Others find those that are not here.
            self._looking_for |= {one: None for one in locked if one in self._here}
            self.kick()
            await asyncio.sleep(min(backoff.next(), _SOON))

    def _seen(self, execution_id: UUID) -> int | None:
        waits = self._here.get(execution_id)
        return None if waits is None else waits.seen()

    async def run(self) -> None:
        """Look at all that is due, until cancelled."""
        backoff = Backoff()
        while True:
            self._kicked.clear()
            pause = self._interval
            activity = self._activity()
            try:
                next_in = await self._backend.steps.settle_due()
                backoff.reset()
                self.looks += 1
                self.looked_at = activity
                self._on_looked()
                if next_in is not None:
                    pause = min(pause, max(next_in.total_seconds(), 0.0))
            except Exception as error:
                if not self._backend.is_transient(error):
                    logger.exception("looking at what is due failed; it will be tried again")
                else:
                    logger.warning("waits are delayed, %s", trouble(error))
                pause = max(pause, backoff.next())
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._kicked.wait()

    async def aclose(self) -> None:
        """End."""
        if self._working is not None:
            self._working.cancel()
            await asyncio.wait([self._working])
