"""Results of steps that cannot be stored or read back: refused before anything is on record."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import date, timedelta
from typing import Annotated, Any

import pytest
from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    PlainSerializer,
    SecretStr,
    ValidationInfo,
)
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from pgconductor import Conductor, RetryPolicy, Task, TaskContext
from pgconductor.exceptions import ExecutionFailed
from tests.integration.runtime_world import SOON, World

AT_ONCE = RetryPolicy.constant(timedelta(milliseconds=1))
ADD = text("INSERT INTO public.bookings (n) VALUES (:n)")


class Secretive(BaseModel):
    number: int
    secret: str = Field(exclude=True)


class Positive(BaseModel):
    number: int = Field(gt=0)


class Strict(Positive):
    most: int


class Texts(BaseModel):
    data: bytes


class Note(BaseModel):
    about: Any


Vague = Annotated[int, PlainSerializer(lambda number: f"about {number}", return_type=str)]


def refuse_json(value: Any, info: ValidationInfo) -> Any:
    if info.mode == "json":
        raise TypeError("not made for reading")
    return value


Unreadable = Annotated[int, BeforeValidator(refuse_json)]


@pytest.fixture
def world(world: World) -> World:
    world.rows("CREATE TABLE public.bookings (n integer NOT NULL)")
    return world


def written(world: World) -> tuple[int, int]:
    """How many bookings there are, and steps."""
    bookings = world.rows("SELECT 1 FROM public.bookings")
    return len(bookings), len(world.rows("SELECT 1 FROM pgconductor.steps"))


async def failed(world: World, conductor: Conductor, task: Any) -> str:
    """The error of an execution that is not tried again."""
    handle = await task.invoke()
    await conductor.orchestrator().drain()
    with pytest.raises(ExecutionFailed):
        await handle.result(SOON)
    row = world.execution(handle.id)
    assert (row["last_error_type"], row["attempts"]) == ("ResultEncodeError", 1)
    error: str = row["last_error"]
    return error


HOW = ["step", "options", "here", "transact", "block"]


def taking(conductor: Conductor, how: str, kind: Any, make: Callable[[], Any]) -> Task[Any, Any]:
    """A task with a step ``odd`` of a declared type, taken in one of the ways."""

    def plainly() -> Any:
        return make()

    async def book(session: AsyncSession) -> Any:
        await session.execute(ADD, {"n": 1})
        return make()

    plainly.__annotations__["return"] = book.__annotations__["return"] = kind

    async def asynchronous(ctx: TaskContext) -> None:
        if how == "step":
            await ctx.step("odd", plainly)
        elif how == "options":
            await ctx.options(max_attempts=3, retry=AT_ONCE).step("odd", plainly)
        elif how == "transact":
            await ctx.transact("odd", book)
        else:
            async with (block := ctx.transaction("odd", kind)) as session:
                block.result = await book(session)

    def plain(ctx: TaskContext) -> None:
        ctx.step_here("odd", plainly)

    return conductor.task(max_attempts=1)(plain if how == "here" else asynchronous)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(
    "odd",
    [
        (Positive, lambda: Positive.model_construct(number=-1), "greater than 0"),
        (Vague, lambda: 7, "valid integer"),
        (Unreadable, lambda: 7, "not made for reading"),
    ],
    ids=["invalid", "lossy", "raises"],
)
async def test_a_result_that_cannot_be_read_back(
    world: World, conductor: Conductor, how: str, odd: tuple[Any, Any, str]
) -> None:
    kind, made, why = odd

    task = taking(conductor, how, kind, made)
    error = await failed(world, conductor, task)
    assert "step 'odd'" in error
    assert "its result cannot be read back: " in error
    assert why in error
    undone = how in ("transact", "block")
    assert ("nothing was written" in error, "have happened" in error) == (undone, not undone)
    assert written(world) == (0, 0)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Secretive, r"the field at \$\.secret is required, and excluded from what is written"),
        (dict[int | None, int], r"keys of type NoneType at \$ would come back as another type"),
        (Texts, r"bytes at \$\.data would be written as UTF-8"),
        (date | str, r"str at \$ would come back as date"),
        (SecretStr, r"a secret at \$ would be written as '\*+'"),
    ],
    ids=["left out", "key", "bytes", "union", "secret"],
)
async def test_a_type_that_cannot_come_back_is_refused_before_the_call(
    world: World, conductor: Conductor, how: str, kind: Any, why: str
) -> None:
    called: list[int] = []
    handle = await taking(conductor, how, kind, lambda: called.append(1)).invoke()
    await conductor.orchestrator().drain()
    with pytest.raises(ExecutionFailed, match=why) as caught:
        await handle.result(SOON)
    assert caught.value.error_type == "ConfigurationError"
    assert called == []
    assert written(world) == (0, 0)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(
    ("kind", "value", "why"),
    [
        (dict, {"a": [math.nan]}, r"non-finite number \(nan\) at \$\.a\[0\]"),
        (dict[str, Any], {"a": {1}}, r"set at \$\.a is not JSON"),
        (Note, Note(about=math.inf), r"non-finite number \(inf\) at \$\.about"),
        (Positive, Strict(number=1, most=2), r"Strict at \$ would come back as Positive"),
        (list[str], ["\x00"], "NUL character"),
    ],
    ids=["nan", "set", "any", "subclass", "nul"],
)
async def test_a_result_that_would_come_back_as_another_is_refused(
    world: World, conductor: Conductor, *, how: str, kind: Any, value: Any, why: str
) -> None:
    handle = await taking(conductor, how, kind, lambda: value).invoke()
    await conductor.orchestrator().drain()
    with pytest.raises(ExecutionFailed, match=f"its result cannot be stored: .*{why}") as caught:
        await handle.result(SOON)
    assert caught.value.error_type == "ResultEncodeError"
    assert written(world) == (0, 0)


@pytest.mark.parametrize("how", HOW)
async def test_bytes_of_any_kind_are_results(world: World, conductor: Conductor, how: str) -> None:
    handle = await taking(conductor, how, bytes, lambda: b"\x00\xff\xfe").invoke()
    await conductor.orchestrator().drain()
    assert await handle.result(SOON) is None
    assert [row["result"] for row in world.rows("SELECT result FROM pgconductor.steps")] == ["AP_-"]


@pytest.mark.parametrize("how", ["transact", "block"])
async def test_nothing_was_written_if_the_result_cannot_be_stored(
    world: World, conductor: Conductor, how: str
) -> None:
    async def book(session: AsyncSession) -> object:
        await session.execute(ADD, {"n": 1})
        return object()

    @conductor.task(max_attempts=3, retry=AT_ONCE)
    async def task(ctx: TaskContext) -> None:
        if how == "transact":
            await ctx.transact("book", book)
        else:
            async with (block := ctx.transaction("book")) as session:
                block.result = await book(session)

    error = await failed(world, conductor, task)
    assert "nothing was written by step 'book', for its result cannot be stored: " in error
    assert "have happened" not in error
    assert written(world) == (0, 0)


async def test_a_block_that_was_to_assign_its_result(world: World, conductor: Conductor) -> None:
    @conductor.task(max_attempts=3, retry=AT_ONCE)
    async def task(ctx: TaskContext) -> None:
        async with ctx.transaction("book", int) as session:
            await session.execute(ADD, {"n": 1})

    error = await failed(world, conductor, task)
    assert "nothing was written by step 'book', for its result was not assigned" in error
    assert written(world) == (0, 0)


async def test_a_block_need_not_assign_none(world: World, conductor: Conductor) -> None:
    @conductor.task(max_attempts=1)
    async def task(ctx: TaskContext) -> bool:
        async with (block := ctx.transaction("book", int | None)) as session:
            await session.execute(ADD, {"n": 1})
        return block.result is None

    handle = await task.invoke()
    await conductor.orchestrator().drain()
    assert await handle.result(SOON) is True
    assert written(world) == (1, 1)
