"""SIGTERM and SIGINT: once to stop, twice to hurry, three times to end the process."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

__all__ = ["stop_on_signals"]


@contextmanager
def stop_on_signals(on_signal: Callable[[], None]) -> Generator[None]:
    """Call back at the first two signals and end the process at the third.

    Only in the main thread, where Python delivers signals; elsewhere nothing is installed. The
    handlers of before are restored at the end.

    Args:
        on_signal: Called on the event loop.
    """
    loop = asyncio.get_running_loop()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    count = 0

    def received() -> None:
        nonlocal count
        count += 1
        if count >= 3:
            os._exit(1)
        on_signal()

    signals = (signal.SIGTERM, signal.SIGINT)
    before = {one: signal.getsignal(one) for one in signals}
    try:
        for one in signals:
            loop.add_signal_handler(one, received)
    except NotImplementedError:
        # Windows: Ctrl-C raises KeyboardInterrupt instead.
        yield
        return
    try:
        yield
    finally:
        for one in signals:
            loop.remove_signal_handler(one)
            if before[one] is not None:
                signal.signal(one, before[one])
