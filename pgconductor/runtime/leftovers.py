"""What a handler has left at work when it ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakSet

from pgconductor.domain.failures import is_modest, shown
from pgconductor.domain.outcomes import Completed, Outcome
from pgconductor.runtime.context import logger_fields
from pgconductor.runtime.record import Record
from pgconductor.runtime.suspension import Ending, consists_of

__all__ = ["watch_leftovers"]

logger: Final = logging.getLogger("pgconductor.executions")

#: An asyncio task of the application's may take steps for one execution after another.
_watched: Final[WeakSet[asyncio.Task[Any]]] = WeakSet()


def watch_leftovers(record: Record, outcome: Outcome) -> None:
    """Tell how branches of an attempt that has ended end, if nobody else does.

    None is cancelled: it may be the application's, or serve other executions as well. What it
    begins or records from now on ends it.

    Args:
        record: The attempt's record.
        outcome: How the handler has ended.
    """
    for branch, key in record.leftovers().items():
        if branch not in _watched:
            _watched.add(branch)
            branch.add_done_callback(_told(record, key, returned=isinstance(outcome, Completed)))


def _told(record: Record, key: str, *, returned: bool) -> Callable[[asyncio.Task[Any]], None]:
    fetched = record.fetched

    def tell(branch: asyncio.Task[Any]) -> None:
        # Where somebody has looked at how it ended, it is not for asyncio to complain.
        unseen = getattr(branch, "_log_traceback", False)
        if branch.cancelled() or (error := branch.exception()) is None:
            return
        if consists_of(error, Ending):
            logger.log(
                # Where one of several raises in gather(), the others are left by no mistake.
                logging.WARNING if returned else logging.INFO,
                "a branch of task %r went on after %r when its handler had ended; what it does is "
                "not on record: a handler must await what it begins",
                fetched.task_key,
                key,
                extra=logger_fields(fetched),
            )
        elif unseen:
            logger.error(
                "a branch raised after its handler had ended: %s",
                shown(error),
                exc_info=error if is_modest(error) else None,
                extra=logger_fields(fetched),
            )

    return tell
