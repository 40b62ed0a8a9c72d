"""When an invoke wakes workers, and when a notification for several does."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from pgconductor.repositories.errors import is_transient
from pgconductor.services.unit_of_work import UnitOfWork

__all__ = ["Crier"]

#: So many notifications of a queue in a row are sent at once.
_BURST: Final = 8
#: Then one in so many seconds.
_SPACING: Final = 0.005

logger = logging.getLogger("pgconductor.executions")


class Crier:
    """Thins out the notifications of one process.

    ``NOTIFY`` takes a lock of the whole database until its transaction has committed, so that those
    who notify cannot share a flush to disk, and each notification has every listener look. Where
    few are invoked, each invoke carries its own notification. Where many are, most are silent, and
    one notification follows some milliseconds later for all of them. If that one is lost, workers
    find out at their next poll.

    Args:
        work: Where later notifications are sent.
        clock: Monotonic seconds.
    """

    def __init__(self, work: UnitOfWork, clock: Callable[[], float] = time.monotonic) -> None:
        self._work = work
        self._clock = clock
        # For each queue, the monotonic second up to which its notifications have been spent.
        self._spent: dict[str, float] = {}
        self._silent: set[str] = set()
        #: When a statement has last notified each queue.
        self._cried: dict[str, float] = {}
        self._crying: asyncio.Task[None] | None = None

    def may_cry(self, queue: str) -> bool:
        """Whether a statement may notify a queue now; if so, that is taken note of.

        If that statement fails, call :meth:`cry_later`.
        """
        now = self._clock()
        spent = max(self._spent.get(queue, 0.0), now - _BURST * _SPACING) + _SPACING
        if spent > now:
            return False
        self._spent[queue] = spent
        # What was committed in silence before now is announced by that statement.
        self._silent.discard(queue)
        self._cried[queue] = now
        return True

    def cry_later(self, queue: str) -> None:
        """Something was committed in silence: notify the queue soon."""
        self._silent.add(queue)
        if self._crying is None:
            self._crying = asyncio.create_task(self._cry(), name="pgconductor-announce")

    async def _cry(self) -> None:
        try:
            while self._silent:
                await asyncio.sleep(_SPACING)
                # While the flood goes on, an invoke will soon carry the notification.
                since = self._clock() - _SPACING
                queues = {one for one in self._silent if self._cried.get(one, 0.0) <= since}
                self._silent -= queues
                if queues:
                    async with self._work.begin() as repositories:
                        await repositories.executions.announce(queues)
        except Exception as error:
            if not is_transient(error):
                raise
            logger.info("workers find at their next poll what was invoked: %r", error)
        finally:
            self._crying = None

    async def aclose(self) -> None:
        """Send what is still to be sent."""
        if self._crying is not None:
            await asyncio.wait([self._crying])
