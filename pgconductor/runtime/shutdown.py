"""The end of an orchestrator, in the order in which nothing is lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from pgconductor.domain.backoff import Backoff
from pgconductor.runtime.attempt import Stop
from pgconductor.runtime.machine import Machine
from pgconductor.runtime.wording import trouble
from pgconductor.runtime.worker import Worker

__all__ = ["close", "end_handlers", "flush", "leave"]

logger = logging.getLogger("pgconductor.orchestrator")

_FLUSH_SECONDS: Final = 10.0
_LEAVE_SECONDS: Final = 5.0
_CANCEL_SECONDS: Final = 2.0


async def end_handlers(workers: Sequence[Worker], *, grace: float, hurry: asyncio.Event) -> bool:
    """Give back what has not started, and wait for the handlers.

    After the grace, or when hurried, they are cancelled; those that do not end even then are left
    behind, and their executions given back without them.

    Args:
        workers: The workers.
        grace: How many seconds handlers may go on.
        hurry: Set to end the grace at once.

    Returns:
        Whether all ended by themselves.
    """
    for worker in workers:
        worker.stop_fetching()
    if workers:
        workers[0].process.lookout.suspend_all()
    everything = asyncio.create_task(_all_ended(workers))
    hurried = asyncio.create_task(hurry.wait())
    try:
        await asyncio.wait(
            [everything, hurried], timeout=grace, return_when=asyncio.FIRST_COMPLETED
        )
        if everything.done():
            return True
        for worker in workers:
            worker.stop_attempts(Stop.INTERRUPTED)
        await asyncio.wait([everything], timeout=min(grace, _CANCEL_SECONDS))
        left = sum(worker.abandon_attempts() for worker in workers)
        if left:
            logger.error("%d handlers did not end; their executions are given back", left)
        return False
    finally:
        everything.cancel()
        hurried.cancel()


async def _all_ended(workers: Sequence[Worker]) -> None:
    for worker in workers:
        await worker.ended()


async def flush(machine: Machine) -> bool:
    """Wait until every outcome is written, within reason; whether they all are."""
    try:
        async with asyncio.timeout(_FLUSH_SECONDS):
            await machine.process.completer.flushed()
    except TimeoutError:
        logger.error("outcomes could not be written in time; others will take them over")
        return False
    return True


async def leave(machine: Machine) -> bool:
    """Give back what is held and remove the orchestrator's row, within reason; whether it went."""
    backend = machine.process.backend
    backoff = Backoff()
    try:
        async with asyncio.timeout(_LEAVE_SECONDS):
            while True:
                try:
                    recovery = await backend.orchestrators.leave(machine.registration)
                except Exception as error:
                    if not backend.is_transient(error):
                        logger.exception("could not leave; others will find this one stale")
                        return False
                    logger.warning("leaving is delayed, %s", trouble(error))
                else:
                    if not recovery.left:
                        return True
                    logger.info("leaving is delayed, for others have locked what is held")
                await asyncio.sleep(backoff.next())
    except TimeoutError:
        logger.error("could not leave in time; others will find this orchestrator stale")
        return False


async def close(machine: Machine) -> None:
    """End the loops and the heartbeat's thread, and let go of handlers' threads."""
    for loop in machine.loops:
        loop.cancel()
    # Whatever they raised was reported when they ended.
    await asyncio.gather(*machine.loops, return_exceptions=True)
    await machine.lookout.aclose()
    await machine.process.journal.aclose()
    machine.heartbeat.stop()
    if machine.heartbeat.ident is not None:
        # Not joined in a thread of the default pool: handlers may have all of those.
        await machine.heartbeat.joined(5.0)
    machine.process.threads.shutdown()
