"""How long finished executions are kept, and what one look for old ones has come to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal, TypeAlias

from pgconductor.domain.limits import check_duration

__all__ = [
    "FOREVER",
    "RETAIN_COMPLETED",
    "RETAIN_EVENTS",
    "RETAIN_FAILED",
    "Keep",
    "Removal",
    "Retention",
]

#: As options and settings have it: a duration, or the word ``forever``.
Keep: TypeAlias = timedelta | Literal["forever"]
FOREVER: Final = "forever"
RETAIN_COMPLETED: Final = timedelta(days=7)
RETAIN_EVENTS: Final = timedelta(days=7)
RETAIN_FAILED: Final = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Retention:
    """How long executions are kept after they have finished, by the database's clock.

    Attributes:
        completed: Those that have completed; None for ever.
        failed: Those that have failed or were cancelled; None for ever.

    Raises:
        InvalidInput: One is no duration above zero, or longer than ten years.
    """

    completed: timedelta | None = RETAIN_COMPLETED
    failed: timedelta | None = RETAIN_FAILED

    def __post_init__(self) -> None:
        if self.completed is not None:
            check_duration(self.completed, "retain_completed")
        if self.failed is not None:
            check_duration(self.failed, "retain_failed")

    @classmethod
    def of(cls, completed: Keep, failed: Keep) -> Retention:
        """From what options and settings have."""
        return cls(
            None if completed == FOREVER else completed, None if failed == FOREVER else failed
        )

    def but(self, completed: Keep | None, failed: Keep | None) -> Retention:
        """The same, but for what is given.

        Args:
            completed: Replaces :attr:`completed`, unless it is None.
            failed: Replaces :attr:`failed`, unless it is None.

        Raises:
            InvalidInput: One is neither a duration nor ``"forever"``.
        """
        return Retention.of(
            (self.completed or FOREVER) if completed is None else completed,
            (self.failed or FOREVER) if failed is None else failed,
        )


@dataclass(frozen=True, slots=True)
class Removal:
    """One piece of a walk through the executions.

    Attributes:
        seen: How many executions were looked at.
        removed: How many of them were older than they are kept, and are gone.
        ended: Whether the walk has reached its end; the next begins later.
    """

    seen: int
    removed: int
    ended: bool
