"""Whether all that a handler has going does nothing but wait."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from pgconductor.runtime.branches import Joints, joints

Wait = Callable[[], Awaitable[None]]
Handler = Callable[[Wait], Coroutine[Any, Any, None]]


async def branch(wait: Wait) -> None:
    await wait()


async def alone(wait: Wait) -> None:
    await wait()


async def gathered(wait: Wait) -> None:
    await asyncio.gather(branch(wait), branch(wait))


async def grouped(wait: Wait) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(branch(wait))
        group.create_task(gathered(wait))


async def waited(wait: Wait) -> None:
    tasks = [asyncio.create_task(branch(wait)), asyncio.create_task(grouped(wait))]
    await asyncio.wait(tasks)


async def in_time(wait: Wait) -> None:
    async with asyncio.timeout(60):
        await asyncio.wait_for(gathered(wait), 60)


async def shielded(wait: Wait) -> None:
    await asyncio.shield(asyncio.ensure_future(branch(wait)))


async def asleep(_: Wait) -> None:
    await asyncio.sleep(60)


async def one_at_work(wait: Wait) -> None:
    await asyncio.gather(branch(wait), asleep(wait))


async def one_at_work_in_a_group(wait: Wait) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(branch(wait))
        group.create_task(asleep(wait))


async def waits_for_something_else(_: Wait) -> None:
    await asyncio.get_running_loop().create_future()


async def verdict(handler: Handler, *, end_one: bool = False) -> bool:
    waits: list[asyncio.Future[None]] = []

    async def wait() -> None:
        waits.append(asyncio.get_running_loop().create_future())
        await waits[-1]

    task = asyncio.create_task(handler(wait))
    for _ in range(8):
        await asyncio.sleep(0)
    if end_one:
        waits[0].set_result(None)
    try:
        return joints([task], lambda one: one in waits and not one.done()) is not None
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize(
    "handler", [alone, gathered, grouped, waited, in_time], ids=lambda one: one.__name__
)
async def test_all_wait(handler: Handler) -> None:
    assert await verdict(handler)
    assert not await verdict(handler, end_one=True), "one is about to go on"


@pytest.mark.parametrize(
    "handler",
    [asleep, one_at_work, one_at_work_in_a_group, waits_for_something_else, shielded],
    ids=lambda one: one.__name__,
)
async def test_one_is_at_work(handler: Handler) -> None:
    """What cannot be told counts as work: it stays in memory, and nothing is cut off."""
    assert not await verdict(handler)


async def test_what_has_ended_does_not_matter() -> None:
    async def nothing() -> None: ...

    task = asyncio.create_task(nothing())
    await task
    assert joints([task], lambda _: False) == Joints()


async def test_those_that_have_ended_are_told_apart() -> None:
    """Their errors are told to whoever joins them."""

    async def fail() -> None:
        raise LookupError

    wait: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    joined, alone = [asyncio.ensure_future(fail()) for _ in range(2)]
    gathering = asyncio.gather(joined, wait, return_exceptions=True)
    handler = asyncio.ensure_future(_await(gathering))
    await asyncio.wait([joined, alone])
    found = joints([handler, joined, alone], lambda one: one is wait)
    assert found == Joints([gathering], [joined])
    wait.set_result(None)
    await asyncio.gather(handler, alone, return_exceptions=True)


async def _await(one: Awaitable[Any]) -> None:
    await one
