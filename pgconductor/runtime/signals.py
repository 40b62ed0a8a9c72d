"""SIGTERM and SIGINT: once to stop, twice to hurry, three times to end the process."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Final

__all__ = ["HURRY", "STOP", "handled", "obey", "stop_on_signals"]

#: What a supervisor says to stop a process, and to have it hurry.
STOP: Final = b"s"
HURRY: Final = b"h"

logger = logging.getLogger("pgconductor.orchestrator")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Several orchestrators of one process may wait for the same signals.
_waiting: list[Callable[[], None]] = []
_installation = ExitStack()
_supervisors: list[socket.socket] = []
# What the signals did before they were handled here; empty while they are not.
_before: dict[signal.Signals, Any] = {}
_forking = threading.local()


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
        # In a forked child there is nothing left to end.
        if on_signal in _waiting:
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
def handled(callback: Callable[[], None]) -> Generator[None]:
    """Have the running event loop call back at SIGTERM and SIGINT.

    Only in the main thread, and once at a time. What the signals did before is restored at the end;
    a child process that is forked meanwhile has it at once.

    Args:
        callback: Called on the event loop, once for each signal.

    Raises:
        NotImplementedError: The system, or the event loop, has no signals; nothing was changed.
    """
    loop = asyncio.get_running_loop()
    before = {one: signal.getsignal(one) for one in _SIGNALS}
    for one in _SIGNALS:
        loop.add_signal_handler(one, callback)
    _before.update(before)
    try:
        yield
    finally:
        for one in _SIGNALS:
            loop.remove_signal_handler(one)
        _before.clear()
        _restore({one: before for one, before in before.items() if before is not None})


def _restore(handlers: Mapping[signal.Signals, Any]) -> None:
    for one, handler in handlers.items():
        signal.signal(one, handler)


@contextmanager
def _installed() -> Generator[None]:
    loop = asyncio.get_running_loop()
    count = _Count()
    with ExitStack() as stack:
        try:
            stack.enter_context(handled(count.signalled))
        except NotImplementedError:
            # Windows: Ctrl-C raises KeyboardInterrupt instead.
            yield
            return
        for supervisor in _supervisors:
            stack.enter_context(_heard(supervisor, count, loop))
        yield


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


# A forked child inherits the handlers, and the socket by which a signal wakes the event loop: it
# would not end by a signal, and the parent would take the signal for its own. An executed program
# inherits neither.


def _before_fork() -> None:
    """Hold signals back that reach the child before it has its own handlers."""
    if _before:
        _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _after_fork() -> None:
    """Let the thread that has forked, or what it has become in the child, have signals again."""
    mask = getattr(_forking, "mask", None)
    if mask is not None:
        _forking.mask = None
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _in_child(handler: Any) -> Any:
    """The handler of before, as it is outside of the parent's event loop."""
    if handler is None:  # It was not installed from Python, and cannot be installed again.
        return signal.SIG_DFL
    runner = getattr(getattr(handler, "func", None), "__self__", None)
    # asyncio.run() takes the place of Python's own handler, and of no other.
    return signal.default_int_handler if isinstance(runner, asyncio.Runner) else handler


def _after_fork_in_child() -> None:
    """Give the child the handlers of before; what else is installed here is the parent's."""
    if _before:
        signal.set_wakeup_fd(-1)
        _restore({one: _in_child(handler) for one, handler in _before.items()})
        _before.clear()
        _waiting.clear()
        # Neither undone, for the loop is the parent's, nor collected, which would undo it.
        _of_parent.append(_installation.pop_all())
    # Its end of the socket; the parent's stays open.
    for supervisor in _supervisors:
        supervisor.close()
    _supervisors.clear()
    _after_fork()


_of_parent: Final[list[ExitStack]] = []

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork,
        after_in_child=_after_fork_in_child,
    )
