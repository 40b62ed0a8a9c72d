"""Rehearsals in a real database, and in memory beside one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, Literal

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from pgconductor import Conductor, TaskContext
from pgconductor.exceptions import ChildFailed, ConfigurationError, ExecutionFailed
from pgconductor.testing import Rehearsal, assert_survives_crashes

DAY = timedelta(days=1)


@pytest.mark.parametrize("where", ["memory", "database"])
async def test_what_operators_do_comes_to_the_same(engine: AsyncEngine, where: str) -> None:
    """Although in memory no time passes between two steps."""
    conductor = Conductor()
    called: list[str] = []
    broken = True

    def do(letter: str) -> str:
        called.append(letter)
        return letter

    @conductor.task(max_attempts=1)
    async def in_turn(ctx: TaskContext) -> None:
        for letter in "abc":
            await ctx.step(letter, do, letter)
        if broken:
            raise ValueError("broken")

    @conductor.task(max_attempts=1)
    async def child(ctx: TaskContext) -> None:
        if broken:
            raise ValueError("not yet")

    @conductor.task(max_attempts=1)
    async def saga(ctx: TaskContext) -> str:
        try:
            await ctx.invoke("child", child)
        except ChildFailed:
            await ctx.step("undo", do, "undo")
            if broken:
                raise
            return "undone"
        return "done"

    async with Rehearsal(conductor, engine if where == "database" else None) as rehearsal:
        handles = [await one.invoke() for one in (in_turn, saga, saga)]
        await rehearsal.drain()
        broken = False
        called.clear()
        executions = conductor.executions
        await executions.fork(handles[0].id, from_step="c")
        assert await executions.retry(handles[0].id, from_step="b")
        await rehearsal.drain()
        assert sorted(called) == ["b", "c", "c"]
        assert await executions.retry(handles[1].id)
        assert await executions.retry(handles[2].id, from_step="undo")
        await rehearsal.drain()
        assert [await one.result() for one in handles[1:]] == ["undone", "done"]


@pytest.mark.parametrize("where", ["memory", "database"])
async def test_a_retry_of_branches_of_which_one_has_failed(engine: AsyncEngine, where: str) -> None:
    """The other one was at work, and has dealt with nothing, though it was recorded later."""
    conductor = Conductor()
    begun, failing = asyncio.Event(), asyncio.Event()
    broken = True

    async def bad() -> str:
        # Long enough for its end to be behind the other's beginning by the database's clock, too.
        await asyncio.sleep(0.3)
        failing.set()
        if broken:
            raise ValueError("not yet")
        return "mended"

    async def slow() -> str:
        begun.set()
        await failing.wait()
        await asyncio.sleep(0.02)
        return "slow"

    @conductor.task(max_attempts=1)
    async def beside(ctx: TaskContext) -> list[str]:
        async def after() -> str:
            await begun.wait()
            return await ctx.options(max_attempts=1).step("bad", bad)

        found = await asyncio.gather(after(), ctx.step("slow", slow), return_exceptions=True)
        for one in found:
            if isinstance(one, BaseException):
                raise one
        return [str(one) for one in found]

    async with Rehearsal(conductor, engine if where == "database" else None) as rehearsal:
        handle = await beside.invoke()
        await rehearsal.drain()
        broken = False
        assert await conductor.executions.retry(handle.id)
        await rehearsal.drain()
        assert await handle.result() == ["mended", "slow"]


@pytest.fixture
async def books(engine: AsyncEngine) -> AsyncEngine:
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE bookings (what text NOT NULL)"))
    return engine


async def book(session: AsyncSession, what: str) -> str:
    await session.execute(text("INSERT INTO bookings VALUES (:what)"), {"what": what})
    return what


async def booked(engine: AsyncEngine) -> list[str]:
    """What has been booked, and is forgotten."""
    async with engine.begin() as connection:
        return sorted((await connection.scalars(text("DELETE FROM bookings RETURNING what"))).all())


def declared() -> tuple[Conductor, Any]:
    """A conductor without a database, and a task with everything."""
    conductor = Conductor()

    @conductor.task(max_attempts=1)
    async def child(ctx: TaskContext, number: int) -> int:
        await ctx.sleep("a day", DAY)
        return number + 1

    @conductor.task(max_attempts=1)
    async def checkout(ctx: TaskContext) -> str:
        await ctx.transact("book", book, "transact")
        block = ctx.transaction("block", str)
        async with block as session:
            block.result = await book(session, "block")
        number = await ctx.invoke("child", child, 1)
        got = await ctx.wait_for("payment", f"paid:{ctx.execution_id}", timeout=DAY)
        async with ctx.transaction("end") as session:
            await book(session, "end")
            await ctx.complete_in(session, f"{block.result} {number} {got}")
        return "never"

    async def scenario(rehearsal: Rehearsal) -> Any:
        handle = await checkout.invoke()
        drained = await rehearsal.drain(at_most=1.5 * DAY)
        # Of its own name: what an earlier pass has emitted lies ahead of this one's clock.
        assert [one.what for one in drained.waiting] == [f"paid:{handle.id}"]
        await conductor.emit(f"paid:{handle.id}", 7)
        return await handle.result()

    return conductor, scenario


@pytest.mark.parametrize("real", [True, False], ids=["postgres", "memory"])
async def test_transactional_steps_survive_crashes(books: AsyncEngine, real: bool) -> None:
    conductor, scenario = declared()
    sessions = async_sessionmaker(books, expire_on_commit=False)

    def make() -> Rehearsal:
        return Rehearsal(conductor, sessions) if real else Rehearsal(conductor, sessions=sessions)

    async def with_books(rehearsal: Rehearsal) -> Any:
        return await scenario(rehearsal), await booked(books)

    async with make() as rehearsal:
        assert await with_books(rehearsal) == ("block 2 7", ["block", "end", "transact"])
    points = await assert_survives_crashes(make, with_books)
    assert {one.boundary.step for one in points} == {
        "book",
        "block",
        "child",
        "a day",
        "payment",
        None,
    }


async def test_what_is_invoked_in_a_real_session(books: AsyncEngine, database_url: str) -> None:
    conductor = Conductor()

    @conductor.task
    async def send(ctx: TaskContext, what: str) -> str:
        return what

    async with Rehearsal(conductor) as rehearsal:
        async with AsyncSession(books) as session:
            await book(session, "first")
            await send.invoke("first", session=session)
            await conductor.emit("booked", session=session)
            async with session.begin_nested():
                await send.invoke("second", session=session)
            assert await rehearsal.invoked(send) == []
            await session.commit()
            await send.invoke("third", session=session)
        assert await rehearsal.invoked(send) == ["first", "second"]
    async with Rehearsal(conductor, database_url) as rehearsal:
        async with conductor.sessionmaker.begin() as session:
            handle = await send.invoke("real", session=session, delay=DAY)
        assert await handle.result() == "real"
        assert await rehearsal.invoked(send) == ["real"]
    async with Rehearsal(conductor, books) as rehearsal:
        assert len(await rehearsal.executions(send)) == 1
        with pytest.raises(Exception, match="in a real database"):
            _ = rehearsal.database


async def test_a_session_that_is_in_no_transaction(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        with pytest.raises(ConfigurationError, match="pgconductor_session"):
            Rehearsal(Conductor(), session)


# --- in a transaction of the test's --------------------------------------------------------------


@pytest.fixture
async def inside(books: AsyncEngine) -> AsyncIterator[AsyncSession]:
    """As the fixture pgconductor_session."""
    async with books.connect() as connection:
        transaction = await connection.begin()
        async with AsyncSession(
            connection, join_transaction_mode="create_savepoint", expire_on_commit=False
        ) as session:
            yield session
        await transaction.rollback()


def branching() -> tuple[Conductor, Any]:
    """A conductor, and a task whose branches all write at once."""
    conductor = Conductor()

    @conductor.task
    async def child(ctx: TaskContext, number: int) -> int:
        return await ctx.step("double", lambda: 2 * number)

    @conductor.task
    async def parent(ctx: TaskContext, several: int) -> list[Any]:
        async def block(number: int) -> str:
            transaction = ctx.transaction(f"block {number}", str)
            async with transaction as session:
                transaction.result = await book(session, f"block {number}")
            return transaction.result

        return await asyncio.gather(
            *(ctx.invoke(f"child {one}", child, one) for one in range(several)),
            *(ctx.step(f"step {one}", str, one) for one in range(several)),
            *(ctx.transact(f"book {one}", book, f"book {one}") for one in range(several)),
            *(block(one) for one in range(several)),
        )

    return conductor, parent


BOOKED = sorted(f"{way} {one}" for way in ("book", "block") for one in range(2))


@pytest.mark.parametrize("crash", [None, "child 1", "step 0", "book 0", "book 1", "block 1"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_branches_in_a_session_take_turns(
    inside: AsyncSession, crash: str | None, when: Literal["before", "after"]
) -> None:
    conductor, parent = branching()
    async with Rehearsal(conductor, inside, patience=timedelta(seconds=10)) as rehearsal:
        if crash is not None:
            rehearsal.crash_at(crash, when=when)
        handle = await parent.invoke(2, session=inside)
        booked = [f"book {one}" for one in range(2)] + [f"block {one}" for one in range(2)]
        assert await handle.result() == [0, 2, "0", "1", *booked]
        found = await inside.scalars(text("SELECT what FROM bookings"))
        assert sorted(found) == BOOKED


async def test_what_begins_in_a_transaction_is_in_its_turn(inside: AsyncSession) -> None:
    conductor = Conductor()

    @conductor.task
    async def note(ctx: TaskContext) -> None: ...

    @conductor.task
    async def parent(ctx: TaskContext) -> str:
        async def both(session: AsyncSession) -> str:
            await book(session, "a")
            await asyncio.create_task(ctx.step("inner", str, "b"))
            await note.invoke()
            return "done"

        return await ctx.transact("both", both)

    async with Rehearsal(conductor, inside, patience=timedelta(seconds=5)) as rehearsal:
        handle = await parent.invoke()
        assert await handle.result() == "done"
        await rehearsal.drain()
        assert await rehearsal.invoked(note) == [None]


async def test_a_branch_that_is_left_takes_the_connection_nowhere(inside: AsyncSession) -> None:
    """Whoever is cancelled amid a statement takes it along, and with it the test's transaction."""
    conductor = Conductor()

    @conductor.task(max_attempts=1)
    async def parent(ctx: TaskContext) -> None:
        async def slow(session: AsyncSession) -> None:
            begun.set()
            await session.execute(text("SELECT pg_sleep(0.3)"))

        async def fail() -> None:
            await begun.wait()
            raise OSError("no answer")

        begun = asyncio.Event()
        await asyncio.gather(ctx.transact("slow", slow), fail())

    async with Rehearsal(conductor, inside, patience=timedelta(seconds=5)) as rehearsal:
        handle = await parent.invoke()
        with pytest.raises(ExecutionFailed, match="no answer"):
            await handle.result()
        assert await inside.scalar(text("SELECT 1")) == 1
        assert await rehearsal.steps(handle) == {"slow": None}


