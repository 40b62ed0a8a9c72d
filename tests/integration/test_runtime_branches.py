"""What branches of a handler leave behind in the log."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from datetime import timedelta
from typing import Any

import pytest

from pgconductor import Conductor, TaskContext
from pgconductor.exceptions import ExecutionFailed
from tests.integration.runtime_world import SOON, World

MOMENT = timedelta(milliseconds=100)


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


# --- what a handler leaves at work ----------------------------------------------------------------


class Slow:
    """A step that is under way until somebody ends it."""

    def __init__(self) -> None:
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()
        self.ended: list[BaseException | None] = []

    async def __call__(self) -> None:
        self.begun.set()
        try:
            await self.go_on.wait()
        finally:
            self.ended.append(sys.exception())


def of_the_engine(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    found = [one for one in caplog.records if "must await what it begins" in one.getMessage()]
    assert all(one.name == "pgconductor.executions" for one in found)
    return [(one.levelname, one.getMessage()) for one in found]


@pytest.mark.parametrize("raises", [False, True])
async def test_what_a_handler_leaves_at_work(
    world: World, caplog: pytest.LogCaptureFixture, *, raises: bool
) -> None:
    """It goes on unrecorded; its end is told of, and its waits do not last for ever."""
    conductor = world.conductor()
    slow = Slow()
    beyond: list[asyncio.Task[Any]] = []
    steps: list[asyncio.Task[Any]] = []

    @conductor.task(max_attempts=1)
    async def hurried(ctx: TaskContext) -> str:
        # What takes no steps is none of the engine's business.
        beyond.append(asyncio.create_task(slow.go_on.wait()))
        steps.extend([asyncio.create_task(ctx.step("bg", slow)), asyncio.create_task(after(ctx))])
        await slow.begun.wait()
        if raises:
            await asyncio.gather(*steps, no_answer())
        return "early"

    async def after(ctx: TaskContext) -> None:
        await ctx.sleep("a day", timedelta(days=1))

    with caplog.at_level(logging.INFO, "pgconductor.executions"):
        async with world.serving(conductor):
            handle = await hurried.invoke()
            if raises:
                with pytest.raises(ExecutionFailed, match="no answer"):
                    await handle.result(SOON)
            else:
                assert await handle.result(SOON) == "early"
            await asyncio.sleep(0)
            slow.go_on.set()
            ended = await asyncio.gather(*steps, return_exceptions=True)
            await asyncio.sleep(0)
    assert [type(one).__name__ for one in ended] == ["Interrupted", "Interrupted"]
    assert slow.ended == [None]
    await beyond[0]
    assert not of_asyncio(caplog)
    found = of_the_engine(caplog)
    assert {level for level, _ in found} == {"INFO" if raises else "WARNING"}
    assert [key in message for key, (_, message) in zip(["'a day'", "'bg'"], found, strict=True)]
    assert world.rows("SELECT 1 FROM pgconductor.steps WHERE key = 'bg'") == []


async def test_what_a_branch_raises_when_it_is_left(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    conductor = world.conductor()

    @conductor.task(max_attempts=1)
    async def hurried(ctx: TaskContext) -> None:
        branch = asyncio.create_task(careless(ctx))
        await asyncio.wait([branch], timeout=0.3)

    async def careless(ctx: TaskContext) -> None:
        try:
            await ctx.wait_for("event", "never")
        finally:
            raise LookupError("while it cleaned up")

    with caplog.at_level(logging.INFO, "pgconductor.executions"):
        async with world.serving(conductor):
            await (await hurried.invoke()).result(SOON)
    assert not of_asyncio(caplog)
    assert "while it cleaned up" in caplog.text


async def test_a_branch_of_the_applications_own_lives_on(world: World) -> None:
    """It takes steps for one execution after another; so may another execution's handler."""
    conductor = world.conductor()
    asked: asyncio.Queue[tuple[TaskContext, asyncio.Future[int]]] = asyncio.Queue()

    async def serve() -> None:
        while True:
            ctx, answer = await asked.get()
            answer.set_result(await ctx.step("rate", int, 7))

    @conductor.task(max_attempts=1)
    async def asks(ctx: TaskContext) -> int:
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        await asked.put((ctx, answer))
        return await answer

    server = asyncio.create_task(serve())
    async with world.serving(conductor):
        for _ in range(3):
            assert await (await asks.invoke()).result(SOON) == 7
    server.cancel()
    await asyncio.gather(server, return_exceptions=True)


async def test_a_group_that_is_left_does_not_go_on_as_if_it_were_done(world: World) -> None:
    conductor = world.conductor()
    slow = Slow()
    beyond: list[str] = []
    branches: list[asyncio.Task[None]] = []

    @conductor.task(max_attempts=1)
    async def grouped(ctx: TaskContext) -> None:
        async def part() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(ctx.step("charge", slow))
            beyond.append("as if charged")

        branches.append(asyncio.create_task(part()))
        await slow.begun.wait()
        await asyncio.gather(branches[0], no_answer())

    async with world.serving(conductor):
        with pytest.raises(ExecutionFailed, match="no answer"):
            await (await grouped.invoke()).result(SOON)
        slow.go_on.set()
        await asyncio.gather(*branches, return_exceptions=True)
    assert beyond == []


async def test_a_plain_handlers_thread_is_left_alone(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """It waits for what it has begun, and its slot is taken until it ends."""
    conductor = world.conductor()
    told: list[str] = []

    @conductor.task(max_attempts=1, timeout=timedelta(seconds=0.2))
    def plain(ctx: TaskContext) -> None:
        try:
            ctx.here(ctx.step("bg", asyncio.sleep, 0.5))
        except BaseException as error:
            told.append(type(error).__name__)
            raise

    async with world.serving(conductor):
        with pytest.raises(ExecutionFailed, match="took longer"):
            await (await plain.invoke()).result(SOON)
    assert told == ["OwnershipLost"]
    assert not of_the_engine(caplog)
