"""What becomes of an execution when the engine itself fails around its handler."""

from __future__ import annotations

import logging
from typing import Final
from uuid import UUID

from pgconductor.domain.claims import Claim, Fetched
from pgconductor.domain.outcomes import Failed, Failure
from pgconductor.domain.retry import RetryPolicy
from pgconductor.runtime.context import logger_fields

__all__ = ["mishap", "unread"]

_DEFAULT: Final = RetryPolicy()
#: The delay after an execution that cannot be read: nobody knows how often it was tried.
_UNREAD: Final = 3

logger = logging.getLogger("pgconductor.executions")


def mishap(fetched: Fetched, error: BaseException, retry: RetryPolicy = _DEFAULT) -> Failed:
    """Log a failure of the engine's own, which counts as an attempt.

    If it did not, the execution would be tried again at once, and for ever.

    Args:
        fetched: The execution.
        error: What the engine raised.
        retry: The task's policy, which says when to try again, whatever the error.
    """
    logger.critical(
        "the engine failed around a handler of %s, execution %s; it counts as an attempt",
        fetched.task_key,
        fetched.id,
        exc_info=error,
        extra=logger_fields(fetched),
    )
    try:
        delay = retry.delay(fetched.attempt)
    except Exception:  # noqa: BLE001 - it is the application's, and may be what has failed
        delay = _DEFAULT.delay(fetched.attempt)
    return Failed(fetched.id, fetched.claim, _failure(error), delay)


def unread(execution_id: UUID, claim: Claim, error: Exception) -> Failed:
    """The same for an execution that was fetched, and could not be read.

    Args:
        execution_id: The execution.
        claim: Its owner.
        error: What the fetch raised.
    """
    logger.critical(
        "execution %s was fetched and cannot be read; it counts as an attempt",
        execution_id,
        exc_info=error,
        extra={"execution_id": str(execution_id)},
    )
    return Failed(execution_id, claim, _failure(error), _DEFAULT.delay(_UNREAD))


def _failure(error: BaseException) -> Failure:
    try:
        return Failure.from_exception(error)
    except Exception as broken:  # noqa: BLE001 - whatever it is, there must be an outcome
        return Failure(type(error).__name__[:200], f"it cannot be told: {type(broken).__name__}")
