"""Pauses between tries that grow and are never the same for two."""

from __future__ import annotations

import random
from dataclasses import dataclass

__all__ = ["Backoff"]


@dataclass(slots=True)
class Backoff:
    """Exponential backoff with full jitter.

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

    Attributes:
        first: The first pause is at most this many seconds.
        longest: And none is longer than this.
    """

    first: float = 0.1
    longest: float = 10.0
    _tries: int = 0

    def next(self) -> float:
        """The next pause, in seconds."""
        ceiling = min(self.first * 2.0 ** min(self._tries, 32), self.longest)
        self._tries += 1
        return random.uniform(0.0, ceiling)  # noqa: S311 - no secret

    def reset(self) -> None:
        """Start anew, after a success."""
        self._tries = 0
