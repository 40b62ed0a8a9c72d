"""Child processes that are forked: they inherit connections that stay their parent's."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["disown_engine", "in_forked_child"]

T = TypeVar("T")

_owners: Final[WeakKeyDictionary[Any, Callable[[Any], list[object]]]] = WeakKeyDictionary()
#: Never collected: the finalizers of connections would end them, and take the sockets from the
#: parent's event loop, which has the same list of sockets.
_of_parent: Final[list[object]] = []


def in_forked_child(owner: T, disown: Callable[[T], list[object]]) -> None:
    """Have an object give up, in each child process that is forked, what belongs to the parent.

    Args:
        owner: Remembered as long as it lives.
        disown: Takes the owner and returns what it had. It must neither use nor close it.
    """
    _owners[owner] = disown


def disown_engine(engine: AsyncEngine) -> object:
    """Have an engine begin with an empty pool, and return the one that it had.

    Args:
        engine: Whose connections are the parent's.
    """
    pool = engine.sync_engine.pool
    engine.sync_engine.dispose(close=False)
    return pool


def _after_fork_in_child() -> None:
    for owner, disown in list(_owners.items()):
        _of_parent.extend(disown(owner))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
