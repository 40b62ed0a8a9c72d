"""Settling in batches: an execution that cannot be settled does not hold up the others."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from pgconductor.domain.steps import Settled
from pgconductor.repositories.errors import is_of_the_statement, trouble
from pgconductor.services.unit_of_work import UnitOfWork

__all__ = ["Settling"]

#: Seconds until an execution is tried again that could not be settled, the first time and at most.
_FIRST: Final = 1.0
_LONGEST: Final = 60.0

logger = logging.getLogger("pgconductor.waits")


@dataclass(slots=True)
class _Aside:
    """An execution that could not be settled.

    Attributes:
        until: When it may be tried again, by the process's clock.
        pause: How long it is left alone.
        settled: How many statements had settled something when it failed.
        suspected: Whether something was settled between its last two failures, and it was not.
    """

    until: float
    pause: float
    settled: int
    suspected: bool = True


class Settling:
    """Settles executions, many in one statement; a batch that fails is halved down to the one.

    Halves of a batch come after everything else. The one is named in the log and left alone for a
    while, each time for longer. If nothing could be settled between its failures, it is tried again
    as soon as something can: that may have been everybody's trouble, a lock on the table for
    instance.

    Args:
        work: The database.
        clock: Tells seconds.
    """

    def __init__(self, work: UnitOfWork, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._work = work
        self._clock = clock
        self._aside: dict[UUID, _Aside] = {}
        self._settled = 0

    @property
    def aside(self) -> Collection[UUID]:
        """Executions that are left alone for now."""
        now = self._clock()
        return {one for one, it in self._aside.items() if it.until > now}

    @property
    def again(self) -> list[UUID]:
        """Executions that were left alone long enough."""
        now = self._clock()
        return [one for one, it in self._aside.items() if it.until <= now]

    @property
    def next_in(self) -> float | None:
        """Seconds until the next of them may be tried again; None if there is none."""
        if not self._aside:
            return None
        return max(min(it.until for it in self._aside.values()) - self._clock(), 0.0)

    async def settle(
        self, seen: Mapping[UUID, int | None], *, until: datetime | None = None
    ) -> list[Settled]:
        """See the repository; those that are left alone are left out, as locked ones are."""
        aside = self.aside
        here = {one: known for one, known in seen.items() if one not in aside}
        # Those that have failed before fail alone.
        batches = deque([{one: it for one, it in here.items() if one not in self._aside}])
        batches += ({one: it} for one, it in here.items() if one in self._aside)
        answers: list[Settled] = []
        while batches:
            batch = batches.popleft()
            if not batch:
                continue
            try:
                async with self._work.begin() as repositories:
                    answers += await repositories.steps.settle(batch, until=until)
            except Exception as error:
                if not is_of_the_statement(error):
                    raise
                batches += self._halves(batch, error)
            else:
                self._went_well(batch)
        return answers

    def _went_well(self, batch: Mapping[UUID, int | None]) -> None:
        self._settled += 1
        for one in batch:
            self._aside.pop(one, None)
        for one, it in self._aside.items():
            if not it.suspected:
                self._aside[one] = _Aside(self._clock(), _FIRST, self._settled)

    def _halves(
        self, batch: Mapping[UUID, int | None], error: Exception
    ) -> list[dict[UUID, int | None]]:
        if len(batch) > 1:
            items = list(batch.items())
            middle = len(items) // 2
            return [dict(items[:middle]), dict(items[middle:])]
        (one,) = batch
        before = self._aside.get(one)
        pause = _FIRST if before is None else min(before.pause * 2.0, _LONGEST)
        suspected = before is None or before.settled < self._settled
        self._aside[one] = _Aside(self._clock() + pause, pause, self._settled, suspected)
        logger.warning(
            "the waits of execution %s are delayed, the others go on; %s: %s",
            one,
            trouble(error),
            error,
            extra={"execution_id": str(one)},
        )
        return []
