"""How errors are worded in log lines."""

from __future__ import annotations

from typing import Final

from pgconductor.domain.failures import message_of, name_of

__all__ = ["describe"]

_MOST: Final = 2_000


def describe(error: BaseException) -> str:
    """An error in one line: many of the network's have no message at all."""
    text = message_of(error, _MOST).strip().splitlines()
    return f"{name_of(error)}: {text[0]}" if text else name_of(error)
