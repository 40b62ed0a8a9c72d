"""The relay: handlers that never wait share a task, and none learns of another."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from pgconductor.domain.claims import Claim, Fetched
from pgconductor.domain.outcomes import Completed, Failed, Outcome, Released
from pgconductor.domain.tasks import TaskOptions
from pgconductor.runtime.attempt import Attempt, Runnable, Stop
from pgconductor.runtime.handler import Handler
from pgconductor.runtime.relay import Relay
from pgconductor.runtime.threads import Threads
from tests.support.waiting import eventually

seen: ContextVar[int] = ContextVar("seen", default=0)


class Slots:
    """What a worker is to its relay: so many slots, and what is ready."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.ready: deque[Attempt] = deque()
        self.waiting: list[Attempt] = []
        self.outcomes: list[Outcome] = []
        self.threads = Threads.of(handlers=1, steps=1)
        self.relay = Relay(self.take, self.waits, self.ended, self.start)

    def add(self, function: Callable[..., Any]) -> Attempt:
        now = datetime.now(UTC)
        fetched = Fetched(
            uuid4(), Claim(uuid4(), 1), "task", "default", None, 1, 3, 0, 3, 0, now, now
        )
        attempt = Attempt(
            fetched,
            Runnable(TaskOptions("task"), Handler.of(function)),
            threads=self.threads,
            report=self.outcomes.append,
            max_result_bytes=1000,
        )
        self.ready.append(attempt)
        return attempt

    def start(self) -> None:
        if self.ready and len(self.waiting) < self.slots:
            self.relay.start()

    def take(self) -> Attempt | None:
        return self.ready.popleft() if self.ready and len(self.waiting) < self.slots else None

    def waits(self, attempt: Attempt) -> None:
        self.waiting.append(attempt)
        self.start()

    def ended(self, attempt: Attempt, waited: bool) -> None:
        assert waited is (attempt in self.waiting)
        if waited:
            self.waiting.remove(attempt)
            self.start()

    async def done(self, number: int) -> None:
        await eventually(lambda: len(self.outcomes) == number and not self.waiting)


async def test_handlers_that_never_wait_share_a_task() -> None:
    slots = Slots(2)
    tasks: list[Any] = []

    async def handler(ctx: object) -> None:
        tasks.append(asyncio.current_task())

    for _ in range(50):
        slots.add(handler)
    slots.start()
    await slots.done(50)
    assert len(set(tasks)) == 1


async def test_a_handler_that_waits_keeps_its_task_and_holds_nobody_up() -> None:
    """No head-of-line blocking: what is behind a long handler starts at once."""
    slots = Slots(2)
    let_go = asyncio.Event()
    short = 0

    async def long_one(ctx: object) -> None:
        before = asyncio.current_task()
        await let_go.wait()
        assert asyncio.current_task() is before

    async def short_one(ctx: object) -> None:
        nonlocal short
        short += 1

    slots.add(long_one)
    for _ in range(5):
        slots.add(short_one)
    slots.start()
    await eventually(lambda: short == 5)
    assert len(slots.waiting) == 1
    let_go.set()
    await slots.done(6)
    assert all(isinstance(one, Completed) for one in slots.outcomes)


async def test_no_more_wait_than_there_are_slots() -> None:
    slots = Slots(3)
    let_go = asyncio.Event()

    async def handler(ctx: object) -> None:
        await let_go.wait()

    for _ in range(10):
        slots.add(handler)
    slots.start()
    await eventually(lambda: len(slots.waiting) == 3)
    await asyncio.sleep(0)
    assert (len(slots.waiting), len(slots.ready)) == (3, 7)
    let_go.set()
    await slots.done(10)


@pytest.mark.parametrize("wait", [False, True])
async def test_each_attempt_begins_in_a_fresh_context(wait: bool) -> None:
    """C: what one handler binds, a logger's fields for instance, is not seen by the next."""
    slots = Slots(1)
    found: list[int] = []

    async def handler(ctx: object) -> None:
        found.append(seen.get())
        seen.set(7)
        if wait:
            await asyncio.sleep(0)

    for _ in range(4):
        slots.add(handler)
    slots.start()
    await slots.done(4)
    assert found == [0] * 4


async def cancels_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


