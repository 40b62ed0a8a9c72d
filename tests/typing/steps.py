"""What type checkers make of durable handlers. They read this file; nobody executes it."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, assert_type
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from pgconductor import Conductor, TaskContext

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


def plain(ctx: TaskContext, order: Order) -> None:
    assert_type(ctx.step_here("weigh", weigh, order), float)
    assert_type(ctx.here(ctx.step("charge", charge, order)), UUID)
