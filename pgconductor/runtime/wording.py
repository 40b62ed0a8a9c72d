"""How errors are worded in log lines."""

from __future__ import annotations

__all__ = ["describe"]


def describe(error: BaseException) -> str:
    """An error in one line: many of the network's have no message at all."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
