"""Steps as they are recorded."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from pgconductor.domain.claims import Claim

__all__ = ["StepRecord"]


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A step that has ended, and is to be recorded.

    Attributes:
        execution_id: Its execution.
        claim: The owner that writes.
        key: Its name.
        result: Its result as JSON text, or None.
    """

    execution_id: UUID
    claim: Claim
    key: str
    result: str | None = None
