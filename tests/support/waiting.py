"""Wait for a condition instead of for time to pass."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, overload

T = TypeVar("T")

#: How many statements of a test's revision sleep, in its own database.
ASLEEP = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    " AND query = 'SELECT pg_sleep(600)' AND state = 'active'"
)


@overload
async def eventually(
    predicate: Callable[[], Coroutine[Any, Any, T]],
    *,
    timeout: float = ...,
    interval: float = ...,
    message: str = ...,
) -> T: ...
@overload
async def eventually(
    predicate: Callable[[], T],
    *,
    timeout: float = ...,
    interval: float = ...,
    message: str = ...,
) -> T: ...
async def eventually(
    predicate: Callable[[], Any],
    *,
    timeout: float = 10.0,
    interval: float = 0.01,
    message: str = "",
) -> Any:
    """Ask until the answer is true, and return it.

    An AssertionError of the predicate counts as a no, so that it may be written with ``assert``.
    Every other exception is raised. A predicate that hangs is cut off by the timeout too.
    """
    deadline = time.monotonic() + timeout
    asked = 0
    last: object = "no answer at all"
    while True:
        try:
            async with asyncio.timeout(max(deadline - time.monotonic(), 0.001)):
                answer = predicate()
                answer = await answer if inspect.isawaitable(answer) else answer
            if answer:
                return answer
            last = repr(answer)
        except AssertionError as error:
            last = f"AssertionError: {error}"
        except TimeoutError:
            if time.monotonic() < deadline:
                raise  # The predicate's own.
        asked += 1
        if time.monotonic() >= deadline:
            what = message or getattr(predicate, "__qualname__", repr(predicate))
            raise AssertionError(
                f"Not within {timeout} s: {what}. Asked {asked} times; the last answer: {last}"
            )
        await asyncio.sleep(interval)
