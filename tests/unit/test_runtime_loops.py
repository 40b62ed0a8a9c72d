"""The loops of the runtime by themselves: completer, heartbeat, maintenance."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from pgconductor.domain.claims import Claim, Registration
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
from pgconductor.exceptions import NotRegistered
from pgconductor.runtime import shutdown
from pgconductor.runtime.completer import Completer
from pgconductor.runtime.gate import StartGate
from pgconductor.runtime.heartbeat import HeartbeatThread
from pgconductor.runtime.journal import Journal
from pgconductor.runtime.lookout import Lookout
from pgconductor.runtime.maintenance import Maintenance
from pgconductor.runtime.process import Process
from pgconductor.runtime.slots import Crowd
from pgconductor.runtime.threads import Threads
from pgconductor.services.backend import Backend
from pgconductor.settings import Settings
from pgconductor.types import ExecutionState
from tests.support.waiting import eventually

CLAIM = Claim(uuid4(), 1)


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

    cause = staticmethod(Backend.cause)
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

ANSWER = Heartbeat(1, False, None, 0, 1, frozenset())


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
        self_fence_after=timedelta(seconds=2),
        stale_after=timedelta(seconds=3),
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
        on_failure=lambda error: None,
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


async def test_a_beat_that_was_asked_for_and_failed_is_tried_again_soon() -> None:
    """Somebody may have been cancelled: that is heard within a second or so."""
    minutes = timedelta(minutes=10)
    settings = Settings(
        heartbeat_interval=minutes, self_fence_after=2 * minutes, stale_after=3 * minutes
    )
    answers: list[Heartbeat | Exception] = [ANSWER, ConnectionResetError(), ANSWER]
    told: list[str] = []

    class Link:
        async def beat(self) -> Heartbeat:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        async def aclose(self) -> None:
            pass

    thread = HeartbeatThread(
        Link,
        settings,
        asyncio.get_running_loop(),
        on_answer=lambda _: told.append("answer"),
        on_evicted=lambda: told.append("evicted"),
        on_failure=lambda _: told.append("failure"),
        on_fence=lambda _: told.append("fence"),
    )
    thread.start()
    try:
        await eventually(lambda: told == ["answer"])
        thread.beat_now()
        await eventually(lambda: told == ["answer", "failure", "answer"], timeout=20)
    finally:
        thread.stop()
        await asyncio.to_thread(thread.join, 20)


# --- maintenance ---------------------------------------------------------------------------------


async def test_who_leaves_tries_again_while_others_lock_what_it_holds() -> None:
    """Otherwise it would be found stale, and its executions counted as crashed."""
    me = Registration(uuid4(), 1)
    mine = frozenset({me.orchestrator_id})
    answers: list[Recovery | Exception] = [
        Recovery(available=1, left=mine),
        ConnectionRefusedError(),
        Recovery(mine),
    ]

    class Orchestrators:
        async def leave(self, registration: Registration) -> Recovery:
            assert registration is me
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

    class Somewhere:
        orchestrators = Orchestrators()
        is_transient = staticmethod(Backend.is_transient)

    somewhere: Any = SimpleNamespace(process=SimpleNamespace(backend=Somewhere()), registration=me)
    assert await shutdown.leave(somewhere)
    assert answers == []


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
        threads=Threads.of(handlers=1, steps=1),
        crowd=Crowd(1),
        journal=Journal(backend),
        lookout=Lookout(backend, 60),
    )
    running = asyncio.create_task(Maintenance(process, []).run())
    await asyncio.wait_for(looked.wait(), 20)
    running.cancel()
    assert observers[0] is observers[1]
    assert observers[1] is not observers[2]
    assert observers[2] is observers[3]
