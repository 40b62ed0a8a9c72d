"""Parts of the runtime by themselves, without a database."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from pgconductor import RetryPolicy
from pgconductor.domain.claims import Claim, Fetched, Registration
from pgconductor.domain.orchestrators import Heartbeat, Recovery, StaleObserver
from pgconductor.domain.outcomes import (
    Completed,
    Disposition,
    Failed,
    Failure,
    Outcome,
    Released,
    Verdict,
)
from pgconductor.domain.tasks import TaskOptions
from pgconductor.exceptions import DoNotRetry, NotRegistered
from pgconductor.runtime.attempt import Attempt, Runnable
from pgconductor.runtime.completer import Completer
from pgconductor.runtime.gate import StartGate
from pgconductor.runtime.handler import Handler
from pgconductor.runtime.heartbeat import HeartbeatThread
from pgconductor.runtime.maintenance import Maintenance
from pgconductor.runtime.prefetch import Prefetch
from pgconductor.runtime.threads import HandlerThreads
from pgconductor.runtime.worker import Process
from pgconductor.services.backend import Backend
from pgconductor.settings import Settings
from pgconductor.types import ExecutionState
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
    ended = asyncio.Event()
    threads = HandlerThreads(1)
    attempt = Attempt(
        fetched(**changes),
        Runnable(TaskOptions("task", retry=policy or RetryPolicy()), Handler.of(function)),
        threads=threads,
        report=reported.append,
        max_result_bytes=1000,
    )
    attempt.start(lambda _: ended.set())
    await asyncio.wait_for(ended.wait(), 20)
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
    ended = asyncio.Event()
    threads = HandlerThreads(1)
    attempt = Attempt(
        fetched(),
        Runnable(TaskOptions("task"), Handler.of(handler)),
        threads=threads,
        report=reported.append,
        max_result_bytes=1000,
    )
    attempt.start(lambda _: ended.set())
    await eventually(entered.is_set)
    attempt.abandon()
    await asyncio.wait_for(ended.wait(), 10)
    assert reported == [Released(attempt.fetched.id, CLAIM)]
    release.set()
    threads.shutdown()


# --- threads -------------------------------------------------------------------------------------


async def test_threads_are_daemons_and_not_more_than_allowed() -> None:
    """I9: a handler that never returns does not keep the interpreter from ending."""
    threads = HandlerThreads(3)
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


def test_a_thread_is_used_again() -> None:
    threads = HandlerThreads(8)
    names = {threads.submit(lambda: threading.current_thread().name).result(20) for _ in range(3)}
    assert len(names) <= 3
    threads.shutdown()


# --- completer -----------------------------------------------------------------------------------


class RefusedError(Exception):
    sqlstate = "22008"


class PickyBackend:
    """Stores outcomes, but for those that a predicate names."""

    def __init__(self, refuses: Callable[[Outcome], bool]) -> None:
        self._refuses = refuses
        self.stored: dict[UUID, Outcome] = {}
        self.completing = self

    async def complete(self, outcomes: list[Outcome]) -> list[Verdict]:
        await asyncio.sleep(0)
        if any(map(self._refuses, outcomes)):
            raise RefusedError("timestamp out of range")
        self.stored |= {one.execution_id: one for one in outcomes}
        return [
            Verdict(one.execution_id, Disposition.RECORDED, ExecutionState.COMPLETED)
            for one in outcomes
        ]

    is_data_error = staticmethod(Backend.is_data_error)
    is_lost = staticmethod(Backend.is_lost)
    is_transient = staticmethod(Backend.is_transient)


@pytest.mark.parametrize(
    "bad",
    [
        Completed(uuid4(), CLAIM, "[1e999999]"),
        Failed(uuid4(), CLAIM, Failure("RetryAfter", "later"), timedelta.max),
        Failed(uuid4(), CLAIM, Failure("Odd", "odd", "an odd stack")),
    ],
    ids=["result", "delay", "traceback"],
)
async def test_an_outcome_that_is_refused_holds_up_no_others(bad: Outcome) -> None:
    """I3, B15: the one fails, its neighbours in the batch are written."""
    backend = PickyBackend(lambda one: one == bad)
    completer = Completer(cast("Backend", backend), lambda _: None)
    good = [Completed(uuid4(), CLAIM, "1") for _ in range(10)]
    for one in [*good[:5], bad, *good[5:]]:
        completer.add(one)
    running = asyncio.create_task(completer.run())
    await asyncio.wait_for(completer.flushed(), 20)
    running.cancel()
    assert {one.execution_id for one in good} <= backend.stored.keys()
    stored = backend.stored[bad.execution_id]
    assert isinstance(stored, Failed)
    assert stored.retry_after is None


async def test_a_release_that_is_refused_holds_up_no_others() -> None:
    """I3: it stays with its owner, whose end gives it back."""
    bad = Released(uuid4(), CLAIM)
    backend = PickyBackend(lambda one: one == bad)
    completer = Completer(cast("Backend", backend), lambda _: None)
    completer.add(bad)
    completer.add(Completed(CLAIM.orchestrator_id, CLAIM))
    running = asyncio.create_task(completer.run())
    await asyncio.wait_for(completer.flushed(), 20)
    running.cancel()
    assert list(backend.stored) == [CLAIM.orchestrator_id]


# --- heartbeat -----------------------------------------------------------------------------------

ANSWER = Heartbeat(1, False, None, 0, frozenset())


class HangingLink:
    """Answers once, then never again; until it is told that the row is gone."""

    def __init__(self) -> None:
        self.beats = 0
        self.gone = False

    async def beat(self) -> Heartbeat:
        self.beats += 1
        if self.beats == 1:
            return ANSWER
        await eventually(lambda: self.gone, timeout=60)
        raise NotRegistered(CLAIM.orchestrator_id)

    async def aclose(self) -> None:
        pass


async def test_a_beat_that_hangs_does_not_keep_the_fence_open() -> None:
    """Semantics 4, lifecycle 3.3: fenced before others may find it stale."""
    settings = Settings(
        heartbeat_interval=timedelta(seconds=0.05),
        self_fence_after=timedelta(seconds=0.5),
        stale_after=timedelta(seconds=1),
        sweep_interval=timedelta(seconds=0.5),
    )
    link = HangingLink()
    told: list[str] = []
    fenced = asyncio.Event()
    fenced_at: list[float] = []

    def on_fence(closed: bool) -> None:
        told.append(f"fence {closed}")
        fenced_at.append(thread._last_ack)
        fenced.set()

    thread = HeartbeatThread(
        lambda: link,
        settings,
        asyncio.get_running_loop(),
        on_answer=lambda _: told.append("answer"),
        on_evicted=lambda: told.append("evicted"),
        on_fence=on_fence,
    )
    thread.start()
    try:
        # The beat itself may hang for much longer than that: nothing but the fence ends it.
        await asyncio.wait_for(fenced.wait(), 20)
        assert told == ["answer", "fence True"]
        assert link.beats >= 2
    finally:
        link.gone = True
        thread.stop()
        await asyncio.to_thread(thread.join, 20)


# --- maintenance ---------------------------------------------------------------------------------


async def test_an_observer_that_could_not_look_starts_anew() -> None:
    """Lifecycle 3.4 (without a gap in its own connectivity): an outage makes nobody stale."""
    observers: list[StaleObserver] = []
    looked = asyncio.Event()

    class Orchestrators:
        async def recover_stale(self, observer: StaleObserver, *, registration: object) -> Recovery:
            observers.append(observer)
            if len(observers) == 2:
                raise ConnectionRefusedError
            if len(observers) == 4:
                looked.set()
            return Recovery()

    class Completing:
        async def held(self, registration: object) -> dict[UUID, Claim]:
            return {}

    class Somewhere:
        orchestrators = Orchestrators()
        completing = Completing()
        is_transient = staticmethod(Backend.is_transient)

    backend = cast("Backend", Somewhere())
    process = Process(
        backend=backend,
        settings=Settings(sweep_interval=timedelta(seconds=0.01)),
        registration=Registration(uuid4(), 1),
        runnables={},
        completer=Completer(backend, lambda _: None),
        gate=StartGate(lambda: None, 1.0),
        threads=ThreadPoolExecutor(1),
    )
    running = asyncio.create_task(Maintenance(process, []).run())
    await asyncio.wait_for(looked.wait(), 20)
    running.cancel()
    assert observers[0] is observers[1]
    assert observers[1] is not observers[2]
    assert observers[2] is observers[3]


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
