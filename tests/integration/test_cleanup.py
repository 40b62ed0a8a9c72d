"""What a handler may still do that is told to end: nothing is recorded, and it is told why."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from pgconductor import Conductor, Task, TaskContext
from pgconductor.exceptions import ExecutionFailed
from pgconductor.handles import ExecutionHandle
from pgconductor.runtime import reasons
from tests.integration.runtime_world import SOON, World

DAY = timedelta(days=1)
Uses = dict[str, Callable[[], Any]]
Told = dict[str, tuple[str, str]]

#: How a handler is ended: what it is told, the state of its execution then, and its attempts.
ENDS: dict[str, tuple[str, str, int]] = {
    "cancelled": (reasons.CANCELLED, "cancelled", 0),
    "timed out": (reasons.TIMED_OUT, "failed", 1),
    "stopping": (reasons.STOPPING, "available", 0),
    "hurried": (reasons.GIVEN_BACK, "available", 0),
    "lost": (reasons.LOST, "running", 1),
    "suspended": (reasons.SUSPENDED, "waiting", 0),
}


def one() -> int:
    return 1


async def write(session: AsyncSession) -> None:
    await session.execute(text("INSERT INTO written VALUES (1)"))


def uses_of(ctx: TaskContext, conductor: Conductor, child: Task[None, None]) -> Uses:
    """Everything that would be on record."""

    async def block() -> None:
        async with ctx.transaction("block") as session:
            await write(session)

    async def complete() -> None:
        async with conductor.sessionmaker.begin() as session:
            await ctx.complete_in(session)

    return {
        "step": lambda: ctx.step("late", one),
        "patient step": lambda: ctx.options(max_attempts=3).step("patient", one),
        "transact": lambda: ctx.transact("written", write),
        "transaction": block,
        "sleep": lambda: ctx.sleep("nap", timedelta(0)),
        "wait": lambda: ctx.wait_for("wait", "paid", timeout=timedelta(0)),
        "child": lambda: ctx.invoke("child", child),
        "spawn": lambda: ctx.spawn("spawned", child),
        "emit": lambda: ctx.emit("paid"),
        "patch": lambda: ctx.patched("new code"),
        "complete": complete,
        "checkpoint": ctx.checkpoint,
    }


class Ended:
    """A handler that is told to end, and tries everything while it cleans up."""

    def __init__(self, world: World, kind: str, end: str, *, lets_go: bool = False) -> None:
        grace = 0.2 if end == "hurried" else 20
        self.world = world
        self.end = end
        self.conductor = world.conductor(shutdown_grace=grace, suspend_after=0.1)
        self.told: Told = {}
        self.cancelled: list[bool] = []
        self.begun = threading.Event()
        self.cleaned = threading.Event()
        self.over = threading.Event()
        self._lets_go = lets_go
        # No worker has it: whatever was invoked in vain would stay.
        self.child: Task[None, None] = self.conductor.task("child", queue="nobody")(_nothing)
        # Long enough for the step before it, on a machine that is busy.
        timeout = timedelta(seconds=2) if end == "timed out" else None
        handler: Callable[..., Any] = self.asynchronous if kind == "async" else self.plain
        self.task: Task[None, None] = self.conductor.task("task", max_attempts=1, timeout=timeout)(
            handler
        )

    async def asynchronous(self, ctx: TaskContext) -> None:
        await ctx.step("before", one)
        try:
            self.begun.set()
            if self.end == "suspended":
                await ctx.sleep("long", DAY)
            while self.end == "stopping":
                await ctx.checkpoint()
                await asyncio.sleep(0.01)
            await asyncio.Event().wait()
        except BaseException:
            self.cancelled.append(ctx.cancelled)
            if not self._lets_go:
                await self._note_all(ctx)
            else:
                await ctx.step("late", one)
            raise
        finally:
            self.cleaned.set()

    async def _note_all(self, ctx: TaskContext) -> None:
        uses = list(uses_of(ctx, self.conductor, self.child).items())
        while uses:
            name, use = uses[0]
            try:
                answer = use()
                if inspect.isawaitable(answer):
                    await answer
                self.told[name] = ("recorded", "")
            except asyncio.CancelledError:
                continue  # An evicted process ends its handlers more than once.
            except BaseException as error:  # noqa: BLE001 - it is what ends handlers
                self.told[name] = (type(error).__name__, str(error))
            del uses[0]

    def plain(self, ctx: TaskContext) -> None:
        ctx.step_here("before", one)
        try:
            self.begun.set()
            if self.end == "suspended":
                ctx.here(ctx.sleep("long", DAY))
            while not (ctx.cancelled or self.over.wait(0.01)):
                if self.end == "stopping":
                    ctx.check()
            ctx.check()
        except BaseException:
            self.cancelled.append(ctx.cancelled)
            uses = uses_of(ctx, self.conductor, self.child)
            if self._lets_go:
                ctx.step_here("late", one)
            uses["step here"] = lambda: ctx.step_here("here", one)
            uses["check"] = ctx.check
            for name, use in uses.items():
                try:
                    answer = use()
                    if inspect.iscoroutine(answer):
                        ctx.here(answer)
                    self.told[name] = ("recorded", "")
                except BaseException as error:  # noqa: BLE001 - it is what ends handlers
                    self.told[name] = (type(error).__name__, str(error))
            raise
        finally:
            self.cleaned.set()

    @asynccontextmanager
    async def ended(self) -> AsyncIterator[ExecutionHandle[None]]:
        """Inside, the handler has cleaned up."""
        self.world.rows("CREATE TABLE written (id int)")
        orchestrator = self.conductor.orchestrator(queues=["default"])
        await orchestrator.start()
        stop: asyncio.Task[Any] | None = None
        try:
            handle = await self.task.invoke()
            await asyncio.to_thread(self.begun.wait, 20)
            match self.end:
                case "cancelled":
                    await handle.cancel("not wanted")
                case "lost":
                    self.world.rows(
                        "UPDATE pgconductor.executions SET claim_number = 99,"
                        " locked_by = gen_random_uuid() WHERE state = 'running'"
                    )
                    self.world.rows("DELETE FROM pgconductor.orchestrators")
                case "stopping" | "hurried":
                    stop = asyncio.create_task(orchestrator.stop())
                case _:
                    pass
            assert await asyncio.to_thread(self.cleaned.wait, 20)
            yield handle
        finally:
            self.over.set()
            await (stop or orchestrator.stop())


async def _nothing(ctx: TaskContext) -> None: ...


@pytest.mark.parametrize("kind", ["async", "plain"])
@pytest.mark.orphans_expected
@pytest.mark.parametrize("end", ENDS)
async def test_nothing_is_recorded_and_it_is_told_why(world: World, kind: str, end: str) -> None:
    why, state, attempts = ENDS[end]
    told = Ended(world, kind, end)
    async with told.ended() as handle:
        pass
    row = world.execution(handle.id)
    assert (row["state"], row["attempts"]) == (state, attempts)
    if end == "timed out":
        assert row["last_error_type"] == "TimeoutError"
    expected = "Suspension" if end == "suspended" else "Interrupted"
    assert told.told == dict.fromkeys(told.told, (expected, why))
    assert len(told.told) >= 12
    assert told.cancelled == [end not in ("stopping", "suspended")]
    keys = {row["key"] for row in world.rows("SELECT key FROM pgconductor.steps")}
    assert keys == {"before"} | ({"long"} if end == "suspended" else set())
    assert world.count() == 1
    for table in ("written", "pgconductor.events"):
        assert world.rows(f"SELECT 1 FROM {table}") == []


@pytest.mark.parametrize("kind", ["async", "plain"])
@pytest.mark.parametrize("end", [end for end in ENDS if end != "lost"])
async def test_a_refusal_that_is_let_through_ends_it_alike(
    world: World, kind: str, end: str
) -> None:
    """Neither given back for ever after its time limit, nor failed where it is given back."""
    _, state, attempts = ENDS[end]
    told = Ended(world, kind, end, lets_go=True)
    async with told.ended() as handle:
        if end == "timed out":
            with pytest.raises(ExecutionFailed, match="took longer than"):
                await handle.result(SOON)
    row = world.execution(handle.id)
    assert (row["state"], row["attempts"]) == (state, attempts)


@pytest.mark.parametrize("end", ["cancelled", "timed out", "hurried"])
async def test_what_a_cleanup_can_do(world: World, end: str) -> None:
    """Its own writes, events and executions, which need no record of the attempt."""
    conductor = world.conductor(shutdown_grace=0.2)
    world.rows("CREATE TABLE written (id int)")
    begun = asyncio.Event()
    undo = conductor.task("undo", queue="nobody")(_nothing)
    timeout = timedelta(milliseconds=300) if end == "timed out" else None

    @conductor.task(max_attempts=1, timeout=timeout)
    async def task(ctx: TaskContext) -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            async with conductor.sessionmaker.begin() as session:
                await write(session)
                await undo.invoke(session=session, dedupe_key=f"{ctx.execution_id}:undo")
                await conductor.emit("undone", session=session, dedupe_key=str(ctx.execution_id))

    orchestrator = conductor.orchestrator(queues=["default"])
    await orchestrator.start()
    handle = await task.invoke()
    await begun.wait()
    if end == "cancelled":
        await handle.cancel()
    if end == "timed out":
        with pytest.raises(ExecutionFailed):
            await handle.result(SOON)
    await orchestrator.stop()
    assert world.count() == 2
    for table in ("written", "pgconductor.events"):
        assert len(world.rows(f"SELECT 1 FROM {table}")) == 1
    assert world.execution(handle.id)["state"] == ENDS[end][1]
