"""Steps as they are recorded."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from pgconductor.domain.claims import Claim
from pgconductor.domain.limits import check_text
from pgconductor.exceptions import InvalidName

__all__ = ["MAX_STEP_KEY_BYTES", "StepRecord", "check_step_key"]

MAX_STEP_KEY_BYTES = 512


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


def check_step_key(key: object, field: str = "key") -> str:
    """Return ``key`` if it may name a step: 1 to 512 bytes, no control characters.

    Raises:
        InvalidName: It is empty, too long, or holds a control character.
        InvalidInput: It is not a string that Postgres can store.
    """
    text = check_text(key, field)
    if not text.strip():
        raise InvalidName(field, "is empty; a step is remembered by its name")
    if len(text.encode()) > MAX_STEP_KEY_BYTES:
        raise InvalidName(field, f"is longer than {MAX_STEP_KEY_BYTES} bytes")
    if not text.isprintable():
        raise InvalidName(field, "holds a control or otherwise invisible character")
    return text
