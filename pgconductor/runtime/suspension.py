"""What ends a handler from inside: no ``Exception``, so that no handler swallows it."""

from __future__ import annotations

from typing import cast

from pgconductor.runtime.reasons import SUSPENDED

__all__ = ["Ending", "Interrupted", "Suspension", "consists_of", "holds"]


class Ending(BaseException):
    """Ends a handler that has not failed."""


class Interrupted(Ending):
    """Ends a handler at a boundary: because its process is to stop, it is cancelled, and so on.

    Args:
        why: One of :mod:`pgconductor.runtime.reasons`, or what else there is to say.
    """

    def __init__(self, why: str) -> None:
        super().__init__(why)


class Suspension(Ending):
    """Ends a handler because everything in it waits."""

    def __init__(self) -> None:
        super().__init__(SUSPENDED)


def holds(error: BaseException, kinds: type[BaseException] | tuple[type, ...]) -> bool:
    """Whether an error is of these kinds, or a group in which there is one."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return any(holds(one, kinds) for one in group.exceptions)
    return isinstance(error, kinds)


def consists_of(error: BaseException, kinds: type[BaseException] | tuple[type, ...]) -> bool:
    """Whether an error is of these kinds, or a group of such errors only, as a TaskGroup raises."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return all(consists_of(one, kinds) for one in group.exceptions)
    return isinstance(error, kinds)
