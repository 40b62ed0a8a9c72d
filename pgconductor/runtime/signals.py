"""SIGTERM and SIGINT: once to stop, twice to hurry, three times to end the process."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager

__all__ = ["stop_on_signals"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Several orchestrators of one process may wait for the same signals.
_waiting: list[Callable[[], None]] = []
_installation = ExitStack()


@contextmanager
def stop_on_signals(on_signal: Callable[[], None]) -> Generator[None]:
    """Call back at the first two signals and end the process at the third.

    Only in the main thread, where Python delivers signals; elsewhere nothing is installed. The
    handlers of before are restored at the end.

    Args:
        on_signal: Called on the event loop.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if not _waiting:
        _installation.enter_context(_installed())
    _waiting.append(on_signal)
    try:
        yield
    finally:
        _waiting.remove(on_signal)
        if not _waiting:
            _installation.close()


@contextmanager
def _installed() -> Generator[None]:
    loop = asyncio.get_running_loop()
    count = 0

    def received() -> None:
        nonlocal count
        count += 1
        if count >= 3:
            os._exit(1)
        for on_signal in _waiting:
            on_signal()

    before = {one: signal.getsignal(one) for one in _SIGNALS}
    try:
        for one in _SIGNALS:
            loop.add_signal_handler(one, received)
    except NotImplementedError:
        # Windows: Ctrl-C raises KeyboardInterrupt instead.
        yield
        return
    try:
        yield
    finally:
        for one in _SIGNALS:
            loop.remove_signal_handler(one)
            if before[one] is not None:
                signal.signal(one, before[one])
