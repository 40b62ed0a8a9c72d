"""What is no event, no task and no id is refused at once, by what is due instead."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.orm import Session

from pgconductor import Conductor, TaskContext
from pgconductor.exceptions import ExecutionFailed, InvalidInput, InvalidName
from pgconductor.testing import Rehearsal

NO_EVENT = r"event: .* is none: give what conductor\.event\(\) made, or the name of one"
NO_TASK = r"task: .* is none: give what conductor\.task\(\) made"


@pytest.fixture
def conductor() -> Conductor:
    return Conductor()


CALLS: dict[str, tuple[Callable[[Any, Any], Awaitable[Any]], str]] = {
    "wait_for": (lambda ctx, wrong: ctx.wait_for("k", wrong), NO_EVENT),
    "emit": (lambda ctx, wrong: ctx.emit(wrong), NO_EVENT),
    "emit with a key": (lambda ctx, wrong: ctx.emit(wrong, 1, key="k"), NO_EVENT),
    "invoke": (lambda ctx, wrong: ctx.invoke("k", wrong), NO_TASK),
    "spawn": (lambda ctx, wrong: ctx.spawn("k", wrong), NO_TASK),
}


@pytest.mark.parametrize("wrong", [5, None, b"paid", Conductor, UUID(int=1)], ids=repr)
@pytest.mark.parametrize("call", CALLS)
async def test_in_a_handler(conductor: Conductor, call: str, wrong: object) -> None:
    made, message = CALLS[call]

    @conductor.task(max_attempts=1)
    async def handler(ctx: TaskContext) -> None:
        with pytest.raises(InvalidInput, match=message):
            await made(ctx, wrong)

    async with Rehearsal(conductor) as rehearsal:
        handle = await handler.invoke()
        await handle.result()
        assert await rehearsal.steps(handle) == {}


async def test_a_task_is_no_event_and_an_event_no_task(conductor: Conductor) -> None:
    paid: Any = conductor.event("paid")

    @conductor.task(max_attempts=1)
    async def handler(ctx: TaskContext) -> None:
        itself: Any = handler
        with pytest.raises(InvalidInput, match=NO_EVENT):
            await ctx.wait_for("k", itself)
        await ctx.invoke("k", paid)

    async with Rehearsal(conductor):
        with pytest.raises(ExecutionFailed, match=NO_TASK):
            await (await handler.invoke()).result()


@pytest.mark.parametrize("wrong", [5, None, b"paid", Conductor], ids=repr)
async def test_emitted_by_a_service(conductor: Conductor, wrong: Any) -> None:
    with pytest.raises(InvalidInput, match=NO_EVENT):
        await conductor.emit(wrong)
    with pytest.raises(InvalidInput, match=NO_EVENT):
        conductor.emit_sync(wrong, session=Session())
    with pytest.raises(InvalidName, match="cannot name an event"):
        await conductor.emit("no name")


@pytest.mark.parametrize("wrong", ["abc", str(UUID(int=1)), UUID(int=1).bytes, 1, None], ids=repr)
def test_a_handle_of_what_is_no_uuid(conductor: Conductor, wrong: Any) -> None:
    due = f"execution_id: a UUID is due, not {type(wrong).__name__}"
    with pytest.raises(InvalidInput, match=due):
        conductor.handle(wrong)
