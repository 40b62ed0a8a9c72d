"""What cannot be the key of a step: refused at the call, before anything is done or written."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import Enum, StrEnum
from typing import Any

import pytest

from pgconductor import Conductor, TaskContext
from pgconductor.exceptions import DuplicateStep, InvalidInput, InvalidName
from pgconductor.testing import Rehearsal
from tests.integration.runtime_world import SOON, World

REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "empty": ("", InvalidName, "is empty"),
    "spaces": ("  ", InvalidName, "is empty"),
    "wide space": ("\u3000", InvalidName, "is empty"),
    "long": ("k" * 501, InvalidName, "longer than 500 bytes"),
    "long in UTF-8": ("é" * 251, InvalidName, "longer than 500 bytes"),
    "line break": ("a\nb", InvalidName, "invisible character"),
    "tab": ("a\tb", InvalidName, "invisible character"),
    "bell": ("\x07", InvalidName, "invisible character"),
    "zero width": ("a\u200bb", InvalidName, "invisible character"),
    "line separator": ("a\u2028b", InvalidName, "invisible character"),
    "no-break space": ("a\u00a0b", InvalidName, "invisible character"),
    "NUL": ("a\x00b", InvalidInput, "NUL"),
    "surrogate": ("a\ud800", InvalidInput, "lone surrogate"),
    "number": (7, InvalidInput, "a string is due, not int"),
    "bytes": (b"a", InvalidInput, "a string is due, not bytes"),
    "tuple": (("a", 1), InvalidInput, "a string is due, not tuple"),
    "failed call": ("a~1", InvalidName, "ends in '~' and a number"),
    "failed call of many": ("a~120", InvalidName, "ends in '~' and a number"),
}


class Colour(StrEnum):
    RED = "red"


class Size(str, Enum):  # noqa: UP042 - it is formatted in another way than a StrEnum
    BIG = "big"


ACCEPTED: dict[str, str] = {
    "k" * 500: "k" * 500,
    "é" * 250: "é" * 250,
    "a b": "a b",
    " a ": " a ",
    "ключ/键:7": "ключ/键:7",
    "a~": "a~",
    "~1b": "~1b",
    "page#1": "page#1",
    Colour.RED: "red",
    Size.BIG: "big",
}
PAST = datetime(2020, 1, 1, tzinfo=UTC)


def one() -> int:
    return 1


def ways(ctx: TaskContext, key: Any, called: list[Any]) -> dict[str, Callable[[], Any]]:
    """Every method that takes a key."""

    def work() -> int:
        called.append(key)
        return 1

    async def write(session: object) -> None:
        called.append(key)

    return {
        "step": lambda: ctx.here(ctx.step(key, work)),
        "decorator": lambda: ctx.step(key),
        "patient": lambda: ctx.here(ctx.options(max_attempts=2).step(key, work)),
        "patient decorator": lambda: ctx.options(max_attempts=2).step(key),
        "step_here": lambda: ctx.step_here(key, work),
        "transact": lambda: ctx.here(ctx.transact(key, write)),
        "transaction": lambda: ctx.transaction(key),
        "numbered": lambda: ctx.numbered(key),
        "sleep": lambda: ctx.here(ctx.sleep(key, timedelta(0))),
        "sleep_until": lambda: ctx.here(ctx.sleep_until(key, PAST)),
        "invoke": lambda: ctx.here(ctx.invoke(key, CONDUCTOR.get_task("child"))),
        "spawn": lambda: ctx.here(ctx.spawn(key, CONDUCTOR.get_task("child"))),
        "wait_for": lambda: ctx.here(ctx.wait_for(key, "paid", timeout=timedelta(0))),
        "emit": lambda: ctx.here(ctx.emit("paid", key=key)),
        "patched": lambda: ctx.here(ctx.patched(key)),
    }


CONDUCTOR = Conductor()


@CONDUCTOR.task
async def child(ctx: TaskContext) -> None: ...


def every_way_refuses(ctx: TaskContext, name: str) -> list[Any]:
    key, error, why = REFUSED[name]
    called: list[Any] = []
    for way in ways(ctx, key, called).values():
        with pytest.raises(error, match=why) as caught:
            way()
        assert isinstance(caught.value, InvalidInput)
        assert isinstance(caught.value, ValueError)
    return called


@pytest.mark.parametrize("name", REFUSED)
async def test_it_is_refused_by_every_method(name: str) -> None:
    conductor = Conductor()

    @conductor.task
    def task(ctx: TaskContext) -> int:
        return len(every_way_refuses(ctx, name))

    async with Rehearsal(conductor) as rehearsal:
        handle = await task.invoke()
        assert await handle.result() == 0
        assert await rehearsal.steps(handle.id) == {}
        assert len(await rehearsal.executions()) == 1


async def test_nothing_is_written_on_postgres(world: World) -> None:
    conductor = world.conductor()

    @conductor.task(max_attempts=1)
    def task(ctx: TaskContext) -> int:
        return sum(len(every_way_refuses(ctx, name)) for name in REFUSED)

    handle = await task.invoke()
    await conductor.orchestrator().drain()
    assert await handle.result(SOON) == 0
    for table, rows in (("steps", 0), ("events", 0), ("executions", 1)):
        assert len(world.rows(f"SELECT 1 FROM pgconductor.{table}")) == rows


@pytest.mark.parametrize("where", ["memory", "postgres"])
async def test_what_is_accepted_comes_back(world: World, where: str) -> None:
    """As it is: spaces around it and capitals are part of it."""
    conductor = world.conductor()
    attempts: list[int] = []

    @conductor.task
    async def task(ctx: TaskContext) -> None:
        attempts.append(1)
        for key in ACCEPTED:
            await ctx.step(key, one)
        await ctx.sleep("night", timedelta(milliseconds=1))

    handle = await task.invoke()
    if where == "postgres":
        await conductor.orchestrator().drain()
        rows = world.rows("SELECT key FROM pgconductor.steps WHERE kind = 'step'")
        assert {row["key"] for row in rows} == set(ACCEPTED.values())
    else:
        await handle.cancel()
        async with Rehearsal(conductor) as rehearsal:
            again = await task.invoke()
            await again.result()
            assert set(await rehearsal.steps(again.id)) == {*ACCEPTED.values(), "night"}


async def test_a_key_by_hand_meets_a_numbered_one() -> None:
    """Whichever comes second is refused before its function is called."""
    conductor = Conductor()
    called: list[str] = []

    @conductor.task(max_attempts=1)
    async def task(ctx: TaskContext) -> None:
        numbered = [ctx.numbered("page"), ctx.numbered("page")]
        await ctx.step("page#2", called.append, "by hand")
        with pytest.raises(DuplicateStep, match="page#2"):
            await ctx.step(numbered[1], called.append, "numbered")

    async with Rehearsal(conductor):
        await (await task.invoke()).result()
    assert called == ["by hand"]


async def test_a_number_must_fit_in() -> None:
    conductor = Conductor()

    @conductor.task
    async def task(ctx: TaskContext) -> list[str]:
        with pytest.raises(InvalidName, match="longer than 500 bytes"):
            ctx.numbered("k" * 499)
        return [ctx.numbered("k" * 498)[-2:], ctx.numbered(Size.BIG), ctx.numbered(Colour.RED)]

    async with Rehearsal(conductor):
        assert await (await task.invoke()).result() == ["#1", "big#1", "red#1"]
