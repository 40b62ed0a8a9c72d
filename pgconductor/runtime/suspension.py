"""What ends a handler from inside: no ``Exception``, so that no handler swallows it."""

from __future__ import annotations

from pgconductor.domain.failures import leaves
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
    return any(isinstance(one, kinds) for one in leaves(error))


def consists_of(error: BaseException, kinds: type[BaseException] | tuple[type, ...]) -> bool:
    """Whether an error is of these kinds, or a group of such errors only, as a TaskGroup raises."""
    return all(isinstance(one, kinds) for one in leaves(error))
