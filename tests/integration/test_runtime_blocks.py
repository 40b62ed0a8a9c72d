"""Transactional blocks, and executions that are completed in a transaction of their handler's."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from pgconductor import Conductor, RetryPolicy, TaskContext
from pgconductor.exceptions import (
    ConfigurationError,
    DoNotRetry,
    ExecutionCancelled,
    ExecutionFailed,
)
from tests.integration.runtime_world import SOON, World

AT_ONCE = RetryPolicy.constant(timedelta(milliseconds=1))
ADD = text("INSERT INTO public.bookings (n) VALUES (:n)")


@pytest.fixture
def world(world: World) -> World:
    world.rows("CREATE TABLE public.bookings (n integer NOT NULL)")
    return world


def booked(world: World) -> list[int]:
    return [row["n"] for row in world.rows("SELECT n FROM public.bookings ORDER BY n")]


async def drained(conductor: Conductor, task: Any) -> Any:
    handle = await task.invoke()
    await conductor.orchestrator().drain()
    return await handle.result(SOON)


async def test_a_block_commits_once_and_has_its_result_again(
    world: World, conductor: Conductor
) -> None:
    attempts: list[tuple[bool, int]] = []

    @conductor.task(retry=AT_ONCE)
    async def task(ctx: TaskContext) -> int:
        async with (book := ctx.transaction("book", int)) as session:
            await session.execute(ADD, {"n": ctx.attempt})
            book.result = ctx.attempt * 10
        attempts.append((book.replayed, book.result))
        if ctx.attempt == 1:
            raise RuntimeError("the first attempt fails")
        return book.result

    assert await drained(conductor, task) == 10
    assert attempts == [(False, 10), (True, 10)]
    assert booked(world) == [1]


async def test_an_error_in_a_block_rolls_back(world: World, conductor: Conductor) -> None:
    @conductor.task(retry=AT_ONCE)
    async def task(ctx: TaskContext) -> int:
        async with ctx.transaction("book") as session:
            await session.execute(ADD, {"n": ctx.attempt})
            if ctx.attempt == 1:
                raise RuntimeError("inside")
        return ctx.attempt

    assert await drained(conductor, task) == 2
    assert booked(world) == [2]


async def test_a_block_of_who_does_not_own_it_any_more(world: World, conductor: Conductor) -> None:
    @conductor.task(max_attempts=1)
    async def task(ctx: TaskContext) -> None:
        claim = "UPDATE pgconductor.executions SET claim_number = claim_number + %s"
        try:
            async with ctx.transaction("book") as session:
                await session.execute(ADD, {"n": 1})
                world.rows(claim, 1000)
        finally:
            world.rows(claim, -1000)

    with pytest.raises(ExecutionFailed, match="OwnershipLost"):
        await drained(conductor, task)
    assert booked(world) == []


async def test_a_conflict_ends_the_attempt_of_a_block(world: World, conductor: Conductor) -> None:
    @conductor.task(retry=AT_ONCE)
    async def task(ctx: TaskContext) -> int:
        async with ctx.transaction("book") as session:
            await session.execute(ADD, {"n": ctx.attempt})
            if ctx.attempt == 1:
                await session.execute(
                    text("DO $$ BEGIN RAISE SQLSTATE '40001' USING MESSAGE = 'conflict'; END $$")
                )
        return ctx.attempt

    handle = await task.invoke()
    await conductor.orchestrator().drain()
    assert await handle.result(SOON) == 2
    assert world.execution(handle.id)["last_error_type"] == "TransactionConflict"
    assert booked(world) == [2]


async def test_a_block_that_swallows_its_end(conductor: Conductor) -> None:
    @conductor.task(retry=AT_ONCE, max_attempts=2)
    async def task(ctx: TaskContext) -> None:
        async with ctx.transaction("book") as session:
            try:
                await session.execute(ADD, {"n": 1})
            except BaseException:  # noqa: BLE001 - what is told
                pass
        raise RuntimeError("the first attempt fails")

    with pytest.raises(ExecutionFailed, match="'book' caught the BaseException"):
        await drained(conductor, task)


@pytest.mark.parametrize("block", [True, False], ids=["in a block", "in an own transaction"])
async def test_completing_in_a_transaction(
    world: World, conductor: Conductor, caplog: pytest.LogCaptureFixture, *, block: bool
) -> None:
    caplog.set_level("INFO", "pgconductor.executions")

    @conductor.task(max_attempts=1)
    async def task(ctx: TaskContext) -> int:
        if block:
            async with ctx.transaction("book") as session:
                await session.execute(ADD, {"n": 1})
                await ctx.complete_in(session, 7)
        else:
            async with conductor.sessionmaker.begin() as session:
                await session.execute(ADD, {"n": 1})
                await ctx.complete_in(session, 7)
        return 0

    assert await drained(conductor, task) == 7
    assert booked(world) == [1]
    # Of a transaction of the handler's own, nobody but the database knows whether it committed.
    assert not block or "failed" not in caplog.text


async def test_a_completion_that_did_not_commit(world: World, conductor: Conductor) -> None:
    @conductor.task(max_attempts=1)
    async def task(ctx: TaskContext) -> int:
        async with conductor.sessionmaker() as session:
            await session.execute(ADD, {"n": 1})
            await ctx.complete_in(session, 7)
        return 0

    with pytest.raises(ExecutionFailed, match="CompletionNotCommitted"):
        await drained(conductor, task)
    assert booked(world) == []


async def test_a_completion_of_what_is_to_be_cancelled(world: World, conductor: Conductor) -> None:
    @conductor.task(max_attempts=1)
    async def task(ctx: TaskContext) -> int:
        world.rows("UPDATE pgconductor.executions SET cancel_requested_at = now()")
        async with conductor.sessionmaker.begin() as session:
            await session.execute(ADD, {"n": 1})
            await ctx.complete_in(session, 7)
        return 0

    with pytest.raises(ExecutionCancelled):
        await drained(conductor, task)
    assert booked(world) == []


@pytest.mark.parametrize("conflicts", [0, 2])
async def test_completing_in_the_transaction_of_a_step(
    world: World, conductor: Conductor, conflicts: int
) -> None:
    calls: list[int] = []

    @conductor.task(max_attempts=1)
    async def task(ctx: TaskContext) -> int:
        async def book(session: AsyncSession) -> None:
            calls.append(1)
            await session.execute(ADD, {"n": 1})
            await ctx.complete_in(session, 7)
            if len(calls) <= conflicts:
                await session.execute(
                    text("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$")
                )

        await ctx.transact("book", book)
        return 0

    assert await drained(conductor, task) == 7
    assert booked(world) == [1]
    assert len(calls) == conflicts + 1


@pytest.mark.parametrize("what", ["complete", "step"])
async def test_nothing_is_begun_after_a_completion(
    world: World, conductor: Conductor, what: str
) -> None:
    """It must not be given back and tried again for ever."""
    attempts: list[int] = []

    @conductor.task(max_attempts=2, retry=AT_ONCE)
    async def task(ctx: TaskContext) -> int:
        attempts.append(ctx.attempt)
        if len(attempts) > 5:
            raise DoNotRetry("for ever")
        async with conductor.sessionmaker.begin() as session:
            await session.execute(ADD, {"n": 1})
            await ctx.complete_in(session, 7)
            if what == "complete":
                await ctx.complete_in(session, 8)
            else:
                await ctx.step("late", len, "late")
        return 0

    with pytest.raises(ExecutionFailed, match="after complete_in"):
        await drained(conductor, task)
    assert attempts == [1, 2]
    assert booked(world) == []


@pytest.mark.parametrize("joined", ["group", "gather"])
async def test_a_committed_block_is_skipped_by_a_branch(
    world: World, conductor: Conductor, joined: str
) -> None:
    @conductor.task(max_attempts=2, retry=AT_ONCE)
    async def task(ctx: TaskContext) -> str:
        async with ctx.transaction("book") as session:
            if joined == "group":
                async with asyncio.TaskGroup() as group:
                    group.create_task(session.execute(ADD, {"n": 1}))
            else:
                await asyncio.gather(session.execute(ADD, {"n": 1}))
        if ctx.attempt == 1:
            raise RuntimeError("the first attempt fails")
        return "booked"

    assert await drained(conductor, task) == "booked"
    assert booked(world) == [1]


@pytest.mark.parametrize("kept", ["block", "function"])
async def test_a_session_is_of_no_use_after_its_transaction(
    world: World, conductor: Conductor, kept: str
) -> None:
    """It would begin another transaction, which nobody commits, on a connection of the pool."""
    refused: list[str] = []
    held: list[int] = []

    @conductor.task(max_attempts=2, retry=AT_ONCE)
    async def task(ctx: TaskContext) -> None:
        sessions: list[AsyncSession] = []
        if kept == "block":
            async with ctx.transaction("book") as session:
                await session.execute(ADD, {"n": 1})
            sessions.append(session)
        else:

            async def book(session: AsyncSession) -> None:
                sessions.append(session)
                await session.execute(ADD, {"n": 1})

            await ctx.transact("book", book)
        for session in sessions:
            for use in (session.execute, session.scalar):
                with pytest.raises(ConfigurationError) as caught:
                    await use(ADD, {"n": 2})
                refused.append(str(caught.value))
            with pytest.raises(ConfigurationError, match="'book'"):
                await session.commit()
            await session.rollback()
            await session.close()
        held.append(conductor.engine.pool.checkedout())  # type: ignore[attr-defined]
        if ctx.attempt == 1:
            raise RuntimeError("the first attempt fails")

    await drained(conductor, task)
    assert len(refused) == (4 if kept == "block" else 2)
    assert all("the session of transaction 'book' is used after" in one for one in refused)
    assert (held, booked(world)) == ([0, 0], [1])


@pytest.mark.parametrize("when", ["after", "inside"])
async def test_a_block_is_entered_once(world: World, conductor: Conductor, when: str) -> None:
    @conductor.task(max_attempts=2, retry=AT_ONCE)
    async def task(ctx: TaskContext) -> None:
        block = ctx.transaction("book")
        async with block as session:
            await session.execute(ADD, {"n": 1})
            if when == "inside":
                async with block:
                    pass
        async with block as session:
            await session.execute(ADD, {"n": 2})

    with pytest.raises(ExecutionFailed, match="ConfigurationError: transaction 'book' was entered"):
        await drained(conductor, task)
    assert booked(world) == ([] if when == "inside" else [1])
    assert conductor.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
