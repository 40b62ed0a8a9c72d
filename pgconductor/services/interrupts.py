"""SIGTERM while a migration waits: it ends in order, as it does for Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Final, NoReturn, TypeVar

from pgconductor.exceptions import MigrationAborted

__all__ = ["ABORTED", "terminable", "terminable_here"]

T = TypeVar("T")

ABORTED: Final = "told to stop: what this migration had announced is taken back"


async def terminable(work: Awaitable[T]) -> T:
    """Await something that SIGTERM cancels; call it in the main thread of a program of ours.

    Args:
        work: What to await.

    Raises:
        MigrationAborted: SIGTERM came.
    """
    told = False
    task = asyncio.current_task()

    def stop() -> None:
        nonlocal told
        told = True
        if task is not None:
            task.cancel(ABORTED)

    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGTERM, stop)
    except NotImplementedError:
        return await work  # Not a POSIX system: there is no SIGTERM to handle.
    try:
        return await work
    except asyncio.CancelledError:
        if told:
            raise MigrationAborted(ABORTED) from None
        raise
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


@contextmanager
def terminable_here() -> Generator[None]:
    """The same for sync code: SIGTERM raises wherever it is.

    Raises:
        MigrationAborted: SIGTERM came.
    """

    def stop(_number: int, _frame: FrameType | None) -> NoReturn:
        raise MigrationAborted(ABORTED)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
