"""Before a revision that shuts orchestrators out: ask them to stop, and wait until they have left.

The order closes the race with those that start meanwhile. First the intent is committed at the
gate; from then on the statement that registers refuses them, and one that was under way has ended,
for it held the gate's row. Then whoever is registered is asked, again at every look. The guard in
the revision counts once more, with the gate locked.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar
from uuid import UUID

from sqlalchemy.exc import DBAPIError

from pgconductor.domain.migrations import MigrationOptions, OnDeadline, WaitedFor
from pgconductor.domain.orchestrators import Recovery, StaleObserver
from pgconductor.exceptions import DrainTimeout
from pgconductor.repositories.errors import is_undefined, sqlstate
from pgconductor.services.gate import GateLink
from pgconductor.services.lease import Lease
from pgconductor.services.orchestrators import OrchestratorService

__all__ = ["Drain", "ShutOut"]

T = TypeVar("T")

_PAUSE: Final = (0.1, 1.0)
_REPORT_EVERY: Final = 10.0


@dataclass(frozen=True, slots=True)
class ShutOut:
    """Whom a revision shuts out.

    Attributes:
        what: The revision, for people.
        floor: Those that do not know this revision.
        ceiling: Those that need more than this one.
    """

    what: str
    floor: int | None = None
    ceiling: int | None = None


class Drain:
    """Waits for orchestrators; one for each migration, so that deadlines hold across its tries.

    Args:
        link: The migration's connection.
        lease: Its lease, which must be held.
        options: How patient it is.
    """

    def __init__(self, link: GateLink, lease: Lease, options: MigrationOptions) -> None:
        self.drained: set[UUID] = set()
        self.evicted: set[UUID] = set()
        self._link = link
        self._lease = lease
        self._options = options
        self._observer = StaleObserver(options.stale_after)
        self._too_old = False
        self._began: dict[ShutOut, float] = {}

    def wait(self, shut_out: ShutOut) -> None:
        """Ask them to stop, again and again, until none is left.

        Raises:
            DrainTimeout: Some are there at the deadline, and are not to be evicted.
            LeaseLost: Another migration has taken over.
        """
        began = self._began.setdefault(shut_out, time.monotonic())
        told, before = float("-inf"), dict[UUID, WaitedFor]()
        note = f"waiting for orchestrators that {shut_out.what} shuts out"
        while True:
            self._lease.note(note, floor=shut_out.floor, ceiling=shut_out.ceiling)
            there = {one.id: one for one in self._ask(shut_out)}
            self.drained |= before.keys() - there.keys() - self.evicted
            if not there:
                return
            waited = time.monotonic() - began
            left = self._options.drain_timeout.total_seconds() - waited
            if left <= 0:
                self._deadline(shut_out, there, waited)
            elif waited - told >= _REPORT_EVERY or there.keys() != before.keys():
                told = waited
                self._report(shut_out, list(there.values()), waited, left)
            before = there
            pause = random.uniform(*_PAUSE)  # noqa: S311 - no secret
            self._link.pause(min(pause, left) if left > 0 else pause)

    def _ask(self, shut_out: ShutOut) -> list[WaitedFor]:
        """Ask all who are there to stop; those that are dead are recovered and removed."""
        floor, ceiling = shut_out.floor, shut_out.ceiling
        self._link.ask_to_stop(
            reason=f"a migration: {shut_out.what}", below_version=floor, above_required=ceiling
        )
        self._recover()
        return self._tolerant(
            lambda: self._link.ask(
                lambda gate: gate.waited_for(below_version=floor, above_required=ceiling)
            ),
            lambda: self._link.ask(
                lambda gate: gate.registered(below_version=floor, above_required=ceiling)
            ),
        )

    def _recover(self) -> None:
        """Take back what the dead hold, by this release's statements on the schema before it."""
        recovery = self._tolerant(
            lambda: self._link.call(lambda service: service.recover_stale(self._observer)), Recovery
        )
        self.evicted |= recovery.orchestrators
        for one in recovery.orchestrators:
            self._link.report(f"orchestrator {one} was found stale; its executions go to others")

    def _tolerant(self, call: Callable[[], T], otherwise: Callable[[], T]) -> T:
        """What the call says; something less where the schema is not that of this release."""
        if not self._too_old:
            try:
                return call()
            except DBAPIError as error:
                if not is_undefined(error):
                    raise
                self._too_old = True
                self._link.settle()
                self._link.report(
                    "this release cannot take back what dead orchestrators hold before the "
                    f"revision is applied ({sqlstate(error)}); those of the older release do, "
                    "while they live"
                )
        return otherwise()

    def _deadline(self, shut_out: ShutOut, there: dict[UUID, WaitedFor], waited: float) -> None:
        named = "; ".join(map(str, there.values()))
        # Evicting ends, too: somebody may hold locks on what they hold.
        last = self._options.drain_timeout + self._options.lock_wait
        if (
            self._options.on_drain_timeout is not OnDeadline.EVICT
            or self._too_old
            or waited > last.total_seconds()
        ):
            raise DrainTimeout(
                f"{shut_out.what} shuts out orchestrators that have not left within "
                f"{waited:.0f} s: {named}. Nothing was changed for it; stop them and try again, "
                "or have them evicted (pgconductor migrate --evict, -x on_drain_timeout=evict)",
                tuple(there),
            )
        for one in there.values():
            evict = partial(self._link.call, partial(_evict, one.id))
            if self._tolerant(evict, Recovery).orchestrators:
                self.evicted.add(one.id)
                self._link.report(f"evicted: {one}")

    def _report(
        self, shut_out: ShutOut, there: list[WaitedFor], waited: float, left: float
    ) -> None:
        named = "; ".join(map(str, there))
        self._link.report(
            f"{shut_out.what}: {counted(len(there))} to leave first, waited "
            f"{waited:.0f} s, {left:.0f} s left: {named}"
        )


def counted(number: int) -> str:
    """How many orchestrators have something to do, for people."""
    return "1 orchestrator has" if number == 1 else f"{number} orchestrators have"


async def _evict(orchestrator_id: UUID, service: OrchestratorService) -> Recovery:
    return await service.evict(orchestrator_id)
