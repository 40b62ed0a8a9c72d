"""What is told of attempts that have failed, and of those that others have ended."""

from __future__ import annotations

import logging
import random
from datetime import timedelta
from typing import Final

from pgconductor.domain.claims import Fetched
from pgconductor.domain.failures import is_modest, leaves, shown
from pgconductor.domain.outcomes import Released
from pgconductor.exceptions import TransactionConflict
from pgconductor.runtime.context import logger_fields

__all__ = ["given_back", "is_of_others", "tell_failure"]

#: Seconds before an attempt that others have ended is made again.
_PAUSE: Final = (0.2, 2.0)

logger = logging.getLogger("pgconductor.executions")


def is_of_others(error: BaseException) -> bool:
    """Whether nothing but a conflict that is no doing of the handler's has ended it."""
    return all(isinstance(one, TransactionConflict) and one.by_others for one in leaves(error))


def given_back(fetched: Fetched, error: BaseException) -> Released:
    """An attempt that others have ended: it does not count, and is made again soon.

    Args:
        fetched: The execution.
        error: What the handler has raised.
    """
    logger.warning("given back: %s", shown(error), extra=logger_fields(fetched))
    pause = timedelta(seconds=random.uniform(*_PAUSE))  # noqa: S311 - no secret
    return Released(fetched.id, fetched.claim, pause)


def tell_failure(
    fetched: Fetched, error: BaseException, retry_after: timedelta | None, *, committed: bool
) -> None:
    """Log that an attempt has failed.

    Args:
        fetched: The execution.
        error: What the handler has raised.
        retry_after: When it is tried again, if an attempt is left; None for not at all.
        committed: Whether it was completed in a transaction of its own that has committed.
    """
    if committed:
        # Completed, unless a failover has lost that: then it is to be tried again.
        logger.debug("completed in a transaction", extra=logger_fields(fetched))
        return
    last = retry_after is None or fetched.attempt >= fetched.max_attempts
    whole = logger.isEnabledFor(logging.DEBUG) and is_modest(error)
    logger.log(
        logging.WARNING if last else logging.INFO,
        "failed: %s (%s)",
        shown(error),
        "no retry" if last else f"retry in {retry_after}",
        exc_info=error if whole else None,
        extra=logger_fields(fetched),
    )
