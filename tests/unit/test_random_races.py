"""Handlers made at random, with races in races, suspended and killed at random: each attempt goes
the way of the first."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pgconductor import Conductor, RetryPolicy, TaskContext
from pgconductor.exceptions import WaitTimeout
from pgconductor.testing import Rehearsal
from pgconductor.testing.boundaries import Plan

MINUTE = timedelta(minutes=1)
EVENTS = 3


@dataclass(frozen=True)
class Leaf:
    """Something with a key of its own."""

    kind: str
    number: int


@dataclass(frozen=True)
class Node:
    """Several, one after the other, at once, or of which the first counts."""

    kind: str
    parts: tuple[Leaf | Node, ...]


leaves = st.builds(
    Leaf, st.sampled_from(["step", "sleep", "event", "child", "emit"]), st.integers(0, 5)
)
nodes = st.recursive(
    leaves,
    lambda inner: st.builds(
        Node,
        st.sampled_from(["first", "wait", "as_completed", "group", "sequence", "gather"]),
        st.lists(inner, min_size=1, max_size=3).map(tuple),
    ),
    max_leaves=9,
)
crashes = st.lists(st.tuples(st.integers(0, 40), st.sampled_from(["before", "after"])), max_size=3)


class Enough(Exception):
    pass


class Walk:
    """One attempt of a handler: what decided which race."""

    def __init__(self, ctx: TaskContext, child: Any) -> None:
        self.ctx = ctx
        self.child = child
        self.won: dict[str, int] = {}

    async def go(self, part: Leaf | Node, path: str) -> None:
        if isinstance(part, Leaf):
            await self.leaf(part, path)
            return
        if part.kind == "sequence":
            for number, one in enumerate(part.parts):
                await self.go(one, f"{path}.{number}")
            return
        branches = [self.go(one, f"{path}.{n}") for n, one in enumerate(part.parts)]
        match part.kind:
            case "gather":
                await asyncio.gather(*branches)
                return
            case "first":
                index = (await self.ctx.first(path, *branches)).index
            case "wait":
                index = await by_wait(branches)
            case "as_completed":
                index = await by_as_completed(branches)
            case _:
                index = await by_group(branches)
        self.won[path] = index
        await self.ctx.step(f"{path}: {index} was first", str)

    async def leaf(self, leaf: Leaf, path: str) -> None:
        match leaf.kind:
            case "step":
                await self.ctx.step(path, asyncio.sleep, leaf.number / 1000)
            case "sleep":
                await self.ctx.sleep(path, leaf.number * MINUTE)
            case "event":
                with suppress(WaitTimeout):
                    name = f"event{leaf.number % EVENTS}"
                    await self.ctx.wait_for(path, name, timeout=10 * MINUTE)
            case "child":
                await self.ctx.invoke(path, self.child, leaf.number)
            case _:
                await self.ctx.emit(f"event{leaf.number % EVENTS}", key=path)


async def numbered(number: int, what: Any) -> int:
    await what
    return number


async def by_wait(branches: list[Any]) -> int:
    tasks = [asyncio.create_task(numbered(n, one)) for n, one in enumerate(branches)]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for one in pending:
        one.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    return min(one.result() for one in done)


async def by_as_completed(branches: list[Any]) -> int:
    tasks = [asyncio.create_task(numbered(n, one)) for n, one in enumerate(branches)]
    index = await next(iter(asyncio.as_completed(tasks)))
    for one in tasks:
        one.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return index


async def by_group(branches: list[Any]) -> int:
    won: list[int] = []

    async def until(number: int, what: Any) -> None:
        await what
        won.append(number)
        raise Enough

    try:
        async with asyncio.TaskGroup() as group:
            for number, one in enumerate(branches):
                group.create_task(until(number, one))
    except* Enough:
        pass
    if not won:
        raise asyncio.CancelledError
    return won[0]


async def attempts_of(program: Leaf | Node, plans: list[tuple[int, Any]]) -> list[dict[str, int]]:
    conductor = Conductor()
    walks: list[Walk] = []

    @conductor.task
    async def child(ctx: TaskContext, minutes: int) -> None:
        if minutes:
            await ctx.sleep("a while", minutes * MINUTE)

    @conductor.task(max_attempts=2, max_crashes=9, retry=RetryPolicy.constant(timedelta(seconds=1)))
    async def handler(ctx: TaskContext) -> None:
        walk = Walk(ctx, child)
        walks.append(walk)
        try:
            await walk.go(program, "all")
            await ctx.sleep("all have ended", timedelta(hours=1))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    async with Rehearsal(conductor) as rehearsal:
        for number, when in plans:
            rehearsal.crashes.plans.append(AtMeeting(None, when, "handler", first=number))
        handle = await handler.invoke()
        for number in range(EVENTS * 2):
            await rehearsal.drain(at_most=2 * MINUTE)
            await rehearsal.emit(f"event{number % EVENTS}")
        try:
            await handle.result()
        finally:
            rehearsal.crashes.plans.clear()
    return [walk.won for walk in walks]


class AtMeeting(Plan):
    """A crash at the boundary that is met as the given number."""

    def strikes(self, boundary: Any) -> bool:
        if boundary.task != self.task or boundary.when != self.when:
            return False
        self._met += 1
        if self._met != self.first:
            return False
        self.struck += 1
        return True


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
    phases=[Phase.generate],
)
@given(program=nodes, plans=crashes)
def test_each_attempt_goes_the_way_of_the_first(
    program: Leaf | Node, plans: list[tuple[int, Any]]
) -> None:
    all_of_them = asyncio.run(attempts_of(program, plans))
    known: dict[str, int] = {}
    for won in all_of_them:
        for path, index in won.items():
            assert known.setdefault(path, index) == index, (path, all_of_them)
