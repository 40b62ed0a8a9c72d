"""Parts of the runtime by themselves, without a database."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import uuid4

import pytest

from pgconductor import RetryPolicy
from pgconductor.domain.claims import Claim, Fetched
from pgconductor.domain.outcomes import (
    Failed,
    Outcome,
    Released,
)
from pgconductor.domain.tasks import TaskOptions
from pgconductor.exceptions import DoNotRetry
from pgconductor.runtime.attempt import Attempt, Runnable
from pgconductor.runtime.gate import StartGate
from pgconductor.runtime.handler import Handler
from pgconductor.runtime.prefetch import Prefetch
from pgconductor.runtime.threads import DaemonThreads, Threads, in_thread
from tests.support.waiting import eventually

CLAIM = Claim(uuid4(), 1)


def fetched(**changes: Any) -> Fetched:
    now = datetime.now(UTC)
    fields: dict[str, Any] = {
        "id": uuid4(),
        "claim": CLAIM,
        "task_key": "task",
        "queue": "default",
        "payload": None,
        "attempt": 1,
        "max_attempts": 3,
        "crashes": 0,
        "max_crashes": 3,
        "priority": 0,
        "run_at": now,
        "created_at": now,
    }
    return Fetched(**{**fields, **changes})


# --- attempts ------------------------------------------------------------------------------------


async def outcome_of(
    function: Callable[..., Any], policy: RetryPolicy | None = None, **changes: Any
) -> Outcome:
    reported: list[Outcome] = []
    threads = Threads.of(handlers=1, steps=1)
    attempt = Attempt(
        fetched(**changes),
        Runnable(TaskOptions("task", retry=policy or RetryPolicy()), Handler.of(function)),
        threads=threads,
        report=reported.append,
        max_result_bytes=1000,
    )
    await asyncio.wait_for(asyncio.create_task(attempt.execute()), 20)
    threads.shutdown()
    (outcome,) = reported
    return outcome


class Unruly(RetryPolicy):
    def decide(self, error: BaseException, attempt: int) -> timedelta | None:
        raise LookupError("the policy itself")


@pytest.mark.parametrize(
    "policy",
    [Unruly(), RetryPolicy(retryable=cast("Any", [ValueError]))],
    ids=["raises", "a list where a tuple is due"],
)
async def test_a_retry_policy_that_raises_ends_the_execution(policy: RetryPolicy) -> None:
    """I3, I9: given back instead, it would be tried again at once, and for ever."""

    async def handler(ctx: object) -> None:
        raise ValueError("the handler")

    outcome = await outcome_of(handler, policy)
    assert isinstance(outcome, Failed)
    assert outcome.retry_after is None
    assert outcome.failure.type == "ValueError"
    assert outcome.failure.message == "the handler"
    assert "its retry policy raised" in (outcome.failure.traceback or "")


@pytest.mark.parametrize("kind", ["async", "plain"])
@pytest.mark.parametrize(
    "error",
    [
        SystemExit(3),
        KeyboardInterrupt(),
        asyncio.CancelledError(),
        GeneratorExit(),
        StopIteration(1),
        StopAsyncIteration(),
        BaseExceptionGroup("two", [SystemExit(1), ValueError()]),
        RecursionError(),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_a_handler_raises_is_a_failure(kind: str, error: BaseException) -> None:
    """Reliability 5: it ends the attempt and never the process, and counts as one."""

    async def asynchronous(ctx: object) -> None:
        raise error

    def plain(ctx: object) -> None:
        raise error

    outcome = await outcome_of(asynchronous if kind == "async" else plain)
    assert isinstance(outcome, Failed)
    assert outcome.retry_after is not None


async def test_an_error_that_cannot_be_shown() -> None:
    """Reliability 5: the user's error may be broken itself."""

    class BrokenError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

        __repr__ = __str__

    async def handler(ctx: object) -> None:
        raise BrokenError

    outcome = await outcome_of(handler)
    assert isinstance(outcome, Failed)
    assert outcome.failure.type == "BrokenError"
    assert "cannot be shown" in outcome.failure.message


async def test_an_error_with_text_that_postgres_cannot_store() -> None:
    """Reliability 5 and semantics 6: NUL and lone surrogates are escaped, length is cut."""

    async def handler(ctx: object) -> None:
        raise DoNotRetry("a\x00b\ud800" + "x" * 100_000)

    outcome = await outcome_of(handler)
    assert isinstance(outcome, Failed)
    assert outcome.retry_after is None
    assert outcome.failure.message.startswith("a\\0b\\ud800")
    assert len(outcome.failure.message) == 8_000


async def test_an_abandoned_thread_is_not_waited_for() -> None:
    """I9: the attempt ends, so that the process can, though its thread goes on."""
    release = threading.Event()
    entered = threading.Event()

    def handler(ctx: object) -> None:
        entered.set()
        release.wait(30)

    reported: list[Outcome] = []
    threads = Threads.of(handlers=1, steps=1)
    attempt = Attempt(
        fetched(),
        Runnable(TaskOptions("task"), Handler.of(handler)),
        threads=threads,
        report=reported.append,
        max_result_bytes=1000,
    )
    execution = asyncio.create_task(attempt.execute())
    await eventually(entered.is_set)
    attempt.abandon()
    await asyncio.wait_for(execution, 10)
    assert reported == [Released(attempt.fetched.id, CLAIM)]
    release.set()
    threads.shutdown()


