"""SIGTERM while a migration waits: it ends in order, as it does for Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Final, NoReturn, TypeVar

from pgconductor.exceptions import MigrationAborted

__all__ = ["ABORTED", "terminable", "terminable_here"]

T = TypeVar("T")

ABORTED: Final = "told to stop: what this migration had announced is taken back"


class _Told(KeyboardInterrupt):
    """SIGTERM came: like Ctrl-C, for drivers know that, and cancel the statement for it."""


async def terminable(work: Awaitable[T]) -> T:
    """Await something that SIGTERM cancels; for a process that ends with it.

    More signals change nothing, neither while things are taken back nor until the process has
    said how it ends: only where none came is the handler from before put back.

    Args:
        work: What to await.

    Raises:
        MigrationAborted: SIGTERM came.
    """
    told = False
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        nonlocal told
        told = True
        if task is not None:
            task.cancel(ABORTED)

    with _once(lambda: loop.call_soon_threadsafe(stop)):
        try:
            return await work
        except asyncio.CancelledError:
            if told:
                raise MigrationAborted(ABORTED) from None
            raise


@contextmanager
def terminable_here() -> Generator[None]:
    """The same for sync code.

    Raises:
        MigrationAborted: SIGTERM came.
    """

    def stop() -> NoReturn:
        raise _Told(ABORTED)

    try:
        with _once(stop):
            yield
    except _Told:
        raise MigrationAborted(ABORTED) from None


@contextmanager
def _once(stop: Callable[[], object]) -> Generator[None]:
    # Signals belong to the main thread; elsewhere they are the program's own matter.
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        stop()

    # Not the loop's own handlers: whoever removes one has a signal end the process at once.
    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is handle:
            signal.signal(signal.SIGTERM, before)
