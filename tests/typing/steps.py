"""What type checkers make of durable handlers. They read this file; nobody executes it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial
from typing import Any, Literal, assert_type
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from pgconductor import Conductor, TaskContext
from pgconductor.types import First

conductor = Conductor()


class Order(BaseModel):
    id: int


async def charge(order: Order, times: int = 1) -> UUID:
    return UUID(int=order.id * times)


def weigh(order: Order) -> float:
    return float(order.id)


async def book(session: AsyncSession, order: Order) -> list[Order]:
    return [order]


ordered = conductor.event("ordered", Order)


@conductor.task
async def ship(ctx: TaskContext, order: Order) -> list[UUID]:
    return []


@conductor.task
def count(ctx: TaskContext) -> int:
    return 1


async def steps(ctx: TaskContext, order: Order) -> None:
    assert_type(await ctx.step("charge", charge, order), UUID)
    assert_type(await ctx.step("charge", charge, order, times=2), UUID)
    assert_type(await ctx.step("weigh", weigh, order), float)
    assert_type(await ctx.step("new", Order, id=1), Order)
    assert_type(await ctx.step("bound", partial(charge, order)), UUID)
    assert_type(await ctx.options(max_attempts=2).step("charge", charge, order), UUID)
    both = await asyncio.gather(ctx.step("a", charge, order), ctx.step("b", weigh, order))
    assert_type(both, tuple[UUID, float])
    async with asyncio.TaskGroup() as group:
        task = group.create_task(ctx.step("c", charge, order))
    assert_type(task.result(), UUID)
    await ctx.step("charge", charge, 1)  # type: ignore[call-overload]  # no Order
    await ctx.step("charge", charge)  # type: ignore[call-overload]  # no argument

    @ctx.step("add")
    async def add(one: int, other: int) -> int:
        return one + other

    assert_type(await asyncio.gather(add(1, 2), ctx.step("d", weigh, order)), tuple[int, float])
    assert_type(await add(1, 2), int)
    await add("1", 2)  # type: ignore[arg-type]  # no number


async def transactions(ctx: TaskContext, order: Order) -> None:
    assert_type(await ctx.transact("book", book, order), list[Order])
    await ctx.transact("book", book, 1)  # type: ignore[arg-type]  # no Order
    booking = ctx.transaction("book", list[Order])
    async with booking as session:
        assert_type(session, AsyncSession)
        booking.result = [order]
    assert_type(booking.result, list[Order])
    # A union is no type to a type checker.
    assert_type(ctx.transaction("book", int | None).result, Any)


async def waits(ctx: TaskContext, order: Order) -> None:
    assert_type(await ctx.invoke("ship", ship, order), list[UUID])
    assert_type(await ctx.invoke("count", count), int)
    await ctx.invoke("ship", ship, 1)  # type: ignore[misc]  # no Order
    both = await asyncio.gather(ctx.invoke("a", ship, order), ctx.invoke("b", count))
    assert_type(both, tuple[list[UUID], int])
    assert_type(await ctx.spawn("ship", ship, order), UUID)
    assert_type(await ctx.wait_for("order", ordered), Order)
    assert_type(await ctx.wait_for("order", "ordered"), Any)
    await ctx.emit(ordered, order)
    await ctx.emit(ordered, 1)  # type: ignore[misc]  # no Order


async def races(ctx: TaskContext, order: Order) -> None:
    two = await ctx.first("two", ctx.wait_for("a", ordered), ctx.sleep("b", timedelta(days=1)))
    if two.index == 0:
        assert_type(two.value, Order)
    else:
        assert_type(two.index, Literal[1])
        assert_type(two.value, None)
    three = await ctx.first(
        "three", ctx.invoke("s", ship, order), ctx.step("w", weigh, order), ctx.invoke("c", count)
    )
    if three.index == 1:
        assert_type(three.value, float)
    elif three.index == 2:
        assert_type(three.value, int)
    else:
        assert_type(three.value, list[UUID])
    many = await ctx.first("many", *(ctx.invoke(str(i), count) for i in range(9)))
    assert_type(many, First[int, int])
    task = asyncio.create_task(ctx.invoke("c", count))
    mine = await ctx.first("mine", task, ctx.sleep("d", timedelta(days=1)))
    assert_type(mine.value, int | None)
    await ctx.first("none", 1, 2)  # type: ignore[call-overload]  # nothing to wait for


def plain(ctx: TaskContext, order: Order) -> None:
    assert_type(ctx.step_here("weigh", weigh, order), float)
    assert_type(ctx.here(ctx.step("charge", charge, order)), UUID)
