"""How errors are worded in log lines."""

from __future__ import annotations

from pgconductor.services.backend import Backend

__all__ = ["describe", "trouble"]


def describe(error: BaseException) -> str:
    """An error in one line: many of the network's have no message at all."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def trouble(error: BaseException) -> str:
    """What kind of trouble a transient error means, and the error, in one line."""
    return f"{Backend.trouble(error)}: {describe(error)}"
