"""The demo's application: two tasks, executed by ordinary ``pgconductor worker`` processes."""

from __future__ import annotations

import asyncio
import os
import threading
from datetime import timedelta
from typing import Final

from pydantic import BaseModel
from sqlalchemy import BigInteger, cast, func, select

from pgconductor import Conductor, RetryPolicy, TaskContext
from pgconductor.cli.demo.counting import Counts, count
from pgconductor.models import Execution

__all__ = ["LIFELINE", "FileToCount", "ReadError", "conductor", "count_file", "summarise"]

#: The environment's name for the pipe that ends when the demo's own process does.
LIFELINE: Final = "PGCONDUCTOR_DEMO_LIFELINE"

conductor = Conductor()


class FileToCount(BaseModel):
    """Payload of ``count_file``.

    Attributes:
        path: The file.
        fails_once: Whether the first attempt is to fail, so that a retry is seen.
        pause: Seconds to wait before counting, so that there is something to watch.
    """

    path: str
    fails_once: bool = False
    pause: float = 0.0


class ReadError(Exception):
    """A disk that fails now and then; the demo makes it up."""


@conductor.task(
    "pgconductor.demo/count_file", retry=RetryPolicy.constant(timedelta(milliseconds=700))
)
async def count_file(ctx: TaskContext, file: FileToCount) -> Counts:
    """Count one file."""
    await asyncio.sleep(file.pause)
    if file.fails_once and ctx.attempt == 1:
        raise ReadError(f"made-up read error, first attempt at {file.path}")
    # In a thread: the largest files take a while, and the loop has others to serve.
    return await asyncio.to_thread(count, file.path)


@conductor.task("pgconductor.demo/summarise")
async def summarise(ctx: TaskContext) -> Counts:
    """Add up the results that the executions left, by a query as any other service could ask."""
    names = list(Counts.model_fields)
    query = select(
        *(
            func.coalesce(func.sum(cast(Execution.result[name].as_string(), BigInteger)), 0)
            for name in names
        )
    ).where(
        Execution.queue == ctx.queue,
        Execution.task_key == count_file.name,
        Execution.state == "completed",
    )
    async with conductor.sessionmaker() as session:
        row = (await session.execute(query)).one()
    return Counts(**{name: int(value) for name, value in zip(names, row, strict=True)})


def _end_with(pipe: int) -> None:
    """Wait until the other end is closed: the demo is gone, killed perhaps."""
    while os.read(pipe, 1):
        pass
    os._exit(1)


if LIFELINE in os.environ:
    threading.Thread(
        target=_end_with, args=(int(os.environ[LIFELINE]),), name="demo-lifeline", daemon=True
    ).start()
