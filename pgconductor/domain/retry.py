"""When a failed attempt is tried again."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import timedelta

from pgconductor.domain.failures import leaves
from pgconductor.domain.limits import MAX_DELAY, check_duration
from pgconductor.exceptions import DoNotRetry, InvalidInput, RetryAfter

__all__ = ["RetryPolicy"]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with jitter.

    The delay after attempt *n* is ``first_delay * factor ** (n - 1)``, at most ``max_delay``, of
    which a random share of up to ``jitter`` is taken off, so that executions that failed together
    do not come back together.

    Attributes:
        first_delay: Delay after the first attempt.
        max_delay: The longest delay.
        factor: Growth from one attempt to the next, at least 1.
        jitter: Share of the delay that may be taken off at random, from 0 to 1.
        fatal: Types of errors that are never retried.
        retryable: Types of errors that are retried; the default is every ``Exception``.
    """

    first_delay: timedelta = timedelta(seconds=15)
    max_delay: timedelta = timedelta(hours=2)
    factor: float = 2.0
    jitter: float = 0.2
    fatal: tuple[type[BaseException], ...] = ()
    retryable: tuple[type[BaseException], ...] = (Exception,)

    def __post_init__(self) -> None:
        check_duration(self.first_delay, "first_delay")
        check_duration(self.max_delay, "max_delay")
        if self.max_delay < self.first_delay:
            raise InvalidInput("max_delay", "must not be shorter than first_delay")
        if not 1.0 <= self.factor <= 1000.0:
            raise InvalidInput("factor", f"{self.factor} is out of range (1 to 1000)")
        if not 0.0 <= self.jitter <= 1.0:
            raise InvalidInput("jitter", f"{self.jitter} is out of range (0 to 1)")

    @classmethod
    def constant(cls, delay: timedelta) -> RetryPolicy:
        """The same delay after every attempt, without jitter."""
        return cls(first_delay=delay, max_delay=delay, factor=1.0, jitter=0.0)

    def delay(self, attempt: int, rng: random.Random | None = None) -> timedelta:
        """How long to wait after attempt number ``attempt``, which is 1 for the first.

        Args:
            attempt: The attempt that has just failed.
            rng: Source of the jitter; the default is the shared one.
        """
        # An exponent past 64 only overflows: the cap has long been reached.
        grown = self.first_delay.total_seconds() * self.factor ** min(attempt - 1, 64)
        seconds = min(grown, self.max_delay.total_seconds())
        share = (rng.random() if rng else random.random()) * self.jitter  # noqa: S311 - no secret
        return timedelta(seconds=seconds * (1.0 - share))

    def decide(self, error: BaseException, attempt: int) -> timedelta | None:
        """The delay before the next attempt, or None where ``error`` ends the execution.

        A group, as a ``TaskGroup`` raises, is retried if all that is in it is, unless a policy
        names it itself.
        """
        own = self.delay(attempt)
        longest = timedelta(0)
        for one in leaves(error, self._is_judged_whole):
            delay = self._decide_one(one, own)
            if delay is None:
                return None
            longest = max(longest, delay)
        return longest

    def _is_judged_whole(self, group: BaseException) -> bool:
        return isinstance(group, (DoNotRetry, *self.fatal)) or self._names(group)

    def _decide_one(self, error: BaseException, own: timedelta) -> timedelta | None:
        if isinstance(error, (DoNotRetry, *self.fatal)):
            return None
        if isinstance(error, RetryAfter):
            asked = _bounded(error.delay)
            return own if asked is None else asked
        return own if isinstance(error, self.retryable) else None

    def _names(self, group: BaseException) -> bool:
        return any(
            isinstance(group, kind)
            for kind in self.retryable
            if issubclass(kind, BaseExceptionGroup)
        )


def _bounded(delay: object) -> timedelta | None:
    """A handler's own delay as the database can add it to an instant; None if it is none."""
    if not isinstance(delay, timedelta):
        return None
    return max(timedelta(0), min(delay, MAX_DELAY))
