"""The tasks of the drills, for worker processes and for orchestrators within a test."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import UUID

from pydantic import SecretStr
from sqlalchemy import text

from pgconductor import Conductor, RetryPolicy, Settings, TaskContext
from tests.faults.voyage import declare_moorings, declare_voyage

#: Everything is short, so that a drill takes seconds.
DRILL_SETTINGS: dict[str, Any] = {
    "heartbeat_interval": 0.2,
    "self_fence_after": 2,
    "stale_after": 3,
    "sweep_interval": 0.3,
    "poll_interval": 0.2,
    "shutdown_grace": 5,
    "give_back_after": 0.5,
    "command_timeout": 5,
    "startup_timeout": 30,
}
#: A handler's own trouble with the database must not use up its attempts.
PATIENT = RetryPolicy.constant(timedelta(seconds=0.1))


#: What the handlers of this process have begun.
STARTED: set[UUID] = set()


def say(*words: object) -> None:
    """A line to whoever watches this process."""
    print(*words, flush=True)


def freeze(*words: object) -> None:
    """Say where this process has got to, and stop there for good."""
    say(*words)
    os.kill(os.getpid(), signal.SIGSTOP)


def drill_conductor(url: str, **settings: Any) -> Conductor:
    """A conductor that knows all the tasks."""
    # An argument would win over the environment, which is where a single drill sets its own.
    short = {
        k: v for k, v in DRILL_SETTINGS.items() if f"PGCONDUCTOR_{k.upper()}" not in os.environ
    }
    conductor = Conductor(Settings(database_url=SecretStr(url), **{**short, **settings}))
    declare_harmless(conductor)
    declare_deadly(conductor)
    declare_voyage(conductor)
    declare_moorings(conductor)
    return conductor


async def record_effect(conductor: Conductor, ctx: TaskContext) -> None:
    async with conductor.engine.begin() as connection:
        await connection.execute(
            text("INSERT INTO effects (execution_id, task, pid) VALUES (:id, :task, :pid)"),
            {"id": ctx.execution_id, "task": ctx.task, "pid": os.getpid()},
        )


def declare_harmless(conductor: Conductor) -> None:
    @conductor.task(max_attempts=100, retry=PATIENT)
    async def touch(ctx: TaskContext, number: int = 0) -> int:
        await record_effect(conductor, ctx)
        return number

    @conductor.task(max_attempts=100, retry=PATIENT)
    async def slow(ctx: TaskContext, seconds: float) -> str:
        STARTED.add(ctx.execution_id)
        say("started", ctx.execution_id)
        await asyncio.sleep(seconds)
        await record_effect(conductor, ctx)
        return "slept"

    @conductor.task(max_attempts=100, retry=PATIENT)
    def plain(ctx: TaskContext, seconds: float = 0.0) -> str:
        say("started", ctx.execution_id)
        time.sleep(seconds)
        return "slept"

    @conductor.task(max_attempts=100, retry=PATIENT)
    async def stubborn(ctx: TaskContext) -> str:
        """Never ends in a worker process, whatever it is told."""
        await record_effect(conductor, ctx)
        say("started", ctx.execution_id)
        while "DRILL" in os.environ:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
        return "gave in"

    @conductor.task(max_attempts=100, retry=PATIENT)
    async def block(ctx: TaskContext, seconds: float) -> str:
        """Does what an async handler must not do."""
        say("started", ctx.execution_id)
        await record_effect(conductor, ctx)
        time.sleep(seconds)  # noqa: ASYNC251 - blocking the loop is the point
        return "blocked"


def declare_deadly(conductor: Conductor) -> None:
    @conductor.task(max_attempts=100, retry=PATIENT)
    async def frozen(ctx: TaskContext) -> str:
        """Freezes the process that executes it, if that is a worker process."""
        await record_effect(conductor, ctx)
        if "DRILL" in os.environ:
            freeze("handler", ctx.execution_id)
        return "done"

    @conductor.task()
    async def poison(ctx: TaskContext, how: str = "exit") -> None:
        """Takes its process down, every time."""
        await record_effect(conductor, ctx)
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(17)

    @conductor.task(max_crashes=1)
    async def at_most_once(ctx: TaskContext) -> str:
        await record_effect(conductor, ctx)
        if "DRILL" in os.environ:
            freeze("handler", ctx.execution_id)
        return "done"

    @conductor.task(queue="other")
    async def elsewhere(ctx: TaskContext, number: int = 0) -> int:
        await record_effect(conductor, ctx)
        return number

    @conductor.task()
    async def watchful_poison(ctx: TaskContext, neighbour: UUID) -> None:
        """Takes its process down as soon as the neighbour has started in it, or never will."""
        for _ in range(40):
            if neighbour in STARTED:
                break
            await asyncio.sleep(0.02)
        os._exit(17)
