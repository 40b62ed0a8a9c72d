"""SIGTERM while a migration waits: it ends in order, as it does for Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Awaitable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Final, NoReturn, TypeVar

from pgconductor.exceptions import MigrationAborted

__all__ = ["ABORTED", "terminable", "terminable_here"]

T = TypeVar("T")

ABORTED: Final = "told to stop: what this migration had announced is taken back"


class _Told(KeyboardInterrupt):
    """SIGTERM came: like Ctrl-C, for drivers know that, and cancel the statement for it."""


def _in_main_thread() -> bool:
    # Signals belong to the main thread; elsewhere they are the program's own matter.
    return threading.current_thread() is threading.main_thread()


async def terminable(work: Awaitable[T]) -> T:
    """Await something that SIGTERM cancels.

    More signals change nothing: what is being taken back is not interrupted.

    Args:
        work: What to await.

    Raises:
        MigrationAborted: SIGTERM came.
    """
    if not _in_main_thread():
        return await work
    told = False
    task = asyncio.current_task()

    def stop() -> None:
        nonlocal told
        if task is not None and not told:
            told = True
            task.cancel(ABORTED)

    loop = asyncio.get_running_loop()
    before = signal.getsignal(signal.SIGTERM)
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
        signal.signal(signal.SIGTERM, before)


@contextmanager
def terminable_here() -> Generator[None]:
    """The same for sync code.

    Raises:
        MigrationAborted: SIGTERM came.
    """
    if not _in_main_thread():
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise _Told(ABORTED)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except _Told:
        raise MigrationAborted(ABORTED) from None
    finally:
        signal.signal(signal.SIGTERM, before)
