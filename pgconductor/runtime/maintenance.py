"""The engine's own chores: recover the dead, and find what is held and not known."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from uuid import UUID

from pgconductor.domain.orchestrators import StaleObserver
from pgconductor.domain.outcomes import Released
from pgconductor.runtime.mishaps import unread
from pgconductor.runtime.wording import trouble
from pgconductor.runtime.worker import Process, Worker

__all__ = ["Maintenance"]

logger = logging.getLogger("pgconductor.maintenance")


class Maintenance:
    """A loop of its own, not a task: it must not get stuck behind what it has to free.

    Args:
        process: What the workers share.
        workers: The workers.
    """

    def __init__(self, process: Process, workers: Sequence[Worker]) -> None:
        self._process = process
        self._workers = workers
        self._observer = StaleObserver(process.settings.stale_after)

    async def run(self) -> None:
        """Sweep until cancelled."""
        interval = self._process.settings.sweep_interval.total_seconds()
        while True:
            try:
                await self._recover_stale()
                await self._reconcile()
            except Exception as error:
                if not self._process.backend.is_transient(error):
                    logger.exception("a sweep failed; there will be another")
                else:
                    # What was seen before the gap proves nothing: the others had it too.
                    self._observer = StaleObserver(self._process.settings.stale_after)
                    logger.warning("a sweep failed, %s", trouble(error))
            # Not all orchestrators at the same moment.
            await asyncio.sleep(interval * random.uniform(0.9, 1.1))  # noqa: S311 - no secret

    async def _recover_stale(self) -> None:
        process = self._process
        recovery = await process.backend.orchestrators.recover_stale(
            self._observer, registration=process.registration
        )
        if recovery.executions or recovery.orchestrators:
            logger.warning(
                "recovered %d executions of %d stale orchestrators (%d failed, %d cancelled)",
                recovery.executions,
                len(recovery.orchestrators),
                recovery.failed,
                recovery.cancelled,
            )

    async def _reconcile(self) -> None:
        """Give back what the database says is held here and nobody here knows.

        That is what a fetch took whose answer was lost. What is fetched while this looks is left
        out; what ends while this looks is safe, for giving back must prove the claim as well.
        """
        in_flight = {number for worker in self._workers for number in worker.fetching}
        oldest = min(in_flight, default=None)
        upper = self._process.registration.next_claim().number
        held = await self._process.backend.completing.held(self._process.registration)
        for execution_id, claim in held.items():
            if claim.number > upper or (oldest is not None and claim.number >= oldest):
                continue
            if self._known(execution_id):
                continue
            error = self._process.unread.get(claim.number)
            if error is not None and list(held.values()).count(claim) == 1:
                self._process.completer.add(unread(execution_id, claim, error))
            else:
                logger.warning(
                    "an execution was held and not known here, as after a lost answer; given back",
                    extra={"execution_id": str(execution_id)},
                )
                self._process.completer.add(Released(execution_id, claim))
        for number in list(self._process.unread):
            if number <= upper and (oldest is None or number < oldest):
                del self._process.unread[number]

    def _known(self, execution_id: UUID) -> bool:
        return self._process.completer.knows(execution_id) or any(
            worker.knows(execution_id) for worker in self._workers
        )
