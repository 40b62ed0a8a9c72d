"""Whether all that a handler has going does nothing but wait durably."""

from __future__ import annotations

import asyncio
import inspect
from asyncio import taskgroups, tasks
from collections.abc import Callable, Iterable
from typing import Any, Final

__all__ = ["all_wait"]

#: Where a coroutine of asyncio waits for tasks that it was given, and what they are called there.
_GIVEN: Final = {
    (taskgroups.__file__, "__aexit__"): "self",
    (taskgroups.__file__, "_aexit"): "self",
    (tasks.__file__, "_wait"): "fs",
    (tasks.__file__, "wait_for"): "fut",  # before Python 3.12
}


def all_wait(known: Iterable[asyncio.Task[Any]], waits: Callable[[Any], bool]) -> bool:
    """Whether tasks wait durably, or for tasks that do.

    What ``asyncio.gather``, ``asyncio.wait`` and ``TaskGroup`` wait for is looked at in turn. A
    task that waits for anything else, a socket for instance, is at work: it must not be cut off.

    Args:
        known: The tasks.
        waits: Whether a task or future is a durable wait.
    """
    seen: set[int] = set()
    return all(_waits(task, waits, seen) for task in known)


def _waits(one: Any, waits: Callable[[Any], bool], seen: set[int]) -> bool:
    if id(one) in seen or one.done() or waits(one):
        return True
    seen.add(id(one))
    children = _waited_for(one)
    # Whoever waits for nothing that is known is at work.
    return bool(children) and all(_waits(child, waits, seen) for child in children)


def _waited_for(one: Any) -> list[Any]:
    """What a task or a gathering waits for; nothing where that cannot be told."""
    if not _is_task(one):
        return [*getattr(one, "_children", ())]
    future: Any = getattr(one, "_fut_waiter", None)
    if future is None or future.done():
        return []
    if _is_task(future) or hasattr(future, "_children"):
        return [future]
    given = _given(one)
    return given if given is not None else [future]


def _is_task(one: object) -> bool:
    return isinstance(one, asyncio.Task)


def _given(task: asyncio.Task[Any]) -> list[Any] | None:
    """The tasks that a coroutine of asyncio waits for on behalf of this one, or None."""
    coroutine: Any = task.get_coro()
    while inspect.iscoroutine(getattr(coroutine, "cr_await", None)):
        coroutine = coroutine.cr_await
    code = getattr(coroutine, "cr_code", None)
    name = code and _GIVEN.get((code.co_filename, code.co_name))
    if not name or coroutine.cr_frame is None:
        return None
    found = coroutine.cr_frame.f_locals.get(name)
    return [found] if _is_task(found) else [*getattr(found, "_tasks", found or ())]
