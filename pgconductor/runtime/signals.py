"""SIGTERM and SIGINT: once to stop, twice to hurry, three times to end the process."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Final

__all__ = ["HURRY", "STOP", "obey", "stop_on_signals"]

#: What a supervisor says to stop a process, and to have it hurry.
STOP: Final = b"s"
HURRY: Final = b"h"

logger = logging.getLogger("pgconductor.orchestrator")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Several orchestrators of one process may wait for the same signals.
_waiting: list[Callable[[], None]] = []
_installation = ExitStack()
_supervisors: list[socket.socket] = []


def obey(supervisor: socket.socket) -> None:
    """Take orders from a supervisor, for the rest of the process's life.

    Signals then count as one, however many come: Ctrl-C reaches supervisor and process alike, and
    only the supervisor says when to hurry. When its end of the socket closes it has died, and the
    process stops as if it had been told to.

    Args:
        supervisor: Where its orders come from.
    """
    supervisor.setblocking(False)
    _supervisors[:] = [supervisor]


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


class _Count:
    """How often the process was asked to stop."""

    def __init__(self) -> None:
        self._times = 0

    def raise_to(self, times: int) -> None:
        """Call back for each time that is new; a third one ends the process."""
        while self._times < times:
            self._times += 1
            if self._times >= 3:
                os._exit(1)
            for on_signal in _waiting:
                on_signal()

    def signalled(self) -> None:
        self.raise_to(1 if _supervisors else self._times + 1)


@contextmanager
def _installed() -> Generator[None]:
    loop = asyncio.get_running_loop()
    count = _Count()
    before = {one: signal.getsignal(one) for one in _SIGNALS}
    try:
        for one in _SIGNALS:
            loop.add_signal_handler(one, count.signalled)
    except NotImplementedError:
        # Windows: Ctrl-C raises KeyboardInterrupt instead.
        yield
        return
    with ExitStack() as stack:
        for supervisor in _supervisors:
            stack.enter_context(_heard(supervisor, count, loop))
        try:
            yield
        finally:
            for one in _SIGNALS:
                loop.remove_signal_handler(one)
                if before[one] is not None:
                    signal.signal(one, before[one])


@contextmanager
def _heard(
    supervisor: socket.socket, count: _Count, loop: asyncio.AbstractEventLoop
) -> Generator[None]:
    def told() -> None:
        try:
            orders = supervisor.recv(16)
        except ConnectionResetError:
            orders = b""
        if orders:
            count.raise_to(2 if HURRY in orders else 1)
            return
        loop.remove_reader(supervisor)
        logger.error("the supervisor has gone: stopping")
        count.raise_to(1)

    loop.add_reader(supervisor, told)
    try:
        yield
    finally:
        loop.remove_reader(supervisor)
