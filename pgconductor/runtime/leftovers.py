"""What a handler has left at work when it ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from pgconductor.domain.outcomes import Completed, Outcome
from pgconductor.runtime.context import logger_fields
from pgconductor.runtime.record import Record
from pgconductor.runtime.suspension import Ending, consists_of

__all__ = ["end_leftovers"]

logger: Final = logging.getLogger("pgconductor.executions")


async def end_leftovers(record: Record, outcome: Outcome) -> None:
    """Cancel the branches of an attempt that has ended: nothing that they do is recorded any more.

    A step would go on beside the next attempt's, and end with the error that its execution is
    somebody else's by now.

    Args:
        record: The attempt's record.
        outcome: How the handler has ended.
    """
    left = record.leftovers()
    if not left:
        return
    fetched = record.fetched
    returned = isinstance(outcome, Completed)
    logger.log(
        # Where one of several raises in gather(), the others are left by no mistake.
        logging.WARNING if returned else logging.INFO,
        "task %r has ended while %s was under way, which is cancelled%s",
        fetched.task_key,
        ", ".join(sorted(repr(key) for key in left.values())),
        ": a handler must await what it begins" if returned else "",
        extra=logger_fields(fetched),
    )
    try:
        await record.memory.quiet()
    finally:
        for branch in left:
            branch.add_done_callback(_looked_at(logger_fields(fetched)))
            branch.cancel()


def _looked_at(fields: dict[str, Any]) -> Callable[[asyncio.Task[Any]], None]:
    """Have asyncio not complain that nobody has looked at how a branch has ended."""

    def look(branch: asyncio.Task[Any]) -> None:
        if branch.cancelled() or (error := branch.exception()) is None:
            return
        if not consists_of(error, (Ending, asyncio.CancelledError)):
            logger.info("a branch raised after its attempt had ended: %r", error, extra=fields)

    return look
