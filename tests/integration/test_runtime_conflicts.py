"""Conflicts of a handler's transactions with others, and which of them count as an attempt."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from pgconductor import Conductor, ExecutionState, TaskContext
from pgconductor.exceptions import ExecutionFailed
from pgconductor.services.conflicts import Conflicts
from tests.integration.runtime_world import AT_ONCE, SOON, World
from tests.support.servers import connect
from tests.support.waiting import eventually

ADD = text("INSERT INTO public.bookings (n) VALUES (1)")
EXECUTIONS = "LOCK TABLE pgconductor.executions IN ACCESS EXCLUSIVE MODE"
STEPS = "LOCK TABLE pgconductor.steps IN ACCESS EXCLUSIVE MODE"


@pytest.fixture
def world(world: World) -> World:
    world.rows("CREATE TABLE public.bookings (n integer)")
    return world


def booked(world: World) -> int:
    return len(world.rows("SELECT n FROM public.bookings"))


class Altering:
    """A migration that holds one table and, once it is told to, waits for another.

    It is not the one that gives way.
    """

    def __init__(self, url: str) -> None:
        self._connection = connect(url)
        self._connection.execute(b"SET deadlock_timeout = '1min'")
        self._thread = threading.Thread(target=self._go_on)

    def begin(self) -> None:
        self._connection.execute(f"BEGIN; {EXECUTIONS}".encode())
        self._thread.start()

    def _go_on(self) -> None:
        self._connection.execute(f"{STEPS}; COMMIT".encode())

    def end(self) -> None:
        if self._thread.is_alive():
            self._thread.join(60)
        self._connection.close()


@contextmanager
def altering(url: str) -> Iterator[Altering]:
    other = Altering(url)
    try:
        yield other
    finally:
        other.end()


@pytest.mark.parametrize("caught", [False, True], ids=["raised", "caught"])
@pytest.mark.parametrize("where", ["our statement", "the handler's"])
@pytest.mark.parametrize("how", ["block", "function"])
async def test_a_deadlock_with_a_migration_costs_no_attempt(
    world: World, conductor: Conductor, how: str, where: str, *, caught: bool
) -> None:
    """The only attempt there is: with it lost, the execution would have failed for good."""
    with altering(world.url) as other:
        calls: list[int] = []

        async def work(session: AsyncSession) -> None:
            calls.append(1)
            await session.execute(ADD)
            await session.execute(text("SELECT FROM pgconductor.steps LIMIT 1"))
            if len(calls) == 1:
                await asyncio.to_thread(other.begin)
                if where == "the handler's":
                    with suppress(DBAPIError if caught else ZeroDivisionError):
                        await session.execute(text("SELECT FROM pgconductor.executions LIMIT 1"))

        @conductor.task(max_attempts=1)
        async def task(ctx: TaskContext) -> int:
            if how == "function":
                await ctx.transact("book", work)
            else:
                async with ctx.transaction("book") as session:
                    await work(session)
            return ctx.attempt

        async with world.serving(conductor):
            handle = await task.invoke()
            assert await handle.result(SOON) == 1
    assert len(calls) == 2
    assert booked(world) == 1
    row = world.execution(handle.id)
    assert (row["attempts"], row["last_error"]) == (1, None)


async def test_a_lock_that_our_statement_does_not_get_costs_no_attempt(
    world: World, conductor: Conductor, caplog: pytest.LogCaptureFixture
) -> None:
    """A role may have a lock_timeout, and somebody the execution's row."""
    holder = connect(world.url)
    calls: list[int] = []

    @conductor.task(max_attempts=1)
    async def task(ctx: TaskContext) -> int:
        calls.append(1)
        async with ctx.transaction("book") as session:
            await session.execute(ADD)
            await session.execute(text("SET LOCAL lock_timeout = '10ms'"))
            if len(calls) == 1:
                holder.execute(b"BEGIN; SELECT FROM pgconductor.executions FOR UPDATE")
        return ctx.attempt

    async with world.serving(conductor):
        handle = await task.invoke()
        await eventually(lambda: "given back" in caplog.text)
        # The attempt cannot be given back before the row is free.
        holder.execute(b"ROLLBACK")
        assert await handle.result(SOON) == 1
    holder.close()
    assert booked(world) == 1


@pytest.mark.parametrize("state", ["40001", "40P01"])
@pytest.mark.parametrize("how", ["block", "function"])
async def test_a_conflict_that_was_caught_is_a_conflict_still(
    world: World, conductor: Conductor, how: str, state: str
) -> None:
    """The transaction is aborted: later statements, and the commit, say no more than that."""
    calls: list[int] = []

    async def careless(session: AsyncSession) -> None:
        calls.append(1)
        await session.execute(ADD)
        if len(calls) == 1:
            with suppress(DBAPIError):
                await session.execute(text(f"DO $$ BEGIN RAISE SQLSTATE '{state}'; END $$"))

    @conductor.task(max_attempts=2, retry=AT_ONCE)
    async def task(ctx: TaskContext) -> int:
        if how == "function":
            await ctx.transact("book", careless)
        else:
            async with ctx.transaction("book") as session:
                await careless(session)
        return ctx.attempt

    handle = await task.invoke()
    await conductor.orchestrator().drain()
    # A block is executed again by another attempt, which counts: it is the handler's own doing.
    assert await handle.result(SOON) == (2 if how == "block" else 1)
    assert booked(world) == 1


