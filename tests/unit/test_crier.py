"""Notifications: none is lost, and a flood of invokes sends few."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pgconductor.services.crier import Crier
from tests.support.waiting import eventually


class Announcing:
    """A unit of work that takes down what is announced."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.announced: list[list[str]] = []
        self.executions = self

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator[Any]:
        yield self

    async def announce(self, queues: Collection[str]) -> None:
        if self.error is not None:
            raise self.error
        self.announced.append(sorted(queues))


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_few_invokes_each_notify() -> None:
    """An idle worker is woken by the invoke itself."""
    clock = Clock()
    crier = Crier(Announcing(), clock)
    for _ in range(100):
        assert crier.may_cry("a")
        clock.now += 0.006


def test_a_few_in_a_row_each_notify_too() -> None:
    crier = Crier(Announcing(), Clock())
    assert [crier.may_cry("a") for _ in range(5)] == [True] * 5


def test_a_flood_is_thinned_out() -> None:
    clock = Clock()
    crier = Crier(Announcing(), clock)
    cried = 0
    for _ in range(10_000):
        cried += crier.may_cry("a")
        clock.now += 0.0001
    assert 200 <= cried <= 220


def test_queues_do_not_silence_one_another() -> None:
    crier = Crier(Announcing(), Clock())
    while crier.may_cry("a"):
        pass
    assert crier.may_cry("b")
    assert not crier.may_cry("a")


async def test_a_later_notification_stands_for_what_was_silent_before() -> None:
    work = Announcing()
    crier = Crier(work)
    crier.cry_later("a")
    crier.cry_later("b")
    assert crier.may_cry("a")
    await crier.aclose()
    assert work.announced == [["b"]]
    crier.cry_later("a")
    assert crier.may_cry("a")
    await crier.aclose()
    assert work.announced == [["b"]]


async def test_what_was_silent_is_announced_soon_and_once() -> None:
    work = Announcing()
    crier = Crier(work)
    for queue in ("a", "b", "a"):
        crier.cry_later(queue)
    await eventually(lambda: bool(work.announced))
    assert work.announced == [["a", "b"]]
    crier.cry_later("c")
    await crier.aclose()
    assert work.announced == [["a", "b"], ["c"]]


async def test_an_announcement_that_is_lost_is_left_to_the_poll(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    work = Announcing(ConnectionResetError("gone"))
    crier = Crier(work)
    crier.cry_later("a")
    await crier.aclose()
    assert "next poll" in caplog.text
    work.error = None
    crier.cry_later("b")
    await crier.aclose()
    assert work.announced == [["b"]]
    await asyncio.sleep(0)


async def test_what_becomes_silent_after_the_grant_is_announced_by_itself() -> None:
    """The granted statement may have committed before the silent one."""
    work = Announcing()
    crier = Crier(work)
    assert crier.may_cry("a")
    crier.cry_later("a")
    await crier.aclose()
    assert work.announced == [["a"]]
