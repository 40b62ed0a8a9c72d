"""Handlers that wait in every way there is, by a program: what a worker must get through."""

from __future__ import annotations

import asyncio
import threading
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from hypothesis import strategies as st
from sqlalchemy import text

from pgconductor import Conductor, TaskContext
from pgconductor.domain.invocations import Invocation

__all__ = ["Load", "Programs", "loads"]

Program = list[dict[str, Any]]

_MOST_MS: Final = 15
_STATEMENT: Final = text("SELECT 1")

#: What ends soon, or may be suspended where it waits.
_leaf: Final = st.one_of(
    st.fixed_dictionaries({"do": st.just("nap"), "ms": st.integers(0, _MOST_MS)}),
    st.fixed_dictionaries({"do": st.just("event"), "plain": st.booleans()}),
    st.fixed_dictionaries({"do": st.just("step"), "plain": st.booleans()}),
    st.fixed_dictionaries({"do": st.just("session"), "block": st.booleans()}),
)
_child: Final = st.fixed_dictionaries(
    {"do": st.just("child"), "plain": st.booleans(), "ops": st.lists(_leaf, max_size=2)}
)
_inner: Final = st.one_of(_leaf, _child)
_branches: Final = st.lists(st.lists(_inner, min_size=1, max_size=2), min_size=1, max_size=3)
# Without children, which would be cancelled.
_contenders: Final = st.lists(st.lists(_leaf, min_size=1, max_size=3), min_size=1, max_size=3)
_op: Final = st.one_of(
    _leaf,
    _child,
    # Something that others wait for in their slots is held meanwhile.
    st.fixed_dictionaries({"do": st.just("lock"), "ops": st.lists(_inner, max_size=2)}),
    st.fixed_dictionaries({"do": st.just("pool"), "ops": st.lists(_inner, max_size=2)}),
    st.fixed_dictionaries({"do": st.just("gather"), "branches": _branches}),
    st.fixed_dictionaries({"do": st.just("race"), "branches": _contenders}),
    # What cannot be suspended for a while, or for as long as it waits.
    st.fixed_dictionaries({"do": st.just("beside"), "branches": _branches}),
    st.fixed_dictionaries({"do": st.just("inside"), "how": st.sampled_from(["nap", "child"])}),
    st.fixed_dictionaries({"do": st.just("thread"), "how": st.sampled_from(["nap", "child"])}),
    st.fixed_dictionaries({"do": st.just("block"), "how": st.just("nap")}),
)

#: The programs of some executions, each with whether its handler is plain.
_programs: Final = st.lists(
    st.tuples(st.booleans(), st.lists(_op, min_size=1, max_size=3)), min_size=1, max_size=12
)


@dataclass(frozen=True)
class Load:
    """What is to be executed, and by what a worker.

    Attributes:
        work: Programs, each with whether its handler is plain.
        concurrency: Slots of each of two queues.
        pool: Connections of the application's pool.
        plain: How many plain handlers may wait in memory.
        suspend_after: Seconds.
        give_back_after: Seconds.
        suspects: How many of the programs' executions are one crash short of their limit.
        drain: Whether an orchestrator ends whenever nothing is due, and another one begins.
    """

    work: list[tuple[bool, Program]]
    concurrency: int
    pool: int
    plain: int
    suspend_after: float
    give_back_after: float
    suspects: int
    drain: bool


_SECONDS: Final = st.sampled_from([0.001, 0.02, 0.2])
loads: Final = st.builds(
    Load,
    _programs,
    st.integers(1, 4),
    st.integers(1, 2),
    st.integers(1, 3),
    _SECONDS,
    _SECONDS,
    st.sampled_from([0, 0, 1, 3]),
    st.booleans(),
)


class _Session:
    """What the in-memory database takes for a session: one of few connections.

    Args:
        pool: The connections.
    """

    def __init__(self, pool: asyncio.Semaphore) -> None:
        self._pool = pool
        self._held = False

    async def execute(self, statement: object) -> None:
        """Take a connection; the transaction has one until it ends."""
        if not self._held:
            await self._pool.acquire()
            self._held = True

    async def close(self) -> None:
        if self._held:
            self._held = False
            self._pool.release()


