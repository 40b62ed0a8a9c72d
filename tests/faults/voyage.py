"""A handler with all that a handler can do durably, and what it invokes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from pgconductor import Conductor, RetryPolicy, TaskContext
from tests.faults.boundaries import place, point_of, stand

__all__ = ["PLACES", "Errand", "declare_moorings", "declare_voyage"]

#: Everywhere that a voyage can stand, in the order in which it comes there; see boundaries.py.
#: After ``kin`` it is the child that stands, after ``messenger`` what was spawned.
PLACES: Final = (
    *("begun", "before change", "after change"),
    *("before step", "after step"),
    *("before shaky~1", "after shaky~1", "before shaky", "after shaky"),
    *("written booking", "before booking", "after booking"),
    *("written block", "before block", "after block"),
    *("before nap", "after nap", "told nap", "suspended at nap"),
    *("before child", "after child", "told child", "suspended at child"),
    *("kin begun", "kin before own", "kin after own", "kin written kept", "kin before kept"),
    *("kin after kept", "kin ended"),
    *("before twin 2", "after twin 2", "told twin 2", "suspended at twin 1"),
    *("before spawned", "after spawned"),
    *("messenger begun", "messenger before arrival", "messenger after arrival", "messenger ended"),
    *("before answer", "after answer", "told answer", "suspended at answer"),
    *("before echo", "after echo", "before heard", "after heard", "told heard"),
    *("written end", "before end", "after end"),
)
#: Whom a voyage waits for that is suspended: they stand as well, so that nothing comes.
_AWAITED: Final = {
    "suspended at child": "kin",
    "suspended at twin 1": "twin",
    "suspended at answer": "messenger",
}
_AT_ONCE: Final = RetryPolicy.constant(timedelta(milliseconds=1))
_TRIES: Final[dict[str, Any]] = {"max_attempts": 100, "max_crashes": 10, "retry": _AT_ONCE}


class Errand(BaseModel):
    """What a child is to do.

    Attributes:
        voyage: Whose it is.
        role: ``kin``, ``twin`` or ``messenger``.
        standing: Where the voyage, or the child, stands in each process.
    """

    voyage: UUID
    role: str
    standing: list[str]

    @property
    def place(self) -> tuple[str, str]:
        """Where to stand, and under what name."""
        point = point_of(self.standing)
        if _AWAITED.get(point) == self.role:
            point = f"{self.role} begun"
        role, _, where = point.partition(" ")
        return (where, f"{self.voyage} {self.role}") if role == self.role else ("", "")


async def effect(ctx: TaskContext, conductor: Conductor, what: str) -> int:
    """Happens at once, whatever becomes of the step; how often it has."""
    async with conductor.engine.begin() as connection:
        await connection.execute(text(_EFFECT), _of(ctx, what))
        found = await connection.execute(text(_EFFECTS), _of(ctx, what))
        return int(found.scalar_one())


async def shaky(ctx: TaskContext, conductor: Conductor) -> str:
    """Fails the first time."""
    if await effect(ctx, conductor, "shaky") == 1:
        raise OSError("a drill")
    return "shaky"


async def write(session: AsyncSession, ctx: TaskContext, what: str) -> str:
    """Happens with the transaction."""
    await session.execute(text(_EFFECT), _of(ctx, what))
    await stand(ctx.execution_id, f"written {what}")
    return what


def declare_voyage(conductor: Conductor) -> None:
    """The tasks."""

    @conductor.task(**_TRIES)
    async def kin(ctx: TaskContext, errand: Errand) -> str:
        place(ctx.execution_id, *errand.place)
        await stand(ctx.execution_id, "begun")
        await ctx.step("own", effect, ctx, conductor, "own")
        return await ctx.transact("kept", write, ctx, "kept")

    @conductor.task(**_TRIES)
    async def messenger(ctx: TaskContext, errand: Errand) -> None:
        place(ctx.execution_id, *errand.place)
        await stand(ctx.execution_id, "begun")
        await ctx.emit("arrived", {"voyage": str(errand.voyage)}, key="arrival")

    async def waits(ctx: TaskContext, standing: list[str]) -> list[Any]:
        """The part of a voyage that waits."""

        def errand(role: str) -> Errand:
            return Errand(voyage=ctx.execution_id, role=role, standing=standing)

        # What is suspended is to be suspended before anything comes.
        long = point_of(standing) == "suspended at nap"
        await ctx.sleep("nap", timedelta(seconds=1.0 if long else 0.02))
        found: list[Any] = [await ctx.invoke("child", kin, errand("kin"))]
        found += await asyncio.gather(
            *(ctx.invoke(f"twin {i}", kin, errand("twin")) for i in (1, 2))
        )
        await ctx.spawn("spawned", messenger, errand("messenger"))
        mine = {"voyage": str(ctx.execution_id)}
        found.append(await ctx.wait_for("answer", "arrived", match=mine) == mine)
        await ctx.emit("echo", mine, key="echo")
        found.append(await ctx.wait_for("heard", "echo", match=mine) == mine)
        return found

    @conductor.task(**_TRIES)
    async def voyage(ctx: TaskContext, standing: list[str]) -> list[Any]:
        place(ctx.execution_id, point_of(standing), f"{ctx.execution_id} voyage")
        await stand(ctx.execution_id, "begun")
        found: list[Any] = [await ctx.patched("change")]
        await ctx.step("step", effect, ctx, conductor, "step")
        stepper = ctx.options(max_attempts=100, retry=_AT_ONCE)
        found.append(await stepper.step("shaky", shaky, ctx, conductor))
        found.append(await ctx.transact("booking", write, ctx, "booking"))
        async with ctx.transaction("block") as session:
            await write(session, ctx, "block")
        found += await waits(ctx, standing)
        async with ctx.transaction("end") as session:
            await write(session, ctx, "end")
            await ctx.complete_in(session, found)
        return found

    @conductor.task(**_TRIES)
    async def harbour(ctx: TaskContext) -> list[Any]:
        """Waits for everything that can be waited for, at once."""
        errand = Errand(voyage=ctx.execution_id, role="kin", standing=[])
        await ctx.spawn("spawned", messenger, errand)
        stepper = ctx.options(max_attempts=100, retry=_AT_ONCE)
        mine = {"voyage": str(ctx.execution_id)}
        found = await asyncio.gather(
            ctx.sleep("nap", timedelta(milliseconds=1)),
            ctx.invoke("child", kin, errand),
            ctx.wait_for("answer", "arrived", match=mine),
            stepper.step("shaky", shaky, ctx, conductor),
        )
        return [*found]


def declare_moorings(conductor: Conductor) -> None:
    """Handlers that wait for what does not come by itself, with an effect before and after."""

    @conductor.task(**_TRIES)
    async def buoy(ctx: TaskContext) -> None:
        await ctx.sleep("an hour", _HOUR)

    @conductor.task(**_TRIES)
    async def mooring(ctx: TaskContext, kind: str) -> None:
        async def later() -> None:
            if not await tried_before(ctx):
                raise OSError("a drill")

        async def tried() -> None:
            stepper = ctx.options(max_attempts=2, retry=RetryPolicy.constant(_HOUR))
            await stepper.step("try", later)

        waits: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
            "sleep": lambda: ctx.sleep("sleep", _HOUR),
            "child": lambda: ctx.invoke("child", buoy),
            "event": lambda: ctx.wait_for("event", "horn"),
            "try": tried,
        }
        await ctx.transact("before", write, ctx, "before")
        if kind == "branches":
            await asyncio.gather(*(wait() for wait in waits.values()))
        elif kind == "tasks":
            async with asyncio.TaskGroup() as group:
                for wait in waits.values():
                    group.create_task(wait())
        else:
            await waits[kind]()
        await ctx.transact("after", write, ctx, "after")

    async def tried_before(ctx: TaskContext) -> bool:
        """Whether its one try has failed before: it is on record."""
        async with conductor.engine.begin() as connection:
            found = await connection.execute(text(_TRIED), {"id": ctx.execution_id})
            return bool(found.scalar_one())


_HOUR: Final = timedelta(hours=1)
_TRIED: Final = "SELECT count(*) FROM pgconductor.steps WHERE execution_id = :id AND kind = 'try'"
_EFFECT: Final = "INSERT INTO effects (execution_id, task, pid) VALUES (:id, :task, :pid)"
_EFFECTS: Final = (
    "SELECT count(*) FROM effects WHERE execution_id = :id AND task = :task AND :pid > 0"
)


def _of(ctx: TaskContext, what: str) -> dict[str, Any]:
    return {"id": ctx.execution_id, "task": what, "pid": os.getpid()}
