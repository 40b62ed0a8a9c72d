"""What ends a handler from inside: no ``Exception``, so that no handler swallows it."""

from __future__ import annotations

from typing import Final

from pgconductor.domain.failures import leaves

__all__ = ["LATE", "Ending", "Interrupted", "Suspension", "consists_of", "holds"]


class Ending(BaseException):
    """Ends a handler that has not failed."""


class Interrupted(Ending):
    """Ends a handler at a boundary, because its process is to stop or it is cancelled."""


#: Why something cannot be begun, or go on, behind the end of its handler.
LATE: Final = "the attempt has ended: a handler must await what it begins"


class Suspension(Ending):
    """Ends a handler because everything in it waits."""


def holds(error: BaseException, kinds: type[BaseException] | tuple[type, ...]) -> bool:
    """Whether an error is of these kinds, or a group in which there is one."""
    return any(isinstance(one, kinds) for one in leaves(error))


def consists_of(error: BaseException, kinds: type[BaseException] | tuple[type, ...]) -> bool:
    """Whether an error is of these kinds, or a group of such errors only, as a TaskGroup raises."""
    return all(isinstance(one, kinds) for one in leaves(error))
