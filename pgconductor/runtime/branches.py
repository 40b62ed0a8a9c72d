"""Whether all that a handler has going does nothing but wait durably."""

from __future__ import annotations

import asyncio
import inspect
from asyncio import taskgroups, tasks
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pgconductor.exceptions import ChildError, StepFailed, WaitTimeout
from pgconductor.runtime.suspension import Ending, consists_of

__all__ = ["Joints", "goes_on_by_itself", "joints", "look_at_ends"]

#: How a branch may end that nobody looks at: the handler is suspended, or told again by its replay.
_EXPECTED: Final = (Ending, StepFailed, ChildError, WaitTimeout)

#: Where a coroutine of asyncio waits for tasks that it was given, and what they are called there.
_GIVEN: Final = {
    (taskgroups.__file__, "__aexit__"): "self",
    (taskgroups.__file__, "_aexit"): "self",
    (tasks.__file__, "_wait"): "fs",
    (tasks.__file__, "wait_for"): "fut",  # before Python 3.12
}

#: Where a coroutine of asyncio waits for its time.
_SLEEP: Final = (tasks.__file__, "sleep")

#: What stands between the task and the handler in it, which it calls ``coroutine``.
_RELAY: Final = (str(Path(__file__).with_name("relay.py")), "__await__")


@dataclass(frozen=True, slots=True)
class Joints:
    """Where branches are joined.

    Attributes:
        futures: What ``gather`` and ``wait`` wait for: where an error of a branch is a value, it
            would not end whoever waits there.
        ended: The branches that have ended and are to be looked at there.
        passed: The tasks by way of which they are waited for.
        timed: What ``asyncio.wait`` waits for where it has a time limit.
    """

    futures: list[asyncio.Future[Any]] = field(default_factory=list[asyncio.Future[Any]])
    ended: list[asyncio.Future[Any]] = field(default_factory=list[asyncio.Future[Any]])
    passed: list[asyncio.Task[Any]] = field(default_factory=list[asyncio.Task[Any]], compare=False)
    timed: list[asyncio.Future[Any]] = field(
        default_factory=list[asyncio.Future[Any]], compare=False
    )


def joints(known: Iterable[asyncio.Task[Any]], waits: Callable[[Any], bool]) -> Joints | None:
    """Whether tasks wait durably, or for tasks that do, and where their branches are joined.

    What ``asyncio.gather``, ``asyncio.wait`` and ``TaskGroup`` wait for is looked at in turn. A
    task that waits for anything else, a socket for instance, is at work: it must not be cut off.

    Args:
        known: The tasks.
        waits: Whether a task or future is a durable wait.

    Returns:
        Where their branches are joined. None if some task is at work.
    """
    look = _Look(waits)
    return look.joints if all(look.waits(task) for task in known) else None


def look_at_ends(joined: Joints, known: Iterable[asyncio.Task[Any]]) -> None:
    """Have asyncio not complain that nobody has looked at how branches of a suspended handler end.

    Where ``gather`` or ``wait`` joins them, nobody comes to do so.

    Args:
        joined: Where they are joined.
        known: All tasks of the handler.
    """
    for branch in joined.ended:
        if not branch.cancelled():
            branch.exception()
    for task in {*known, *joined.passed}:
        # Of those that have ended, the others were looked at.
        if not task.done() or getattr(task, "_log_traceback", False):
            task.add_done_callback(_seen)


def _seen(task: asyncio.Task[Any]) -> None:
    """Tell how a branch has ended, if nobody else does."""
    if task.cancelled() or (error := task.exception()) is None or consists_of(error, _EXPECTED):
        return
    message = "a branch raised when its handler was suspended"
    task.get_loop().call_exception_handler({"message": message, "exception": error, "task": task})


def goes_on_by_itself(known: Iterable[asyncio.Task[Any]], waits: Callable[[Any], bool]) -> bool:
    """Whether a task is about to go on, sleeps by the real clock, or waits for a thread.

    What cannot be told may wait for another task, as at a semaphore, or for a socket.

    Args:
        known: The tasks.
        waits: Whether a task or future is a durable wait.
    """
    look = _Look(waits)
    for task in known:
        look.waits(task)
    return look.goes_on


class _Look:
    """One look at all branches."""

    def __init__(self, waits: Callable[[Any], bool]) -> None:
        self.joints = Joints()
        #: Whether anybody is sure to go on.
        self.goes_on = False
        self._is_wait = waits
        self._seen: set[int] = set()

    def waits(self, one: Any) -> bool:
        """Whether a task, or what it waits for, waits durably."""
        if id(one) in self._seen or one.done() or self._is_wait(one):
            return True
        self._seen.add(id(one))
        if _is_task(one):
            self.joints.passed.append(one)
        children = self._waited_for(one)
        self.joints.ended.extend(child for child in children if child.done())
        # Whoever waits for nothing that is known is at work.
        found = [self.waits(child) for child in children]
        return bool(found) and all(found)

    def _waited_for(self, one: Any) -> list[Any]:
        """What a task or a gathering waits for; nothing where that cannot be told."""
        if not _is_task(one):
            children = [*getattr(one, "_children", ())]
            if children:
                self.joints.futures.append(one)
            return children
        future: Any = getattr(one, "_fut_waiter", None)
        if future is None or future.done():
            self.goes_on = True
            return []
        if _is_task(future) or hasattr(future, "_children"):
            return [future]
        where, inside = _innermost(one)
        if where == _SLEEP or _of_thread(future):
            self.goes_on = True
        name, given = _given(where, inside)
        if name == "fs":
            self.joints.futures.append(future)
            if inside.cr_frame.f_locals.get("timeout_handle") is not None:
                self.joints.timed.append(future)
        return [future] if given is None else given


def _is_task(one: object) -> bool:
    return isinstance(one, asyncio.Task)


def _awaited(coroutine: Any) -> Any:
    """The coroutine that a coroutine waits for, if that is what it waits for."""
    awaited = getattr(coroutine, "cr_await", None)
    if inspect.isgenerator(awaited):
        code = awaited.gi_code
        if (code.co_filename, code.co_name) == _RELAY and awaited.gi_frame is not None:
            return awaited.gi_frame.f_locals["coroutine"]
    return awaited if inspect.iscoroutine(awaited) else None


def _innermost(task: asyncio.Task[Any]) -> tuple[tuple[str, str] | None, Any]:
    """Which coroutine a task is in by now, and where that is written."""
    coroutine: Any = task.get_coro()
    while (inner := _awaited(coroutine)) is not None:
        coroutine = inner
    code = getattr(coroutine, "cr_code", None)
    return code and (code.co_filename, code.co_name), coroutine


def _given(where: tuple[str, str] | None, coroutine: Any) -> tuple[str | None, list[Any] | None]:
    """What a coroutine of asyncio calls the tasks that it waits for on behalf of a task."""
    name = where and _GIVEN.get(where)
    if not name or coroutine.cr_frame is None:
        return None, None
    found = coroutine.cr_frame.f_locals.get(name)
    return name, [found] if _is_task(found) else [*getattr(found, "_tasks", found or ())]


def _of_thread(future: Any) -> bool:
    """Whether a thread sets it."""
    names = (getattr(one, "__qualname__", "") for one, _ in getattr(future, "_callbacks", ()) or ())
    return any(name.startswith("_chain_future.") for name in names)
