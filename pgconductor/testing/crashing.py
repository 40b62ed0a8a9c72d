"""Crashes at every boundary in turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from pgconductor.conductor import Conductor
from pgconductor.testing.boundaries import Plan, Point
from pgconductor.testing.rehearsal import Rehearsal

__all__ = ["CrashPass", "assert_survives_crashes", "crash_everywhere"]

T = TypeVar("T")

Made = Conductor | Callable[[], Rehearsal]


class CrashPass:
    """A scenario's pass with one crash, or with none: ``async with one as rehearsal``.

    Args:
        make: Makes the rehearsal.
        point: Where the process dies; None for the pass without a crash.
    """

    def __init__(self, make: Callable[[], Rehearsal], point: Point | None) -> None:
        self.point = point
        self.met: list[Point] | None = None
        self._make = make
        self._entered: Any = None

    def __str__(self) -> str:
        return "without a crash" if self.point is None else f"with a crash in {self.point}"

    @asynccontextmanager
    async def _pass(self) -> AsyncGenerator[Rehearsal]:
        async with self._make() as rehearsal:
            if self.point is not None:
                boundary, occurrence = self.point.boundary, self.point.occurrence
                rehearsal.crashes.plans.append(
                    Plan(boundary.step, boundary.when, boundary.task, occurrence)
                )
            yield rehearsal
            self.met = rehearsal.crashes.met

    async def __aenter__(self) -> Rehearsal:
        self._entered = self._pass()
        rehearsal: Rehearsal = await self._entered.__aenter__()
        return rehearsal

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            error.add_note(f"This was {self}.")
        await self._entered.__aexit__(kind, error, trace)


async def crash_everywhere(made: Made) -> AsyncIterator[CrashPass]:
    """Pass through a scenario once without a crash, and once for each boundary that it then met.

    ::

        async for crash in crash_everywhere(conductor):
            async with crash as rehearsal:
                handle = await checkout.invoke(order)
                await rehearsal.drain()
                assert await handle.result() == receipt

    An error in a pass has a note that says where the process died.

    Args:
        made: The conductor, for passes in memory; or what makes a fresh rehearsal for each pass,
            for instance ``lambda: Rehearsal(conductor, database=pgconductor_clone())``.

    Yields:
        The passes, each to be entered once.

    Raises:
        RuntimeError: The first pass was not entered.
    """
    if isinstance(made, Conductor):
        conductor = made

        def make() -> Rehearsal:
            return Rehearsal(conductor)
    else:
        make = made
    clean = CrashPass(make, None)
    yield clean
    if clean.met is None:
        raise RuntimeError("enter each pass: async with crash as rehearsal")
    for point in clean.met:
        yield CrashPass(make, point)


async def assert_survives_crashes(
    made: Made, scenario: Callable[[Rehearsal], Awaitable[T]]
) -> list[Point]:
    """See that a scenario ends in the same way wherever its process dies.

    It is passed through once without a crash, and once for each durable boundary that it then met:
    before and after each step, wait, child and event is on record, and at the end of each attempt.
    Each time it must return the same, and its executions must have ended in the same states.

    Args:
        made: As for :func:`crash_everywhere`.
        scenario: Gets a fresh rehearsal, drains it, and returns what must not depend on crashes:
            results, and what the handlers' effects have come to.

    Returns:
        Where the process died.

    Raises:
        AssertionError: Some passes ended otherwise; the message says which, and how.
    """
    points: list[Point] = []
    wrong: list[str] = []
    wanted: tuple[T, Counter[str]] | None = None
    async for one in crash_everywhere(made):
        try:
            async with one as rehearsal:
                before = {execution.id for execution in await rehearsal.executions()}
                result = await scenario(rehearsal)
                states = Counter(
                    f"{execution.task_key} {execution.state.value}"
                    for execution in await rehearsal.executions()
                    if execution.id not in before
                )
        except Exception as error:
            if one.point is None:
                raise
            points.append(one.point)
            wrong.append(f"{one.point}: {type(error).__name__}: {error}")
            continue
        if one.point is None or wanted is None:
            wanted = result, states
            continue
        points.append(one.point)
        if result != wanted[0]:
            wrong.append(f"{one.point}: {result!r}")
        elif states != wanted[1]:
            wrong.append(f"{one.point}: {dict(states)}")
    if wrong and wanted is not None:
        listed = "\n".join(f"  {one}" for one in wrong)
        raise AssertionError(
            f"{len(wrong)} of {len(points)} crashes change the end, which was {wanted[0]!r} with "
            f"{dict(wanted[1])}:\n{listed}"
        )
    return points