# --- threads -------------------------------------------------------------------------------------


async def test_threads_are_daemons_and_not_more_than_allowed() -> None:
    """I9: a handler that never returns does not keep the interpreter from ending."""
    threads = DaemonThreads(3)
    seen: set[threading.Thread] = set()
    barrier = threading.Barrier(3, timeout=20)

    def call() -> None:
        seen.add(threading.current_thread())
        barrier.wait()

    loop = asyncio.get_running_loop()
    await asyncio.gather(*(loop.run_in_executor(threads, call) for _ in range(30)))
    assert len(seen) == 3
    assert all(thread.daemon for thread in seen)
    threads.shutdown()
    await eventually(lambda: not any(thread.is_alive() for thread in seen))
    with pytest.raises(RuntimeError, match="shut down"):
        threads.submit(call)


async def test_who_never_returns_holds_up_nobody_once_its_time_is_up() -> None:
    """I9: a step's function cannot be ended from outside."""
    before = threads_of_handlers()
    threads = DaemonThreads(1)
    release = threading.Event()
    loop = asyncio.get_running_loop()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(loop.run_in_executor(threads, release.wait, 60), 0.05)
    waiting = [loop.run_in_executor(threads, release.wait, 60)]
    queued = [loop.run_in_executor(threads, int) for _ in range(5)]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(waiting[0], 0.05)
    assert await asyncio.wait_for(asyncio.gather(*queued), 20) == [0] * 5
    release.set()
    await eventually(lambda: len(threads_of_handlers() - before) <= 1)
    threads.shutdown()


def threads_of_handlers() -> set[threading.Thread]:
    return {one for one in threading.enumerate() if one.name.startswith("pgconductor-handler")}


def test_who_waits_in_a_thread_that_went_from_call_to_call() -> None:
    """I9: it was never idle in between, and must not be taken for it."""
    threads = DaemonThreads(1)
    release = threading.Event()
    first = threads.submit(release.wait, 20)
    outer = threads.submit(in_thread(lambda: threads.submit(int).result(20))[1])
    release.set()
    assert first.result(20)
    assert outer.result(20) == 0
    threads.shutdown()


def test_who_waits_for_many_calls_has_one_thread_beside_its_own() -> None:
    """I9: a handler may make a thousand."""
    threads = DaemonThreads(1)

    def outer() -> set[threading.Thread]:
        release = threading.Event()
        first = threads.submit(release.wait, 20)
        calls = [threads.submit(threading.current_thread) for _ in range(50)]
        release.set()
        assert first.result(20)
        return {call.result(20) for call in calls}

    for _ in range(3):
        assert len(threads.submit(in_thread(outer)[1]).result(20)) == 1
    threads.shutdown()


# --- prefetch and gate ---------------------------------------------------------------------------


def test_long_handlers_hold_nothing_ready() -> None:
    """C: whoever hoards keeps others idle: only what ends says anything of the pace."""
    prefetch = Prefetch()
    for number in range(50):
        prefetch.look(10 + number * 0.01)
    assert prefetch.size == 0


def test_what_is_held_ready_lasts_a_fifth_of_a_second() -> None:
    prefetch = Prefetch()
    for number in range(40):
        prefetch.look(10 + number * 0.1)
        for _ in range(10):
            prefetch.ended()
    assert prefetch.size in range(18, 21)  # 100 a second
    prefetch.look(20)
    prefetch.look(30)
    assert prefetch.size <= 5


def test_short_handlers_get_large_batches() -> None:
    prefetch = Prefetch()
    for number in range(40):
        prefetch.look(10 + number * 0.01)
        for _ in range(200):
            prefetch.ended()
    assert prefetch.size == 500


def test_a_suspect_is_alone_behind_the_gate() -> None:
    """Semantics 2 (recover): nothing starts until the suspect has ended."""
    opened: list[bool] = []
    gate = StartGate(lambda: opened.append(True), 10.0)
    suspect = fetched(crashes=2)
    assert suspect.alone
    assert gate.admit(suspect)
    assert not gate.open
    assert gate.lets_start(suspect)
    gate.started(suspect)
    assert not gate.lets_start(fetched())
    assert not gate.lets_start(fetched(crashes=2))
    gate.settle(suspect.id)
    assert not gate.open, "its thread is still at work"
    gate.ended(suspect)
    assert gate.open
    assert gate.admit(suspect)
    gate.settle(suspect.id)
    assert gate.open, "it was given back without having started"
    assert opened == [True, True]


def test_a_suspect_waits_for_those_at_work_but_not_for_ever() -> None:
    """Semantics 2 (recover): a neighbour that kills the process must not condemn the suspect."""
    now = [100.0]
    opened: list[bool] = []
    gate = StartGate(lambda: opened.append(True), 10.0, clock=lambda: now[0])
    neighbour, suspect = fetched(), fetched(crashes=2)
    gate.started(neighbour)
    assert not gate.admit(suspect)
    assert not gate.open
    assert not gate.lets_start(fetched())
    gate.ended(neighbour)
    assert opened == [True]
    assert gate.open
    gate.started(neighbour)
    assert not gate.admit(suspect)
    now[0] = 110.0
    assert gate.open
    assert gate.admit(suspect)
    assert gate.lets_start(suspect)
    assert not gate.lets_start(fetched())
