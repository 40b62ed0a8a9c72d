"""What ``jsonb @>`` says: whether one JSON value contains another."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

__all__ = ["matches"]


def matches(payload: str | None, match: str | None) -> bool:
    """Whether an event's payload contains what is waited for; without a match, any does.

    Args:
        payload: JSON text, or None.
        match: Likewise.
    """
    if match is None:
        return True
    if payload is None:
        return False
    whole, part = _decoded(payload), _decoded(match)
    # An array contains a scalar that it has; that holds at the top only.
    if isinstance(whole, list) and not isinstance(part, list | dict):
        return _contains(whole, [part])
    return _contains(whole, part)


def _decoded(text: str) -> Any:
    # Decimals compare as jsonb's numbers do.
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


def _contains(whole: Any, part: Any) -> bool:
    if type(whole) is not type(part):
        return False
    if isinstance(part, dict):
        fields: dict[str, Any] = part
        return all(key in whole and _contains(whole[key], fields[key]) for key in fields)
    if isinstance(part, list):
        items: list[Any] = part
        return all(any(_contains(one, other) for one in whole) for other in items)
    return bool(whole == part)
