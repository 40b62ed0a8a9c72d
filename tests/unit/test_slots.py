"""Slots, threads, and what of a process is in memory without a slot."""

from __future__ import annotations

import asyncio
import logging
import threading
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from pydantic import SecretStr

from pgconductor import Conductor, Settings, TaskContext
from pgconductor.domain.claims import Claim, Fetched
from pgconductor.domain.migrations import StartupPolicy
from pgconductor.runtime import slots, worker
from pgconductor.runtime.attempt import Runnable
from pgconductor.runtime.orchestrator import Orchestrator
from pgconductor.runtime.slots import AttemptDesk, Crowd, Slots
from pgconductor.runtime.threads import DaemonThreads, in_thread
from pgconductor.testing import FakeDatabase
from tests.support.memory_backend import RealClock, memory_backend
from tests.support.waiting import eventually


def desk(*, plain: bool = False) -> AttemptDesk:
    now = datetime.now(UTC)
    claim = Claim(uuid4(), 1)
    return AttemptDesk(
        Fetched(uuid4(), claim, "task", "default", None, 1, 3, 0, 3, 0, now, now), plain=plain
    )


class Room:
    """Two slots, and attempts that have them."""

    def __init__(self, attempts: int, *, plain: bool = False) -> None:
        self.went_on: list[AttemptDesk] = []
        self.crowd = Crowd(2)
        self.slots = Slots(2, "default", self.crowd, 1.0, lambda: None, lambda _: None)
        self.desks = [desk(plain=plain) for _ in range(attempts)]
        for one in self.desks:
            one.room = self.slots
            one.on_slot = lambda one=one: self.went_on.append(one)  # type: ignore[misc]
            self.slots.enter()


def test_who_goes_on_is_before_who_is_new_and_in_turn() -> None:
    """I9: the one that has waited longest first."""
    room = Room(2)
    first, second = room.desks
    for one in room.desks:
        assert one.park()
    room.slots.enter()
    room.slots.enter()
    assert room.slots.free == 0
    first.ask()
    second.ask()
    assert room.went_on == []
    room.slots.leave(desk())
    assert room.went_on == [first]
    room.slots.leave(desk())
    assert room.went_on == [first, second]


def test_who_insists_goes_on_beside_the_others_and_the_log_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """I9: more than that cannot be done for who cannot be suspended."""
    room = Room(3)
    for one in room.desks:
        one.park()
    room.slots.enter()
    room.slots.enter()
    for one in room.desks[:2]:
        one.ask()
        one.insist()
    assert room.went_on == room.desks[:2]
    assert room.slots.free == -2
    (record,) = caplog.records
    assert "more handlers than its 2 slots" in record.getMessage()
    room.slots.leave(room.desks[0])
    assert room.slots.free == -1


def test_who_has_ended_asks_for_nothing() -> None:
    room = Room(1)
    (one,) = room.desks
    one.park()
    room.slots.enter()
    room.slots.enter()
    one.ask()
    room.slots.leave(one)
    room.slots.leave(desk())
    assert room.went_on == []
    assert room.slots.free == 1


@pytest.mark.parametrize(("plain", "most"), [(False, 3), (True, 2)])
def test_so_many_may_wait_in_memory(
    monkeypatch: pytest.MonkeyPatch, *, plain: bool, most: int
) -> None:
    """C: there is no room for the next one; there is when one of them has a slot."""
    monkeypatch.setattr(slots, "_ALL", 3)
    monkeypatch.setattr(slots, "_PLAIN", 2)
    room = Room(5, plain=plain)
    assert [one.park() for one in room.desks] == [True] * most + [False] * (5 - most)
    for one in room.desks[:3]:
        room.slots.leave(one)
    assert desk(plain=plain).park()
    late = desk(plain=plain)
    late.room = room.slots
    room.slots.enter()
    assert late.park() is (most > 2)


def test_threads_that_attempts_have_outlived_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """I9: and that none is left is an error."""
    room = Room(2, plain=True)
    for one in room.desks:
        one.outlived()
    first, second = caplog.records
    assert first.levelno == logging.WARNING
    assert "1 of 2 slots" in first.getMessage()
    assert second.levelno == logging.ERROR
    assert "nothing starts before" in second.getMessage()


def test_a_call_that_waits_lends_its_thread() -> None:
    """I9: what it waits for may need one."""
    threads = DaemonThreads(1)
    release, waiting = threading.Event(), threading.Event()

    def outer() -> bool:
        with threads.waiting(call):
            waiting.set()
            return release.wait(20)

    call, called = in_thread(outer)
    first = threads.submit(called)
    assert waiting.wait(20)
    assert threads.submit(int).result(20) == 0
    release.set()
    assert first.result(20)
    threads.shutdown()


def test_a_thread_that_the_system_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """I9: where there is another one, the call is its; where there is none, it is refused."""
    threads = DaemonThreads(2)
    release, entered = threading.Event(), threading.Event()

    def hold() -> bool:
        entered.set()
        return release.wait(20)

    def refused(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        with pytest.raises(RuntimeError, match="new thread"):
            threads.submit(int)
    first = threads.submit(hold)
    assert entered.wait(20)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        second = threads.submit(int)
    release.set()
    assert first.result(20)
    assert second.result(20) == 0
    threads.shutdown()


async def test_no_thread_for_plain_handlers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """I9: they are not started, async ones are, and the log says so; all end in the end."""
    monkeypatch.setattr(slots, "_PLAIN", 1)
    monkeypatch.setattr(worker, "_PATIENCE", 0.1)
    chosen = Settings(
        database_url=SecretStr("postgresql://nowhere/nothing"),
        poll_interval=timedelta(seconds=0.05),
        give_back_after=timedelta(seconds=0.05),
        startup_policy=StartupPolicy.REFUSE,
    )
    conductor = Conductor(chosen)
    release = asyncio.Event()

    @conductor.task
    def stubborn(ctx: TaskContext) -> None:
        async def both() -> None:
            await asyncio.gather(ctx.sleep("a", timedelta(0)), ctx.wait_for("b", "b"), beside())

        async def beside() -> None:
            await release.wait()

        ctx.here(both())

    @conductor.task
    def plain(ctx: TaskContext) -> None: ...

    @conductor.task
    async def quick(ctx: TaskContext) -> None: ...

    database = FakeDatabase(RealClock())
    backend = memory_backend(database, lambda: None)
    stubborn_ones = [stubborn.invocation() for _ in range(2)]
    await backend.completing.invoke_many(stubborn_ones)
    orchestrator = Orchestrator(
        lambda: backend,
        chosen,
        {name: Runnable(task.options, task.handler) for name, task in conductor.tasks.items()},
        queues=["default"],
        concurrency=1,
    )
    await orchestrator.start()

    def states(task: Any) -> set[str]:
        rows = database.executions.values()
        return {row.state.value for row in rows if row.task_key == task.name}

    await eventually(lambda: states(stubborn) == {"running"})
    await backend.completing.invoke_many([plain.invocation(), quick.invocation()])
    await eventually(lambda: states(quick) == {"completed"})
    await eventually(lambda: "no plain handler is started" in caplog.text)
    assert states(plain) == {"available"}
    release.set()
    await eventually(lambda: states(plain) == {"completed"})
    await backend.completing.emit_text("b")
    await eventually(lambda: states(stubborn) == {"completed"})
    await orchestrator.stop()
