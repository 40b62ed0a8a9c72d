"""What branches of a handler leave behind in the log."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from pgconductor import Conductor, TaskContext
from tests.integration.runtime_world import SOON, World

MOMENT = timedelta(milliseconds=100)


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    world = World(database_url)
    yield world
    await world.close()


@pytest.fixture
def hasty(world: World) -> Conductor:
    """Suspends whatever waits, at once."""
    return world.conductor(suspend_after=0.001)


def of_asyncio(caplog: pytest.LogCaptureFixture) -> list[str]:
    gc.collect()
    found = [one for one in caplog.records if one.name == "asyncio"]
    return [one.getMessage() for one in found if one.levelno >= logging.WARNING]


async def no_answer() -> None:
    raise OSError("no answer")


@pytest.mark.parametrize("joined", ["gather", "wait", "later"])
@pytest.mark.parametrize("failed", ["ChildFailed", "OSError"])
async def test_a_branch_that_has_failed_before_the_suspension(
    world: World, hasty: Conductor, caplog: pytest.LogCaptureFixture, joined: str, failed: str
) -> None:
    """Whoever joins it is told by the replay, or was: that is no error of the engine's."""
    attempts: list[int] = []

    @hasty.task(max_attempts=1)
    async def part(ctx: TaskContext, number: int) -> None:
        if number == 1:
            raise ValueError("no stock")
        await ctx.sleep("a while", MOMENT * number)

    @hasty.task(max_attempts=1)
    async def parent(ctx: TaskContext) -> list[str]:
        attempts.append(ctx.attempt)
        failing = ctx.invoke("1", part, 1) if failed == "ChildFailed" else ctx.step("1", no_answer)
        parts = [asyncio.ensure_future(one) for one in (failing, *others(ctx))]
        if joined == "later":
            with pytest.raises(Exception, match=r"no stock|no answer"):
                await parts[0]
        if joined == "wait":
            await asyncio.wait(parts)
        results: list[Any] = await asyncio.gather(*parts, return_exceptions=True)
        return [type(one).__name__ for one in results]

    def others(ctx: TaskContext) -> list[Any]:
        return [ctx.invoke(str(number), part, number) for number in (2, 3)]

    async with world.serving(hasty):
        assert await (await parent.invoke()).result(SOON) == [failed, "NoneType", "NoneType"]
    assert len(attempts) > 1, "it was never suspended"
    assert not of_asyncio(caplog)


async def test_a_branch_that_fails_when_it_is_suspended(
    world: World, hasty: Conductor, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody else would hear of it: the handler has ended, and the next attempt goes on."""
    told: list[bool] = []

    async def branch(ctx: TaskContext) -> None:
        try:
            await ctx.sleep("a while", MOMENT)
        finally:
            if not told:
                told.append(True)
                raise LookupError("while it cleaned up")

    @hasty.task(max_attempts=1)
    async def parent(ctx: TaskContext) -> None:
        await asyncio.gather(branch(ctx), ctx.sleep("as long", MOMENT))

    async with world.serving(hasty):
        await (await parent.invoke()).result(SOON)
    (message,) = of_asyncio(caplog)
    assert message.startswith("a branch raised when its handler was suspended")
