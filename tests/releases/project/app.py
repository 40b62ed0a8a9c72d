"""The application of the drills with two releases; with ``python app.py`` what invokes its tasks.

It is executed with one release or another in front of the import path, and knows none by name.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from datetime import timedelta
from pathlib import Path

import psycopg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

import pgconductor
from pgconductor import Conductor, RetryPolicy, TaskContext

RELEASE = pgconductor.__version__
# Whether an odyssey goes on until it is interrupted: in the release that is named there.
ENDLESS = os.environ.get("DRILL_ENDLESS") == RELEASE
# Set where a handler is to be stuck until the file is there.
STUCK = os.environ.get("DRILL_STUCK")
# A handler's own trouble with the database must not use up its attempts.
PATIENT = RetryPolicy.constant(timedelta(seconds=0.1))
EFFECT = (
    "INSERT INTO effects (execution_id, task, what, release, pid)"
    " VALUES ({}, {}, {}, {}, {}) RETURNING id"
)

conductor = Conductor()


def say(*words: object) -> None:
    print(*words, flush=True)


async def record(ctx: TaskContext, what: str) -> int:
    """What the business sees of an attempt; its number."""
    async with conductor.sessionmaker.begin() as session:
        return await record_in(session, ctx, what)


async def record_in(session: AsyncSession, ctx: TaskContext, what: str) -> int:
    """The same in a transaction that is there."""
    found = await session.execute(
        text(EFFECT.format(":id", ":task", ":what", ":release", ":pid")),
        {
            "id": ctx.execution_id,
            "task": ctx.task,
            "what": what,
            "release": RELEASE,
            "pid": os.getpid(),
        },
    )
    return int(found.scalar_one())


def record_plainly(ctx: TaskContext, what: str) -> int:
    """The same from a thread."""
    plain = os.environ["PGCONDUCTOR_DATABASE_URL"].replace("+asyncpg", "", 1)
    with psycopg.connect(plain, autocommit=True) as connection:
        row = connection.execute(
            EFFECT.format(*["%s"] * 5).encode(),
            (ctx.execution_id, ctx.task, what, RELEASE, os.getpid()),
        ).fetchone()
    assert row is not None
    return int(row[0])


# Every handler returns the number of its last effect: so a result names the attempt it is of.


@conductor.task(max_attempts=100, retry=PATIENT)
async def brief(ctx: TaskContext) -> int:
    """Some milliseconds."""
    await record(ctx, "begun")
    return await record(ctx, "ended")


@conductor.task(max_attempts=100, retry=PATIENT)
async def long(ctx: TaskContext) -> int:
    """Ends by itself, and is waited for by whoever stops."""
    await record(ctx, "begun")
    await asyncio.sleep(1.0)
    return await record(ctx, "ended")


@conductor.task(max_attempts=100, retry=PATIENT)
async def journey(ctx: TaskContext) -> int:
    """Long, with boundaries at which it can be interrupted."""
    await record(ctx, "begun")
    for _ in range(10):
        await asyncio.sleep(0.1)
        await ctx.checkpoint()
    return await record(ctx, "ended")


@conductor.task(max_attempts=100, retry=PATIENT)
async def odyssey(ctx: TaskContext) -> int:
    """Comes to its end in another release only."""
    await record(ctx, "begun")
    while ENDLESS:
        await asyncio.sleep(0.1)
        await ctx.checkpoint()
    return await record(ctx, "ended")


@conductor.task(max_attempts=100, retry=PATIENT)
async def leg(ctx: TaskContext) -> int:
    """A part of a voyage."""
    await record(ctx, "begun")
    await ctx.sleep("rest", timedelta(seconds=0.1))
    return await record(ctx, "ended")


@conductor.task(max_attempts=100, retry=PATIENT)
async def voyage(ctx: TaskContext) -> int:
    """Steps, waits and children, at each of which it may go on in another release."""
    await record(ctx, "begun")
    await ctx.step("pack", record, ctx, "packed")
    await ctx.transact("book", record_in, ctx, "booked")
    await ctx.sleep("night", timedelta(seconds=0.3))
    await asyncio.gather(ctx.invoke("out", leg), ctx.invoke("back", leg))
    async with ctx.transaction("pay") as session:
        await record_in(session, ctx, "paid")
    return await record(ctx, "ended")


@conductor.task(max_attempts=100, retry=PATIENT)
async def crossing(ctx: TaskContext) -> int:
    """Waits for land, in one release or another."""
    await record(ctx, "begun")
    await ctx.transact("book", record_in, ctx, "booked")
    await asyncio.gather(ctx.wait_for("lookout", "land"), ctx.invoke("out", leg))
    async with ctx.transaction("pay") as session:
        await record_in(session, ctx, "paid")
    return await record(ctx, "ended")


@conductor.task(max_attempts=100, retry=PATIENT)
def stuck(ctx: TaskContext) -> int:
    """Listens to nobody."""
    record_plainly(ctx, "begun")
    while STUCK is not None and not Path(STUCK).exists():
        time.sleep(0.02)
    return record_plainly(ctx, "ended")


async def produce() -> None:
    """Invoke a mixture at a steady pace until SIGTERM; each execution is told when it is there."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    tick = 0
    while not stopped.is_set():
        wanted = [brief, brief]
        if tick % 10 == 0:
            wanted += [long, journey, voyage]
        for task in wanted:
            handle = await task.invoke()
            say("invoked", handle.id)
        tick += 1
        try:
            async with asyncio.timeout(0.1):
                await stopped.wait()
        except TimeoutError:
            pass  # The next tick.
    await conductor.close()
    say("produced")


# Which release this is in truth: whoever started it compares.
say("release", RELEASE, Path(pgconductor.__file__).parent)

if __name__ == "__main__":
    asyncio.run(produce())
