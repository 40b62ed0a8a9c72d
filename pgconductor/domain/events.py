"""What comes of an event that is emitted."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

__all__ = ["Emitted"]


@dataclass(frozen=True, slots=True)
class Emitted:
    """What came of an event that was emitted.

    Attributes:
        id: The event.
        created: False where a dedupe key led to one that was there already.
    """

    id: UUID
    created: bool = True
