"""Threads for plain functions, which do not keep the process from ending."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Final, NoReturn, ParamSpec, TypeVar

__all__ = ["Call", "DaemonThreads", "Threads", "current_call", "in_thread"]

P = ParamSpec("P")
T = TypeVar("T")

_Work = Callable[[], None]

logger = logging.getLogger("pgconductor.worker")

#: How many calls that nobody waits for any more have threads beside the others.
_MOST_LEFT: Final = 100
#: How many calls that wait in their threads have threads beside the others.
_MOST_LENT: Final = 1_000


class Call:
    """A call that has a thread, or is to have one.

    Attributes:
        waits: For how many things it may wait in its thread: calls that it has made, and the event
            loop.
        lent: Whether there is a thread beside the others instead of its own.
    """

    def __init__(self) -> None:
        self.waits = 0
        self.lent = False


#: By whom what goes on here is waited for, in one of the threads.
_call: Final[ContextVar[Call | None]] = ContextVar("pgconductor_call", default=None)


def current_call() -> Call | None:
    """The call that this goes on in; None outside of the threads."""
    return _call.get()


def in_thread(
    function: Callable[..., T], /, *args: Any, **kwargs: Any
) -> tuple[Call, Callable[[], T]]:
    """What to submit: a function in a copy of this context, which tells that a thread is held.

    Args:
        function: What is called.
        args: What to call it with.
        kwargs: Likewise.
    """
    call = Call()
    context = copy_context()
    context.run(_call.set, call)
    return call, lambda: context.run(function, *args, **kwargs)


@dataclass(frozen=True, slots=True)
class Threads:
    """The threads of a process. Handlers and steps share none, so that neither waits for the other.

    Attributes:
        handlers: Each plain handler in memory has one of these, also while it waits.
        steps: Here plain functions of steps are called.
    """

    handlers: DaemonThreads
    steps: DaemonThreads

    @classmethod
    def of(cls, *, handlers: int, steps: int) -> Threads:
        """Make both pools.

        Args:
            handlers: How many plain handlers may be in memory.
            steps: How many plain functions of steps are called at once.
        """
        return cls(DaemonThreads(handlers, "handler"), DaemonThreads(steps, "step"))

    def shutdown(self) -> None:
        """Take no more calls."""
        self.handlers.shutdown()
        self.steps.shutdown()


class DaemonThreads(Executor):
    """A pool of daemon threads.

    The standard library's pool joins its threads when the interpreter ends: one handler that never
    returns would keep a process alive that has long given its execution back and left.

    Args:
        most: How many threads at once; they are started as they are needed, and kept. While a call
            waits in its thread for others that it has made, or for the event loop, there is one
            beside it for them: or all might wait for ever. So there is for a call for which nobody
            waits any more, because its time was up: no other function is to be held up by one that
            never returns.
        name: What is called in them.
    """

    def __init__(self, most: int, name: str = "handler") -> None:
        self._most = most
        self._name = name
        self._calls: SimpleQueue[_Work | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._started = 0
        # Calls that no thread has taken, and threads that have none. A thread that takes a call
        # without waiting for it counts as idle until then: so both are right together.
        self._queued = 0
        self._idle = 0
        self._left = 0
        self._lent = 0
        self._closed = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call a function in a thread, as soon as one is free.

        Raises:
            RuntimeError: The pool was shut down.
        """
        future: _Watched[T] = _Watched(lambda: self._leave(future))
        holder = _call.get()

        def call() -> None:
            _settle(future, lambda: fn(*args, **kwargs))
            with self._lock:
                self._most -= future.left
                self._left -= future.left
                if holder is not None:
                    self._came(holder)

        with self._lock:
            if self._closed:
                raise RuntimeError(f"the threads of {self._name}s have been shut down")
            if holder is not None:
                self._waits(holder)
            self._queued += 1
            try:
                self._start()
            except RuntimeError:
                self._queued -= 1
                if holder is not None:
                    self._came(holder)
                raise
            self._calls.put(call)
        return future

    @contextmanager
    def waiting(self, call: Call) -> Generator[None]:
        """While inside, a call waits in its thread for the event loop.

        Args:
            call: The call.
        """
        with self._lock:
            self._waits(call)
            self._start()
        try:
            yield
        finally:
            with self._lock:
                self._came(call)

    def _waits(self, call: Call) -> None:
        call.waits += 1
        if not call.lent and self._lent < _MOST_LENT:
            call.lent = True
            self._lent += 1
            self._most += 1

    def _came(self, call: Call) -> None:
        call.waits -= 1
        if call.lent and call.waits == 0:
            call.lent = False
            self._lent -= 1
            self._most -= 1

    def _start(self) -> None:
        if self._queued > self._idle and self._started < self._most:
            name = f"pgconductor-{self._name}-{self._started + 1}"
            try:
                threading.Thread(target=self._work, name=name, daemon=True).start()
            except RuntimeError:
                # The system gives no more. There are others, or else nobody will ever come.
                if self._started == 0:
                    raise
                return
            self._started += 1
            self._idle += 1

    def _leave(self, future: _Watched[Any]) -> None:
        """Nobody waits for a call any more that is under way."""
        with self._lock:
            if future.left or not future.running() or self._left >= _MOST_LEFT or self._closed:
                return
            future.left = True
            self._left += 1
            self._most += 1
            self._start()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            with self._lock:
                self._idle -= 1
                self._queued -= 1
            call()
            del call  # Not to be kept until the next one comes: it holds payload and result.
            with self._lock:
                if self._started > self._most:
                    self._started -= 1
                    return
                self._idle += 1

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; threads end when theirs has returned. Nobody waits for them."""
        del wait, cancel_futures
        with self._lock:
            if not self._closed:
                self._closed = True
                for _ in range(self._started):
                    self._calls.put(None)


class _Watched(Future[T]):
    """The result of a call, which tells when nobody waits for it any more.

    Args:
        leave: Called then.
    """

    def __init__(self, leave: Callable[[], None]) -> None:
        super().__init__()
        #: Whether there is a thread beside the others instead of its own.
        self.left = False
        self._on_left = leave

    def cancel(self) -> bool:
        cancelled = super().cancel()
        if not cancelled:
            self._on_left()
        return cancelled


def _settle(future: Future[Any], call: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = _called(call)
    except StopIteration as error:
        # asyncio cannot hand it on: whoever awaits the call would wait for ever.
        wrapped = RuntimeError("the handler raised StopIteration")
        wrapped.__cause__ = error
        future.set_exception(wrapped)
    except BaseException as error:  # noqa: BLE001 - a handler may raise anything at all
        future.set_exception(error)
    else:
        future.set_result(result)


def _called(call: Callable[[], T]) -> T:
    """What a call returns, in the process that it was made in."""
    process = os.getpid()
    try:
        result = call()
    except BaseException as error:
        if os.getpid() != process:
            _end_child(error)
        raise
    if os.getpid() != process:
        _end_child(None)
    return result


def _end_child(error: BaseException | None) -> NoReturn:
    """End a child process that a handler has forked; what called the handler is its parent's."""
    code = error.code if isinstance(error, SystemExit) else 1
    if not isinstance(error, SystemExit):
        logger.error(
            "a child process that a handler has forked goes on in the handler: it is ended here; "
            "have it end by os._exit(), or use multiprocessing or subprocess",
            exc_info=error,
        )
    os._exit(code if isinstance(code, int) else code is not None)
