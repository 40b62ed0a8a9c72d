"""JSON text in memory, as a ``jsonb`` column of Postgres would take it and give it back."""

from __future__ import annotations

from typing import Final

from pgconductor.domain.jsonb import rewritten
from pgconductor.exceptions import InvalidPayload

__all__ = ["as_jsonb"]

#: What the tables' constraints allow.
_MAX_BYTES: Final = 8 * 1024 * 1024


def as_jsonb(text: str | None, field: str) -> str | None:
    """JSON text as it is read from a ``jsonb`` column that it was written to.

    Args:
        text: JSON text; as in Postgres, its numbers may have any number of digits.
        field: What it is, for the error.

    Raises:
        InvalidPayload: It is no JSON, or Postgres could not store it; from Postgres that would be a
            ``DBAPIError``.
    """
    if text is None:
        return None
    try:
        stored = rewritten(text)
    except (ValueError, RecursionError) as error:
        raise InvalidPayload(f"is not JSON text: {error}", field) from error
    if len(stored.encode()) > _MAX_BYTES:
        raise InvalidPayload(f"is longer than {_MAX_BYTES} bytes as JSON", field)
    return stored
