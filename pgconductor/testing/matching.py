"""What ``jsonb @>`` says: whether one JSON value contains another."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TypeAlias

__all__ = ["matches"]

_Json: TypeAlias = dict[str, "_Json"] | list["_Json"] | str | Decimal | bool | None


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


def _decoded(text: str) -> _Json:
    # Decimals compare as jsonb's numbers do.
    value: _Json = json.loads(text, parse_float=Decimal, parse_int=Decimal)
    return value


def _contains(whole: _Json, part: _Json) -> bool:
    if isinstance(whole, dict) and isinstance(part, dict):
        return all(key in whole and _contains(whole[key], part[key]) for key in part)
    if isinstance(whole, list) and isinstance(part, list):
        return all(any(_contains(one, other) for one in whole) for other in part)
    return type(whole) is type(part) and whole == part
