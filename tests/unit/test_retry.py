"""When a failed attempt is tried again."""

from __future__ import annotations

import math
import random
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgconductor.domain.limits import MAX_DELAY
from pgconductor.domain.retry import RetryPolicy
from pgconductor.exceptions import DoNotRetry, InvalidInput, RetryAfter

SECOND = timedelta(seconds=1)
MICROSECOND = timedelta(microseconds=1)

durations = st.timedeltas(MICROSECOND, MAX_DELAY)


@st.composite
def policies(draw: st.DrawFn) -> RetryPolicy:
    first, longest = sorted([draw(durations), draw(durations)])
    return RetryPolicy(
        first_delay=first,
        max_delay=longest,
        factor=draw(st.floats(1, 1000)),
        jitter=draw(st.floats(0, 1)),
    )


@given(policies(), st.integers(1, 1_000_000), st.randoms(use_true_random=False))
def test_a_delay_is_never_longer_than_the_longest_nor_negative(
    policy: RetryPolicy, attempt: int, rng: random.Random
) -> None:
    """I9: whatever the numbers, nothing overflows."""
    delay = policy.delay(attempt, rng)
    assert timedelta(0) <= delay <= policy.max_delay + MICROSECOND
    shortest = min(policy.first_delay, policy.max_delay) * (1 - policy.jitter)
    assert delay >= shortest - MICROSECOND


@given(policies(), st.integers(1, 200))
def test_without_jitter_delays_only_grow(policy: RetryPolicy, attempt: int) -> None:
    steady = RetryPolicy(policy.first_delay, policy.max_delay, policy.factor, jitter=0.0)
    assert steady.delay(1) - steady.first_delay <= MICROSECOND
    assert steady.delay(attempt) <= steady.delay(attempt + 1) <= steady.max_delay


def test_the_default_grows_from_fifteen_seconds_to_two_hours() -> None:
    policy = RetryPolicy(jitter=0.0)
    delays = [policy.delay(attempt) for attempt in range(1, 12)]
    assert delays[:4] == [15 * SECOND, 30 * SECOND, 60 * SECOND, 120 * SECOND]
    assert delays[-1] == delays[-2] == timedelta(hours=2)


def test_jitter_takes_off_a_share_at_random() -> None:
    policy = RetryPolicy(first_delay=100 * SECOND, jitter=0.2)
    seen = {policy.delay(1, random.Random(seed)) for seed in range(200)}
    assert len(seen) > 100
    assert 80 * SECOND <= min(seen) < 83 * SECOND
    assert 97 * SECOND < max(seen) <= 100 * SECOND
    assert policy.delay(1) <= 100 * SECOND


def test_a_constant_policy() -> None:
    policy = RetryPolicy.constant(5 * SECOND)
    assert {policy.delay(attempt) for attempt in (1, 2, 50)} == {5 * SECOND}


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"first_delay": timedelta(0)}, "first_delay"),
        ({"first_delay": -SECOND}, "first_delay"),
        ({"first_delay": 15}, "first_delay"),
        ({"max_delay": MAX_DELAY + SECOND}, "max_delay"),
        ({"max_delay": SECOND}, "max_delay"),
        ({"factor": 0.5}, "factor"),
        ({"factor": math.nan}, "factor"),
        ({"factor": math.inf}, "factor"),
        ({"factor": 1001}, "factor"),
        ({"jitter": -0.1}, "jitter"),
        ({"jitter": 1.1}, "jitter"),
        ({"jitter": math.nan}, "jitter"),
    ],
    ids=repr,
)
def test_a_policy_that_makes_no_sense_is_refused(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        RetryPolicy(**options)
    assert caught.value.field == field


# --- which errors --------------------------------------------------------------------------------


class BusinessError(Exception):
    pass


class FatalError(BusinessError):
    pass


def test_every_exception_is_retried_by_default() -> None:
    policy = RetryPolicy.constant(SECOND)
    for error in (ValueError(), BusinessError(), TimeoutError(), ExceptionGroup("g", [OSError()])):
        assert policy.decide(error, 1) == SECOND


def test_what_is_no_exception_is_final() -> None:
    policy = RetryPolicy.constant(SECOND)
    for error in (SystemExit(1), KeyboardInterrupt(), GeneratorExit()):
        assert policy.decide(error, 1) is None


def test_fatal_errors_are_final_even_if_retryable() -> None:
    policy = RetryPolicy(fatal=(FatalError,), retryable=(BusinessError,))
    assert policy.decide(FatalError(), 1) is None
    assert policy.decide(BusinessError(), 1) is not None
    assert policy.decide(ValueError(), 1) is None


def test_a_handler_can_say_when_or_never() -> None:
    policy = RetryPolicy.constant(SECOND)
    assert policy.decide(DoNotRetry("broken"), 1) is None
    assert policy.decide(RetryAfter(timedelta(minutes=7)), 1) == timedelta(minutes=7)
    # Said on purpose, it counts also where the policy would retry nothing else.
    assert RetryPolicy(retryable=()).decide(RetryAfter(SECOND), 1) == SECOND
    assert RetryPolicy(fatal=(RetryAfter,)).decide(RetryAfter(SECOND), 1) is None


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (timedelta.max, MAX_DELAY),
        (MAX_DELAY + SECOND, MAX_DELAY),
        (-SECOND, timedelta(0)),
        (timedelta.min, timedelta(0)),
        (timedelta(0), timedelta(0)),
    ],
)
def test_what_a_handler_asks_for_stays_in_range(asked: timedelta, expected: timedelta) -> None:
    """A time past the database's last year would spoil the whole batch of outcomes."""
    assert RetryPolicy().decide(RetryAfter(asked), 1) == expected


@pytest.mark.parametrize("asked", [30, 1.5, "soon", None])
def test_a_delay_of_another_type_falls_back_to_the_policy(asked: Any) -> None:
    """Nobody is there to read the TypeError of a handler that is failing anyway."""
    assert RetryPolicy.constant(SECOND).decide(RetryAfter(asked), 1) == SECOND


class NoStock(Exception):
    """Not to be retried."""


@pytest.mark.parametrize(
    ("errors", "retried"),
    [
        ([ValueError()], True),
        ([ValueError(), DoNotRetry()], False),
        ([ValueError(), NoStock()], False),
        ([ExceptionGroup("inner", [NoStock()])], False),
        ([KeyError()], False),
    ],
)
def test_a_group_is_retried_if_all_that_is_in_it_is(errors: list[Exception], retried: bool) -> None:
    """A TaskGroup raises nothing else."""
    policy = RetryPolicy(fatal=(NoStock,), retryable=(ValueError,))
    assert (policy.decide(ExceptionGroup("group", errors), 1) is not None) is retried


def test_a_group_waits_as_long_as_the_most_patient_in_it() -> None:
    policy = RetryPolicy.constant(SECOND)
    group = ExceptionGroup("group", [RetryAfter(5 * SECOND), ValueError()])
    assert policy.decide(group, 1) == 5 * SECOND


def test_a_group_may_be_meant_itself() -> None:
    group = ExceptionGroup("group", [ValueError()])
    assert RetryPolicy(fatal=(ExceptionGroup,)).decide(group, 1) is None
    assert RetryPolicy(retryable=(ExceptionGroup,)).decide(group, 1) is not None
