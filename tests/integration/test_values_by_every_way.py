"""What JSON cannot hold is refused by every way in, in a database and in memory alike."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncEngine

from pgconductor import Conductor, Task, TaskContext
from pgconductor.events import EventRef
from pgconductor.exceptions import ExecutionFailed, InvalidPayload, ResultEncodeError
from pgconductor.services import EventService, ExecutionService
from pgconductor.testing import Rehearsal
from tests.integration.bad_values import PAYLOADS


class Order(BaseModel):
    number: int
    notes: Any = None


class Gift(Order):
    wish: str


BAD_PLAIN: list[Any] = [
    {"a": math.nan},
    {"a": [1, {"b": -math.inf}]},
    {"a": "b\x00"},
    {"a": "\ud800"},
    {"a": 2**63},
    {"a": Decimal("1.5")},
    {"a": {1}},
    {"a": b"x"},
    {"a": date(2001, 2, 3)},
    {"a": {1: 2}},
    {"a": Order(number=1)},
]
#: Types, and values of them.
BAD: list[tuple[Any, list[Any]]] = [
    (Any, BAD_PLAIN),
    (dict, BAD_PLAIN),
    (dict[str, Any], BAD_PLAIN),
    (object, BAD_PLAIN),
    (list, [[one] for one in BAD_PLAIN]),
    (Order, [Order(number=1, notes=one) for one in BAD_PLAIN]),
    (Order, [Gift(number=1, wish="a book"), Order(number=2**63), Order(number=1, notes=math.nan)]),
    (Order | None, [Gift(number=1, wish="a book")]),
    (list[Order], [[Order(number=1), Gift(number=1, wish="a book")]]),
    (float, [math.nan, math.inf, -math.inf]),
    (dict[str, float], [{"a": math.nan}]),
]
Refusing = Callable[[Conductor, Task[Any, Any], EventRef[Any], Any], Any]
NOBODYS: Any = object()

#: From outside. None of them comes to look at the session.
WAYS: dict[str, Refusing] = {
    "invocation": lambda _c, task, _e, value: task.invocation(value),
    "invocation with options": lambda _c, task, _e, value: task.invocation(value, priority=1),
    "invoke": lambda _c, task, _e, value: task.invoke(value),
    "invoke later": lambda _c, task, _e, value: task.invoke(value, delay=timedelta(1)),
    "invoke once": lambda _c, task, _e, value: task.invoke(value, dedupe_key="one"),
    "invoke in a session": lambda _c, task, _e, value: task.invoke(value, session=NOBODYS),
    "invoke_many": lambda _c, task, _e, value: task.invoke_many([value]),
    "invoke_many of 25": lambda _c, task, _e, value: task.invoke_many([value] * 25),
    "invoke_sync": lambda _c, task, _e, value: task.invoke_sync(value, session=NOBODYS),
    "emit": lambda _c, _t, event, value: event.emit(value),
    "emit_sync": lambda _c, _t, event, value: event.emit_sync(value, session=NOBODYS),
    "conductor.emit": lambda conductor, _t, event, value: conductor.emit(event, value),
    "conductor.emit_sync": lambda conductor, _t, event, value: conductor.emit_sync(
        event, value, session=NOBODYS
    ),
}
Inside = Callable[[TaskContext, Task[Any, Any], EventRef[Any], Any], Awaitable[Any]]
WAYS_INSIDE: dict[str, Inside] = {
    "ctx.invoke": lambda ctx, task, _e, value: ctx.invoke("child", task, value),
    "ctx.spawn": lambda ctx, task, _e, value: ctx.spawn("child", task, value),
    "ctx.emit": lambda ctx, _t, event, value: ctx.emit(event, value, key="told"),
    "complete_in": lambda ctx, _t, _e, value: ctx.complete_in(NOBODYS, value),
}
WHERE = pytest.mark.parametrize("where", ["memory", "database"])


def told(hint: Any) -> tuple[Conductor, Task[Any, Any], EventRef[Any]]:
    conductor = Conductor()

    async def take(ctx: TaskContext, payload: Any) -> None: ...

    take.__annotations__["payload"] = hint
    return conductor, conductor.task(take), conductor.event("told", hint)


@WHERE
@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
async def test_from_outside(engine: AsyncEngine, where: str, way: Refusing) -> None:
    for hint, values in BAD:
        conductor, task, event = told(hint)
        async with Rehearsal(conductor, engine if where == "database" else None) as rehearsal:
            for value in values:
                with pytest.raises(InvalidPayload):
                    await way(conductor, task, event, value)
            assert await rehearsal.executions() == []


@WHERE
@pytest.mark.parametrize("way", WAYS_INSIDE.values(), ids=list(WAYS_INSIDE))
async def test_from_a_handler(engine: AsyncEngine, where: str, way: Inside) -> None:
    for hint, values in BAD:
        conductor, task, event = told(hint)

        async def handler(
            ctx: TaskContext,
            number: int,
            *,
            values: list[Any] = values,
            told: tuple[Task[Any, Any], EventRef[Any]] = (task, event),
        ) -> Any:
            with pytest.raises((InvalidPayload, ResultEncodeError)):
                await way(ctx, *told, values[number])

        handler.__annotations__["return"] = hint if hint is Any else hint | None
        invoked = conductor.task(max_attempts=1)(handler)
        async with Rehearsal(conductor, engine if where == "database" else None) as rehearsal:
            handles = [await invoked.invoke(number) for number in range(len(values))]
            await rehearsal.drain()
            assert [await one.result() for one in handles] == [None] * len(values)
            assert [await rehearsal.steps(one) for one in handles] == [{}] * len(values)


@WHERE
async def test_what_a_handler_returns(engine: AsyncEngine, where: str) -> None:
    for hint, values in BAD:
        conductor = Conductor()

        async def handler(ctx: TaskContext, number: int, *, values: list[Any] = values) -> Any:
            return values[number]

        handler.__annotations__["return"] = hint
        invoked = conductor.task(max_attempts=3)(handler)
        async with Rehearsal(conductor, engine if where == "database" else None) as rehearsal:
            handles = [await invoked.invoke(number) for number in range(len(values))]
            await rehearsal.drain()
            for handle in handles:
                with pytest.raises(ExecutionFailed) as caught:
                    await handle.result()
                assert caught.value.error_type == "ResultEncodeError"


@WHERE
async def test_what_an_event_must_contain(engine: AsyncEngine, where: str) -> None:
    conductor, _, event = told(dict)

    @conductor.task(max_attempts=1)
    async def wait(ctx: TaskContext, number: int) -> None:
        with pytest.raises(InvalidPayload):
            await ctx.wait_for("told", event, match=BAD_PLAIN[number])

    async with Rehearsal(conductor, engine if where == "database" else None) as rehearsal:
        handles = [await wait.invoke(number) for number in range(len(BAD_PLAIN))]
        assert (await rehearsal.drain()).finished
        assert [await rehearsal.steps(one) for one in handles] == [{}] * len(BAD_PLAIN)


@WHERE
async def test_by_name(engine: AsyncEngine, where: str) -> None:
    conductor = Conductor()
    async with Rehearsal(conductor, engine if where == "database" else None) as rehearsal:
        for value in [*BAD_PLAIN, *(one for one, _ in PAYLOADS.values())]:
            with pytest.raises(InvalidPayload):
                await conductor.emit("told", value)
            with pytest.raises(InvalidPayload):
                conductor.emit_sync("told", value, session=NOBODYS)
            with pytest.raises(InvalidPayload):
                await ExecutionService(engine).invoke("take", value)
            with pytest.raises(InvalidPayload):
                await EventService(engine).emit("told", value)
        assert await rehearsal.executions() == []
    assert sum((await ExecutionService(engine).count()).values()) == 0
