"""Repositories on a sync connection, for what must be called where nothing can be awaited."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from sqlalchemy import Connection, CursorResult, Executable

__all__ = ["BlockingExecutor", "at_once"]

T = TypeVar("T")


class BlockingExecutor:
    """A sync connection as the repositories want it: each statement is answered before it returns.

    So nothing that is built on it alone ever waits in an ``await``; see :func:`at_once`. Under
    SQLAlchemy's own bridge, in ``run_sync``, the loop goes on meanwhile.

    Args:
        connection: Where the statements go.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def execute(
        self, statement: Executable, parameters: Mapping[str, Any] | None = None
    ) -> CursorResult[Any]:
        """Execute a statement."""
        return self._connection.execute(statement, parameters)


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that has nothing to wait for.

    Args:
        coroutine: Built on a :class:`BlockingExecutor` alone.

    Raises:
        RuntimeError: It waits for something.
    """
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise RuntimeError("the coroutine waits, where nothing can be awaited")
