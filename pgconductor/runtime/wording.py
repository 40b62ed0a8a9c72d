"""How errors are worded in log lines."""

from __future__ import annotations

from typing import Final

from pgconductor.domain.failures import message_of, name_of
from pgconductor.domain.steps import Recorded
from pgconductor.services.backend import Backend

__all__ = ["RACED", "describe", "shown", "trouble"]

_MOST: Final = 2_000

#: Why a handler with branches may do something else.
RACED: Final = (
    "The handler was changed since; or its branches race, and what decides is not on record: "
    "decide it by ctx.first()."
)


def describe(error: BaseException) -> str:
    """An error in one line: many of the network's have no message at all."""
    text = message_of(error, _MOST).strip().splitlines()
    return f"{name_of(error)}: {text[0]}" if text else name_of(error)


def trouble(error: BaseException) -> str:
    """What kind of trouble a transient error means, and the error, in one line."""
    return f"{Backend.trouble(error)}: {describe(error)}"


def shown(one: Recorded) -> str:
    """What is on record, in a few words."""
    about = f" ({one.detail})" if one.detail else ""
    return f"{one.kind.value} {one.key!r}{about}"