@pytest.mark.parametrize("where", ["database", "session"])
async def test_a_handler_that_stays_in_memory(
    database_url: str, inside: AsyncSession, where: str
) -> None:
    """It does nothing meanwhile: the test may be amid a statement on the same connection."""
    conductor = Conductor()

    @conductor.task
    async def child(ctx: TaskContext, number: int) -> int:
        return number

    @conductor.task
    async def parent(ctx: TaskContext) -> list[int]:
        few = asyncio.Semaphore(2)

        async def branch(number: int) -> int:
            async with few:
                await ctx.wait_for(f"event {number}", "go", timeout=timedelta(days=1))
                return await ctx.invoke(f"child {number}", child, number)

        return await asyncio.gather(*map(branch, range(3)))

    async with Rehearsal(conductor, database_url if where == "database" else inside) as rehearsal:
        handle = await parent.invoke()
        drained = await rehearsal.drain(at_most=timedelta(0))
        assert [one.key for one in drained.waiting] == ["event 0", "event 1"]
        await inside.execute(text("SELECT pg_sleep(0.5)"))
        for _ in range(3):
            await rehearsal.emit("go")
        assert await handle.result() == [0, 1, 2]


async def test_a_transaction_that_waits_for_others_in_a_session(inside: AsyncSession) -> None:
    """It has the turn to its end, so nobody else can go on; that is an error, and no hang."""
    conductor = Conductor()

    @conductor.task
    async def child(ctx: TaskContext) -> None: ...

    @conductor.task
    async def parent(ctx: TaskContext) -> None:
        async def wait(_: AsyncSession) -> None:
            await ctx.invoke("child", child)

        await ctx.transact("all", wait)

    async with Rehearsal(conductor, inside, patience=timedelta(seconds=0.5)) as rehearsal:
        handle = await parent.invoke()
        with pytest.raises(TimeoutError, match="beside its waits 'child'"):
            await rehearsal.drain()
        await handle.cancel()