class Programs:
    """The tasks that execute programs, and what their handlers share in a process.

    Args:
        conductor: Where they are declared.
        pool: How many connections the application's pool has.
    """

    def __init__(self, conductor: Conductor, pool: int) -> None:
        self._lock = asyncio.Lock()
        self._thread_lock = threading.Lock()
        self._pool = asyncio.Semaphore(pool)
        self._thread_pool = threading.Semaphore(pool)
        self._connections = asyncio.Semaphore(pool)

        @conductor.task(name="async", queue="one")
        async def execute(ctx: TaskContext, program: Program) -> None:
            await self._execute(ctx, program, "")

        @conductor.task(name="plain", queue="one")
        def execute_plain(ctx: TaskContext, program: Program) -> None:
            self._execute_here(ctx, program)

        @conductor.task(name="emit", queue="two")
        async def emit(ctx: TaskContext, name: str) -> None:
            await ctx.emit(name)

        @conductor.task(name="emit-plain", queue="two")
        def emit_plain(ctx: TaskContext, name: str) -> None:
            ctx.here(ctx.emit(name))

        self._tasks = {False: execute, True: execute_plain}
        self._emitters = {False: emit, True: emit_plain}

    def invocation(self, plain: bool, program: Program) -> Invocation:
        """To invoke an execution of a program."""
        return self._tasks[plain].invocation(program)

    def session(self) -> Any:
        """What stands for a session of the application's."""
        return _Session(self._connections)

    async def _execute(self, ctx: TaskContext, program: Program, at: str) -> None:
        for number, one in enumerate(program):
            key = f"{at}/{number}"
            match one["do"]:
                case "lock" | "pool":
                    held: AbstractAsyncContextManager[Any] = (
                        self._lock if one["do"] == "lock" else self._pool
                    )
                    async with held:
                        await self._execute(ctx, one["ops"], key)
                case _:
                    await self._other(ctx, one, key)

    def _execute_here(self, ctx: TaskContext, program: Program) -> None:
        for number, one in enumerate(program):
            key = f"/{number}"
            match one["do"]:
                case "lock" | "pool":
                    held = self._thread_lock if one["do"] == "lock" else self._thread_pool
                    with held:
                        for inner, op in enumerate(one["ops"]):
                            ctx.here(self._other(ctx, op, f"{key}/{inner}"))
                case "step" if one["plain"]:
                    ctx.step_here(key, int)
                case _:
                    ctx.here(self._other(ctx, one, key))

    async def _other(self, ctx: TaskContext, one: dict[str, Any], key: str) -> None:
        match one["do"]:
            case "nap":
                await ctx.sleep(key, timedelta(milliseconds=one["ms"]))
            case "event":
                name = f"e{ctx.execution_id.hex}{key}"
                await ctx.spawn(f"{key}!", self._emitters[one["plain"]], name)
                await ctx.wait_for(key, name)
            case "step":
                await ctx.step(key, int if one["plain"] else _nothing)
            case "session" if one["block"]:
                async with ctx.transaction(key) as session:
                    await session.execute(_STATEMENT)
            case "session":
                await ctx.transact(key, _use)
            case "child":
                await ctx.invoke(key, self._tasks[one["plain"]], one["ops"])
            case "gather" | "race" as how:
                join = self._gather if how == "gather" else self._race
                await join(ctx, one["branches"], key)
            case "beside":
                await asyncio.gather(self._gather(ctx, one["branches"], key), asyncio.sleep(0.02))
            case "inside":
                await ctx.step(key, self._wait, ctx, one["how"], key)
            case "thread":
                await ctx.step(key, self._wait_here, ctx, one["how"], key)
            case "block":
                async with ctx.transaction(key) as session:
                    await session.execute(_STATEMENT)
                    await self._wait(ctx, one["how"], key)
            case other:
                raise AssertionError(other)

    async def _gather(self, ctx: TaskContext, branches: list[Program], key: str) -> None:
        await asyncio.gather(
            *(self._execute(ctx, branch, f"{key}.{n}") for n, branch in enumerate(branches))
        )

    async def _race(self, ctx: TaskContext, branches: list[Program], key: str) -> None:
        """Whoever is first, each attempt goes on with its number."""
        won = await ctx.first(
            key, *(self._execute(ctx, branch, f"{key}.{n}") for n, branch in enumerate(branches))
        )
        await ctx.step(f"{key}: {won.index}", int)

    async def _wait(self, ctx: TaskContext, how: str, key: str) -> None:
        """Wait inside of a step, which keeps its handler in memory."""
        if how == "nap":
            await ctx.sleep(f"{key}+", timedelta(milliseconds=3))
        else:
            # Not a plain one: those that cannot be suspended may have all the threads.
            await ctx.invoke(f"{key}+", self._tasks[False], [{"do": "step", "plain": True}])

    def _wait_here(self, ctx: TaskContext, how: str, key: str) -> None:
        ctx.here(self._wait(ctx, how, key))


async def _nothing() -> None: ...


async def _use(session: Any) -> None:
    await session.execute(_STATEMENT)
    await asyncio.sleep(0.001)
