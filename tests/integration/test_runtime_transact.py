"""I4: a transactional step's effects in the application's database happen exactly once."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from pgconductor import Conductor, RetryPolicy, TaskContext
from pgconductor.exceptions import ExecutionFailed
from tests.integration.runtime_world import SOON, World
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import eventually


class Base(DeclarativeBase):
    pass


class Booking(Base):
    __tablename__ = "bookings"

    what: Mapped[str] = mapped_column(primary_key=True)


AT_ONCE = RetryPolicy.constant(timedelta(milliseconds=1))
#: Nobody else commits meanwhile: the loops of the engine send single statements.
STILL = {"stale_after": 600, "self_fence_after": 500, "sweep_interval": 300}


@pytest.fixture
def world(world: World) -> World:
    world.rows("CREATE TABLE bookings (what text NOT NULL)")
    return world


def bookings(world: World) -> list[str]:
    return [row["what"] for row in world.rows("SELECT what FROM bookings ORDER BY what")]


def steps(world: World) -> list[str]:
    return [row["key"] for row in world.rows("SELECT key FROM pgconductor.steps ORDER BY key")]


async def book(session: AsyncSession, what: str) -> int:
    await session.execute(text("INSERT INTO bookings VALUES (:what)"), {"what": what})
    return len(what)


async def test_exactly_once_across_attempts(world: World, conductor: Conductor) -> None:
    attempts: list[int] = []

    @conductor.task(retry=AT_ONCE)
    async def task(ctx: TaskContext) -> int:
        length = await ctx.transact("book", book, "room")
        attempts.append(ctx.attempt)
        if ctx.attempt == 1:
            raise RuntimeError("after the commit")
        return length

    handle = await task.invoke()
    await conductor.orchestrator().drain()
    assert await handle.result(SOON) == 4
    assert attempts == [1, 2]
    assert bookings(world) == ["room"]


async def test_nothing_is_written_of_what_raises(world: World, conductor: Conductor) -> None:
    async def half(session: AsyncSession) -> None:
        await book(session, "half")
        raise RuntimeError("in the middle")

    async def odd(session: AsyncSession) -> object:
        await book(session, "odd")
        return object()

    @conductor.task(max_attempts=1)
    async def raising(ctx: TaskContext) -> None:
        await ctx.transact("book", half)

    @conductor.task(max_attempts=1)
    async def unstorable(ctx: TaskContext) -> None:
        await ctx.transact("book", odd)

    handles = [await raising.invoke(), await unstorable.invoke()]
    await conductor.orchestrator().drain()
    for handle in handles:
        with pytest.raises(ExecutionFailed):
            await handle.result(SOON)
    assert (bookings(world), steps(world)) == ([], [])


async def test_a_lost_ownership_takes_the_writes_along(world: World, conductor: Conductor) -> None:
    """I1: the business write in the same transaction rolls back with it."""
    learnt: list[str] = []

    async def late(session: AsyncSession) -> None:
        await book(session, "late")
        world.rows("UPDATE pgconductor.executions SET claim_number = claim_number + 1000")

    @conductor.task(max_attempts=1)
    async def task(ctx: TaskContext) -> None:
        try:
            await ctx.transact("book", late)
        except Exception as error:
            learnt.append(type(error).__name__)
            raise

    await task.invoke()
    orchestrator = conductor.orchestrator()
    await orchestrator.start()
    await eventually(lambda: learnt)
    world.rows("UPDATE pgconductor.executions SET claim_number = claim_number - 1000")
    await orchestrator.stop()
    assert learnt == ["OwnershipLost"]
    assert (bookings(world), steps(world)) == ([], [])


async def test_a_conflict_is_tried_again_in_another_session(
    world: World, conductor: Conductor
) -> None:
    sessions: list[int] = []
    conflict = "DO $$ BEGIN RAISE EXCEPTION 'conflict' USING ERRCODE = '40001'; END $$"

    async def contended(session: AsyncSession) -> None:
        await book(session, f"try {len(sessions)}")
        sessions.append(id(session))
        if len(sessions) == 1:
            await session.execute(text(conflict))

    @conductor.task(max_attempts=1)
    async def task(ctx: TaskContext) -> None:
        await ctx.transact("book", contended)

    handle = await task.invoke()
    await conductor.orchestrator().drain()
    await handle.result(SOON)
    assert len(sessions) == 2
    assert bookings(world) == ["try 1"]


async def test_the_answer_to_the_commit_is_lost(world: World) -> None:
    """It has happened, with the step: the step tells, and the handler goes on."""
    calls: list[int] = []
    async with TcpProxy.before(world.url) as proxy:
        conductor = World(proxy.url).conductor(**STILL, listen=False)

        async def once(session: AsyncSession) -> str:
            calls.append(1)
            await book(session, "once")
            proxy.lose_reply_to(b"COMMIT")
            return "booked"

        @conductor.task(max_attempts=1)
        async def task(ctx: TaskContext) -> str:
            return await ctx.transact("book", once)

        handle = await task.invoke()
        assert await conductor.orchestrator().drain() == "clean"
        assert await handle.result(SOON) == "booked"
        await conductor.close()
        assert proxy.cuts == 1
    assert (len(calls), bookings(world), steps(world)) == (1, ["once"], ["book"])


@pytest.mark.parametrize("how", ["commit", "rollback", "close"])
@pytest.mark.parametrize("block", [False, True], ids=["function", "block"])
async def test_a_step_that_ends_its_transaction_itself_is_told(
    world: World, conductor: Conductor, how: str, *, block: bool
) -> None:
    """Otherwise what it wrote is written again by a later attempt, or recorded and not written."""

    async def misuse(session: AsyncSession) -> None:
        await book(session, "room")
        await getattr(session, how)()

    @conductor.task(max_attempts=3, retry=AT_ONCE)
    async def task(ctx: TaskContext) -> None:
        if block:
            async with ctx.transaction("book") as session:
                await misuse(session)
        else:
            await ctx.transact("book", misuse)

    handle = await task.invoke()
    await conductor.orchestrator().drain()
    with pytest.raises(ExecutionFailed, match="TransactionMisused"):
        await handle.result(SOON)
    assert steps(world) == []
    assert world.execution(handle.id)["attempts"] == 1


async def test_a_part_that_fails_may_be_taken_back(world: World, conductor: Conductor) -> None:
    async def both(session: AsyncSession) -> None:
        await book(session, "room")
        with suppress(RuntimeError):
            async with session.begin_nested():
                await book(session, "car")
                raise RuntimeError("no car")

    @conductor.task(max_attempts=1)
    async def task(ctx: TaskContext) -> None:
        await ctx.transact("book", both)

    handle = await task.invoke()
    await conductor.orchestrator().drain()
    await handle.result(SOON)
    assert bookings(world) == ["room"]


@pytest.mark.parametrize("completing", [False, True], ids=["recorded", "completing"])
@pytest.mark.parametrize("how", ["function", "block", "flush"])
async def test_an_error_that_was_caught_inside_is_told(
    world: World, conductor: Conductor, how: str, *, completing: bool
) -> None:
    """Postgres rolls back at the commit then, and says nothing of it."""
    world.rows("CREATE UNIQUE INDEX ON bookings (what)")

    async def careless(session: AsyncSession, ctx: TaskContext) -> None:
        await book(session, "room")
        if completing:
            await ctx.complete_in(session)
        with suppress(IntegrityError):
            if how == "flush":
                session.add(Booking(what="room"))
                await session.flush()
            else:
                await book(session, "room")

    @conductor.task(max_attempts=3, retry=AT_ONCE)
    async def task(ctx: TaskContext) -> None:
        if how == "block":
            async with ctx.transaction("book") as session:
                await careless(session, ctx)
        else:
            await ctx.transact("book", careless, ctx)

    handle = await task.invoke()
    await conductor.orchestrator().drain()
    with pytest.raises(ExecutionFailed, match=r"TransactionMisused.*begin_nested"):
        await handle.result(SOON)
    row = world.execution(handle.id)
    assert row["attempts"] == 1
    assert "INSERT INTO pgconductor" not in row["last_error_traceback"]
    assert (bookings(world), steps(world)) == ([], [])
