"""How often a parent is replayed whose children end one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import cast
from uuid import UUID, uuid4

import pytest

from pgconductor import Conductor, TaskContext
from pgconductor.domain.claims import Fetched
from pgconductor.domain.steps import Recorded, Settled, StepKind
from pgconductor.runtime.slots import AttemptDesk
from pgconductor.runtime.suspension import Suspension
from pgconductor.runtime.waits import Waits
from pgconductor.testing import Rehearsal

MINUTE = timedelta(minutes=1)


@pytest.fixture
def conductor() -> Conductor:
    return Conductor()


@pytest.fixture
async def rehearsal(conductor: Conductor) -> AsyncGenerator[Rehearsal]:
    async with Rehearsal(conductor) as rehearsal:
        yield rehearsal


@pytest.mark.parametrize("act", [False, True])
@pytest.mark.parametrize("many", [20, 100])
async def test_children_that_end_one_by_one(
    conductor: Conductor, rehearsal: Rehearsal, many: int, *, act: bool
) -> None:
    """A replay for each would go through all of them for each of them."""
    replays = 0
    seen: list[int] = []

    @conductor.task
    async def child(ctx: TaskContext, number: int) -> int:
        await ctx.sleep("a while", number * timedelta(seconds=1))
        return number

    async def note(number: int) -> int:
        seen.append(number)
        return number

    @conductor.task
    async def parent(ctx: TaskContext) -> int:
        nonlocal replays
        replays += 1

        async def one(number: int) -> int:
            got = await ctx.invoke(f"child {number}", child, number)
            return await ctx.step(f"note {number}", note, got) if act else got

        return sum(await asyncio.gather(*(one(number) for number in range(many))))

    handle = await parent.invoke()
    assert await handle.result() == sum(range(many))
    assert replays <= 4
    assert seen == (list(range(many)) if act else [])


class Keeper:
    """Has waits stay as long as they want to."""

    def __init__(self) -> None:
        self.kept: set[float] = set()

    def watch(self, waits: Waits, child_id: UUID | None) -> None:
        pass

    def forget(self, waits: Waits) -> None:
        pass

    def look(self, execution_id: UUID) -> None:
        pass

    def keeps(self, waits: Waits, seconds: float) -> bool:
        self.kept.add(seconds)
        return True


@pytest.mark.parametrize("lingers", [True, False])
@pytest.mark.parametrize(("many", "seconds"), [(50, 5.0), (300, 30.0), (2000, 60.0)])
async def test_many_that_end_one_by_one_are_told_in_memory(
    many: int, seconds: float, *, lingers: bool
) -> None:
    """Each at once, and for each no replay; one beside which nothing may start leaves at once."""

    keeper = Keeper()
    tasks: list[asyncio.Task[Recorded]] = []
    waits = Waits(
        uuid4(),
        keeper,
        desk=AttemptDesk(cast("Fetched", None), plain=False),
        patience=0.0,
        known=lambda: tasks,
        may_linger=lingers,
    )
    waits.turns._desk.on_slot = waits.turns.go_on  # type: ignore[attr-defined]  # the attempt's
    waits.replayed = many
    for number in range(many):
        wait = Recorded(key=f"child {number}", kind=StepKind.CHILD, pending=True, child_id=uuid4())
        tasks.append(asyncio.create_task(waits.until_ended(wait)))
    await asyncio.sleep(0)
    if not lingers:
        with pytest.raises(Suspension):
            await tasks[0]
        return
    # The last one would leave at once: nothing more is to come.
    for number in range(many - 1):
        ended = Recorded(key=f"child {number}", kind=StepKind.CHILD, woke=number + 1)
        waits.settled(Settled(waits.execution_id, number + 1, (ended,)))
        assert (await tasks[number]).key == ended.key
    assert waits.suspended_by is None
    assert keeper.kept == {seconds}
