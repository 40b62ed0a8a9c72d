"""Payloads and results of every kind, through the database and back."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any
from typing import TypedDict as BareTypedDict
from uuid import UUID

import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from pgconductor import Conductor, Task, TaskContext
from pgconductor.exceptions import (
    ConfigurationError,
    ExecutionFailed,
    InvalidInput,
    InvalidPayload,
)
from tests.integration.runtime_world import SOON, World


class Order(BaseModel):
    id: int
    email: str = Field(alias="eMail")
    lines: list[Line] = []


class Line(BaseModel):
    price: Decimal


@dataclass
class Point:
    x: int
    y: int = 0


class Options(TypedDict, total=False):
    colour: str


class Bare(BareTypedDict):
    """Pydantic takes it from Python 3.12 on only."""

    colour: str


class Odd:
    pass


class Kind(Enum):
    GOOD = "good"


EPOCH = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
NIL = UUID(int=7)
SAMPLES: list[tuple[Any, Any]] = [
    (Order, Order(id=1, eMail="a@b", lines=[Line(price=Decimal("1.10"))])),
    (Point, Point(1, 2)),
    (Options, {"colour": "red"}),
    (list[int], [1, 2, 3]),
    (dict[str, Point], {"a": Point(1)}),
    (int | None, None),
    (int | None, 5),
    (str, ""),
    (bool, False),
    (datetime, EPOCH),
    (timedelta, timedelta(minutes=90)),
    (UUID, NIL),
    (Kind, Kind.GOOD),
    (Decimal, Decimal("0.30")),
    (bytes, b"bytes"),
    (tuple[int, str], (1, "a")),
    (set[int], {1, 2}),
    (Annotated[int, Field(gt=3)], 4),
    (Any, {"plain": ["json", 1, 2.5, None, True]}),
    (Any, None),
]


def echo(conductor: Conductor, name: str, hint: Any, *, plain: bool) -> Task[Any, Any]:
    async def asynchronous(ctx: TaskContext, payload: Any) -> Any:
        return payload

    def blocking(ctx: TaskContext, payload: Any) -> Any:
        return payload

    handler: Callable[..., Any] = blocking if plain else asynchronous
    handler.__annotations__ = {"ctx": TaskContext, "payload": hint, "return": hint}
    return conductor.task(name)(handler)


async def test_values_come_back_as_they_were(conductor: Conductor) -> None:
    """Semantics 6: the types are the hints', at invoke, in the handler, and in the result."""
    wanted: list[Any] = []
    handles = []
    for plain in (False, True):
        for index, (hint, value) in enumerate(SAMPLES):
            task = echo(conductor, f"echo_{index}_{plain}", hint, plain=plain)
            handles.append(await task.invoke(value))
            wanted.append(value)
    await conductor.orchestrator().drain()
    assert [await handle.result(SOON) for handle in handles] == wanted


@pytest.mark.parametrize(
    ("hint", "wrong"),
    [
        (Order, {"id": "x", "eMail": "a"}),
        (Order, None),
        (Point, {"x": 1, "y": "?"}),
        (list[int], ["a"]),
        (int, None),
        (datetime, "yesterday"),
        (Annotated[int, Field(gt=3)], 3),
        (Any, object()),
        (Any, float("inf")),
        (Any, "\x00"),
    ],
    ids=range(10),
)
async def test_a_wrong_payload_is_refused(
    world: World, conductor: Conductor, hint: Any, wrong: Any
) -> None:
    """Semantics 6: a typed error at the boundary, and nothing is written."""
    task = echo(conductor, "task", hint, plain=False)
    with pytest.raises(InvalidPayload, match="payload") as caught:
        await task.invoke(wrong)
    assert isinstance(caught.value, ValueError)
    assert caught.value.field == "payload"
    assert world.count() == 0


async def test_invoke_many_names_the_position(world: World, conductor: Conductor) -> None:
    """Semantics 6: one bad payload, and nothing of the batch is written."""
    task = echo(conductor, "task", int, plain=False)
    with pytest.raises(InvalidPayload, match=r"payloads\[2\]: is not a valid int"):
        await task.invoke_many([1, 2, "x", 4])
    other = echo(conductor, "other", int, plain=False)
    with pytest.raises(InvalidInput, match=r"payloads\[1\]: is for task 'other'"):
        await task.invoke_many([1, other.invocation(1)])
    assert world.count() == 0


async def test_no_payload_and_default_payload(world: World, conductor: Conductor) -> None:
    @conductor.task
    async def none(ctx: TaskContext) -> str:
        return "none"

    @conductor.task
    def default(ctx: TaskContext, number: int = 3) -> int:
        return number * 2

    with pytest.raises(InvalidPayload, match="takes no payload"):
        await none.invoke(1)  # type: ignore[arg-type] # wrong on purpose
    alone = await none.invoke()
    numbers = [await default.invoke(), await default.invoke(4)]
    await conductor.orchestrator().drain()
    assert await alone.result(SOON) == "none"
    assert [await number.result(SOON) for number in numbers] == [6, 8]


async def test_a_result_of_the_wrong_type(world: World, conductor: Conductor) -> None:
    """Semantics 6: its effects have happened, so it is not tried again."""

    @conductor.task(max_attempts=5)
    async def task(ctx: TaskContext) -> int:
        return "three"  # type: ignore[return-value] # wrong on purpose

    handle = await task.invoke()
    await conductor.orchestrator().drain()
    with pytest.raises(ExecutionFailed, match="not a valid int") as caught:
        await handle.result(SOON)
    assert caught.value.error_type == "ResultEncodeError"
    assert world.execution(handle.id)["attempts"] == 1


def test_what_cannot_be_a_handler(conductor: Conductor) -> None:
    def untyped(ctx: TaskContext, odd: Odd) -> None: ...
    def unresolved(ctx: TaskContext, odd: Nowhere) -> None: ...  # type: ignore[name-defined] # noqa: F821 - on purpose
    def three(ctx: TaskContext, one: int, two: int) -> None: ...
    def none() -> None: ...
    def taken(ctx: TaskContext) -> None: ...

    declare: Any = conductor.task
    for function, why in (
        (untyped, "pydantic cannot handle"),
        (unresolved, "cannot be resolved"),
        (three, "must take"),
        (none, "must take"),
    ):
        with pytest.raises(ConfigurationError, match=why):
            declare(function)
    if sys.version_info < (3, 12):

        def bare(ctx: TaskContext, options: Bare) -> None: ...

        with pytest.raises(ConfigurationError, match="typing_extensions"):
            declare(bare)
    declare(taken)
    with pytest.raises(ConfigurationError, match="declared twice"):
        declare(taken)
    assert list(conductor.tasks) == ["taken"]


async def test_a_task_may_be_called_directly(conductor: Conductor) -> None:
    """A test of the handler needs no database."""

    @conductor.task
    async def double(ctx: Any, number: int) -> int:
        return number * 2

    assert await double(None, 4) == 8
    assert double.__name__ == "double"
    assert asyncio.iscoroutinefunction(double.function)
