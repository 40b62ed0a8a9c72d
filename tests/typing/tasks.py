"""What type checkers make of tasks and handles. They read this file; nobody executes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypedDict, assert_type
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from pgconductor import Conductor, ExecutionHandle, Task, TaskContext, TaskRef
from pgconductor.domain.events import Emitted

conductor = Conductor()


class Order(BaseModel):
    id: int


@dataclass
class Receipt:
    charge: str


class Line(TypedDict):
    sku: str


# --- declaring: bare, with options, async and plain, with and without payload --------------------


@conductor.task
async def checkout(ctx: TaskContext, order: Order) -> Receipt:
    return Receipt(str(order.id))


@conductor.task(
    "check-out",
    queue="payments",
    max_attempts=5,
    timeout=timedelta(minutes=1),
    retain_completed=timedelta(days=1),
    retain_failed="forever",
)
async def checkout_with_options(ctx: TaskContext, order: Order) -> Receipt:
    return Receipt(str(order.id))


@conductor.task
async def no_payload(ctx: TaskContext) -> int:
    return 1


@conductor.task()
async def no_payload_with_options(ctx: TaskContext) -> None:
    return None


@conductor.task
def plain(ctx: TaskContext, lines: list[Line]) -> dict[str, int]:
    return {line["sku"]: 1 for line in lines}


@conductor.task(queue="slow")
def plain_with_options(ctx: TaskContext, when: datetime) -> UUID | None:
    return None


@conductor.task
def plain_no_payload(ctx: TaskContext) -> str:
    return ctx.task


@conductor.task(max_attempts=1)
def plain_no_payload_with_options(ctx: TaskContext) -> list[str]:
    return [ctx.task]


@conductor.task
async def default(ctx: TaskContext, number: int = 3) -> float:
    return number / 2


@conductor.task
async def optional(ctx: TaskContext, number: int | None) -> str | None:
    return None if number is None else str(number)


@conductor.task
async def anything(ctx: TaskContext, payload: Any) -> Any:
    return payload


assert_type(checkout, Task[Order, Receipt])
assert_type(checkout_with_options, Task[Order, Receipt])
assert_type(no_payload, Task[None, int])
assert_type(no_payload_with_options, Task[None, None])
assert_type(plain, Task[list[Line], dict[str, int]])
assert_type(plain_with_options, Task[datetime, UUID | None])
assert_type(plain_no_payload, Task[None, str])
assert_type(plain_no_payload_with_options, Task[None, list[str]])
assert_type(default, Task[int, float])
assert_type(optional, Task[int | None, str | None])
assert_type(anything, Task[Any, Any])


# --- invoking ------------------------------------------------------------------------------------


async def invoke(session: AsyncSession, blocking: Session) -> None:
    handle = await checkout.invoke(Order(id=1), session=session, dedupe_key="one")
    await checkout.invoke(
        Order(id=1), dedupe_key="one", dedupe_scope="unstarted", dedupe_replace=True
    )
    assert_type(handle, ExecutionHandle[Receipt])
    assert_type(await handle.result(timedelta(seconds=1)), Receipt)

    assert_type(await (await no_payload.invoke()).result(), int)
    assert_type(await (await plain.invoke([{"sku": "a"}])).result(), dict[str, int])
    assert_type(await (await plain_no_payload.invoke(delay=timedelta(1))).result(), str)
    assert_type(await (await default.invoke()).result(), float)
    assert_type(await (await default.invoke(4)).result(), float)
    assert_type(await (await optional.invoke(None)).result(), str | None)
    assert_type(checkout.invoke_sync(Order(id=1), session=blocking), ExecutionHandle[Receipt])
    handles = await checkout.invoke_many(
        [Order(id=1), checkout.invocation(Order(id=2), priority=1)]
    )
    assert_type(handles, list[ExecutionHandle[Receipt]])

    # Each of these must be refused: an ignore that is not needed is an error by itself.
    await checkout.invoke(1)  # type: ignore[arg-type]  # no Order
    await checkout.invoke("1")  # type: ignore[arg-type]  # no Order
    await no_payload.invoke(1)  # type: ignore[arg-type]  # takes none
    await plain.invoke([{"sku": 1}])  # type: ignore[typeddict-item]  # a number
    await checkout.invoke_many([1])  # type: ignore[list-item]  # no Order
    await checkout.invoke(Order(id=1), session=blocking)  # type: ignore[arg-type]  # a sync session
    checkout.invoke_sync(Order(id=1), session=session)  # type: ignore[arg-type]  # an async one


# --- events --------------------------------------------------------------------------------------


async def emit(session: AsyncSession, blocking: Session) -> None:
    ordered = conductor.event("ordered", Order)
    assert_type(await ordered.emit(Order(id=1), session=session), Emitted)
    assert_type(ordered.emit_sync(Order(id=1), session=blocking, dedupe_key="k"), Emitted)
    assert_type(conductor.emit_sync(ordered, Order(id=1), session=blocking), Emitted)
    assert_type(conductor.emit_sync("ordered", session=blocking), Emitted)
    ordered.emit_sync(1, session=blocking)  # type: ignore[arg-type]  # no Order
    ordered.emit_sync(Order(id=1), session=session)  # type: ignore[arg-type]  # an async one
    conductor.emit_sync("ordered")  # type: ignore[call-arg]  # no session
    await conductor.emit("ordered", session=blocking)  # type: ignore[arg-type]  # a sync session


# --- elsewhere declared --------------------------------------------------------------------------


async def refer() -> None:
    both = conductor.task_ref("far", payload=Order, result=Receipt)
    assert_type(both, TaskRef[Order, Receipt])
    assert_type(conductor.task_ref("far", payload=Order), TaskRef[Order, Any])
    assert_type(conductor.task_ref("far", queue="q", result=list[int]), TaskRef[Any, list[int]])
    assert_type(conductor.task_ref("far"), TaskRef[Any, Any])
    assert_type(await (await both.invoke(Order(id=1))).result(), Receipt)
    await both.invoke(1)  # type: ignore[arg-type]  # no Order

    by_id = conductor.handle(UUID(int=0))
    assert_type(by_id, ExecutionHandle[Any])
    assert_type(conductor.get_task("checkout"), Task[Any, Any])


# --- a handler must be one -----------------------------------------------------------------------


def refuse() -> None:
    def too_many(ctx: TaskContext, one: int, two: int) -> None: ...
    def none() -> None: ...
    def other_context(ctx: int) -> None: ...

    conductor.task(too_many)  # type: ignore[arg-type]  # one payload only
    conductor.task(none)  # type: ignore[arg-type]  # no context
    conductor.task()(other_context)  # type: ignore[arg-type]  # another context


def direct_calls_stay_possible(function: Callable[..., Any] = checkout.function) -> None:
    assert_type(checkout.function, Callable[..., Any])