async def test_a_statement_after_a_conflict_that_was_caught(
    world: World, conductor: Conductor
) -> None:
    calls: list[int] = []

    async def careless(session: AsyncSession) -> None:
        calls.append(1)
        if len(calls) == 1:
            with suppress(DBAPIError):
                await session.execute(text("DO $$ BEGIN RAISE SQLSTATE '40P01'; END $$"))
        await session.execute(ADD)

    @conductor.task(max_attempts=1)
    async def task(ctx: TaskContext) -> None:
        await ctx.transact("book", careless)

    handle = await task.invoke()
    await conductor.orchestrator().drain()
    await handle.result(SOON)
    assert (len(calls), booked(world)) == (2, 1)


async def test_another_error_after_a_conflict_is_what_it_is(
    world: World, conductor: Conductor
) -> None:
    """A conflict that a savepoint has undone is not why the transaction is aborted later."""

    @conductor.task(max_attempts=1)
    async def task(ctx: TaskContext) -> None:
        async with ctx.transaction("book") as session:
            with suppress(DBAPIError):
                async with session.begin_nested():
                    await session.execute(text("DO $$ BEGIN RAISE SQLSTATE '40P01'; END $$"))
            with suppress(DBAPIError):
                await session.execute(text("SELECT 1 / 0"))

    handle = await task.invoke()
    await conductor.orchestrator().drain()
    with pytest.raises(ExecutionFailed, match="TransactionMisused"):
        await handle.result(SOON)
    assert await handle.state() is ExecutionState.FAILED


class Deadlock(DBAPIError):
    def __init__(self, detail: str) -> None:
        origin: Any = psycopg.errors.DeadlockDetected()
        super().__init__(None, None, origin)
        self.orig = origin
        origin.detail = detail


WAITS = "Process {} waits for {}; blocked by process {}."
ROWS = "ShareLock on transaction 739"
TABLE = "AccessExclusiveLock on relation 16420 of database 5"
TUPLE = "AccessExclusiveLock on tuple (0,1) of relation 16400 of database 5"
GERMAN = "Prozess 1 wartet auf ShareRowExclusiveLock-Sperre auf Relation 16400 der Datenbank 5; 2."


@pytest.mark.parametrize(
    ("detail", "ddl"),
    [
        (WAITS.format(1, ROWS, 2) + "\n" + WAITS.format(2, TABLE, 1), True),
        (WAITS.format(1, TABLE, 2) + "\n" + WAITS.format(2, TUPLE, 1), True),
        (GERMAN, True),
        (WAITS.format(1, ROWS, 2) + "\n" + WAITS.format(2, ROWS, 1), False),
        (WAITS.format(1, TUPLE, 2) + "\n" + WAITS.format(2, ROWS, 1), False),
    ],
    ids=["a table", "both", "another language", "rows", "a tuple"],
)
def test_whose_deadlock_it_is_stands_in_its_detail(detail: str, ddl: bool) -> None:
    assert Conflicts.met(Deadlock(detail), by_us=False) is ddl
    assert Conflicts.met(Deadlock(detail), by_us=True) is True


async def test_a_conflict_at_the_commit_does_not_hold_back_the_other_branches(world: World) -> None:
    """The function may wait for one of them when it is called again."""
    world.rows("CREATE SEQUENCE public.commits")
    world.rows(
        "CREATE FUNCTION public.once() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF nextval('public.commits') = 1 THEN RAISE 'conflict' USING ERRCODE = '40001'; END IF;"
        " RETURN NULL; END $$"
    )
    world.rows(
        "CREATE CONSTRAINT TRIGGER once AFTER INSERT ON public.bookings DEFERRABLE"
        " INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.once()"
    )
    conductor = world.conductor()

    @conductor.task(max_attempts=1)
    async def handler(ctx: TaskContext) -> int:
        calls = 0
        again, gone_on = asyncio.Event(), asyncio.Event()

        async def book(session: AsyncSession) -> int:
            nonlocal calls
            calls += 1
            await session.execute(ADD)
            if calls == 2:
                again.set()
                await gone_on.wait()
            return calls

        async def beside() -> None:
            await again.wait()
            await ctx.step("beside", str)
            gone_on.set()

        found, _ = await asyncio.gather(ctx.transact("book", book), beside())
        return found

    async with world.serving(conductor):
        handle = await handler.invoke()
        assert await handle.result(SOON) == 2
    assert booked(world) == 1