async def takes_a_cancellation_back() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    task.uncancel()


async def fails() -> None:
    raise ValueError("no good")


async def leaves() -> None:
    raise SystemExit(3)


@pytest.mark.parametrize("misdeed", [cancels_itself, takes_a_cancellation_back, fails, leaves])
@pytest.mark.parametrize("waits_first", [False, True])
async def test_what_a_handler_does_to_its_task_does_not_reach_the_next(
    misdeed: Callable[[], Awaitable[None]], waits_first: bool
) -> None:
    slots = Slots(1)

    async def bad(ctx: object) -> None:
        if waits_first:
            await asyncio.sleep(0)
        await misdeed()

    async def good(ctx: object) -> int:
        await asyncio.sleep(0)
        return 1

    for _ in range(3):
        slots.add(bad)
        slots.add(good)
    slots.start()
    await slots.done(6)
    assert [type(one) for one in slots.outcomes[1::2]] == [Completed] * 3
    bad_ones = slots.outcomes[::2]
    assert all(isinstance(one, Failed | Completed) for one in bad_ones)


async def test_a_stop_ends_one_attempt_only() -> None:
    slots = Slots(2)

    async def for_ever(ctx: object) -> None:
        await asyncio.Event().wait()

    async def short(ctx: object) -> None:
        return

    stopped, other = slots.add(for_ever), slots.add(for_ever)
    slots.start()
    await eventually(lambda: len(slots.waiting) == 2)
    slots.add(short)
    stopped.stop(Stop.INTERRUPTED)
    await eventually(lambda: len(slots.outcomes) == 2)
    assert slots.outcomes[0] == Released(stopped.fetched.id, stopped.fetched.claim)
    assert isinstance(slots.outcomes[1], Completed)
    assert slots.waiting == [other]
    other.stop(Stop.INTERRUPTED)
    await slots.done(3)


async def test_other_tasks_get_their_turn() -> None:
    """I9: handlers that never wait, however many, do not make the process deaf."""
    slots = Slots(1)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while slots.ready:
            turns += 1
            await asyncio.sleep(0)

    async def handler(ctx: object) -> None:
        sum(range(20_000))

    for _ in range(200):
        slots.add(handler)
    background = asyncio.create_task(other())
    slots.start()
    await slots.done(200)
    await background
    assert turns > 2


async def test_a_coroutine_that_is_thrown_into_behaves_as_if_awaited() -> None:
    """Time-outs and task groups of the handler's own work as in any task."""
    slots = Slots(1)

    async def handler(ctx: object) -> str:
        try:
            async with asyncio.timeout(0.001):
                await asyncio.Event().wait()
        except TimeoutError:
            async with asyncio.TaskGroup() as group:
                inner = group.create_task(asyncio.sleep(0, "done"))
            return inner.result()
        return "no time-out"

    slots.add(handler)
    slots.start()
    await slots.done(1)
    (outcome,) = slots.outcomes
    assert isinstance(outcome, Completed)
    assert outcome.result == '"done"'


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="from Python 3.12 on")
async def test_a_loop_with_eager_tasks_changes_nothing() -> None:
    loop = asyncio.get_running_loop()
    slots = Slots(5)
    let_go = asyncio.Event()
    short = 0

    async def long_one(ctx: object) -> None:
        await let_go.wait()

    async def short_one(ctx: object) -> None:
        nonlocal short
        await asyncio.sleep(0)
        short += 1

    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]
    try:
        slots.add(long_one)
        for _ in range(19):
            slots.add(short_one)
        slots.start()
        await eventually(lambda: short == 19)
    finally:
        loop.set_task_factory(None)
    let_go.set()
    await slots.done(20)


@pytest.mark.parametrize(
    "error", [GeneratorExit, StopIteration, SystemExit, asyncio.CancelledError]
)
async def test_whatever_a_plain_handler_raises_is_its_own_failure(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    slots = Slots(1)

    def bad(ctx: object) -> None:
        raise error

    async def good(ctx: object) -> None:
        await asyncio.sleep(0)

    for function in (bad, good, bad, good):
        slots.add(function)
    slots.start()
    await slots.done(4)
    assert [type(one) for one in slots.outcomes] == [Failed, Completed] * 2
    assert "unexpectedly" not in caplog.text
