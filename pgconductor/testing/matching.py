"""What ``jsonb @>`` says: whether one JSON value contains another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from functools import lru_cache
from typing import TypeAlias

__all__ = ["Json", "Paths", "decoded", "matches", "paths_of", "values_at"]

Json: TypeAlias = dict[str, "Json"] | list["Json"] | str | Decimal | bool | None
Paths: TypeAlias = tuple[tuple[str, ...], ...]


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
    whole, part = decoded(payload), decoded(match)
    # An array contains a scalar that it has; that holds at the top only.
    if isinstance(whole, list) and not isinstance(part, list | dict):
        return _contains(whole, [part])
    return _contains(whole, part)


@lru_cache(maxsize=8192)
def decoded(text: str) -> Json:
    """JSON text as values that compare as jsonb's do; not to be changed."""
    # Decimals compare as jsonb's numbers do.
    value: Json = json.loads(text, parse_float=Decimal, parse_int=Decimal)
    return value


def paths_of(match: Json) -> Paths:
    """The paths through objects to the plain values of what is to be matched.

    Args:
        match: What a wait is to match; without an object there are none.
    """
    if not isinstance(match, dict):
        return ()
    return tuple(sorted(_paths_in(match, ())))


def _paths_in(part: dict[str, Json], path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for key, value in part.items():
        if isinstance(value, dict):
            yield from _paths_in(value, (*path, key))
        elif not isinstance(value, list):
            yield (*path, key)


def values_at(payload: Json, paths: Paths) -> tuple[object, ...]:
    """What is at these paths, to be compared: payloads that differ here do not match.

    Args:
        payload: Of an event, or a match.
        paths: From :func:`paths_of`.
    """
    return tuple(_value_at(payload, path) for path in paths)


def _value_at(value: Json, path: tuple[str, ...]) -> object:
    for key in path:
        if not isinstance(value, dict) or key not in value:
            return None
        value = value[key]
    return None if isinstance(value, dict | list) else value


def _contains(whole: Json, part: Json) -> bool:
    if isinstance(whole, dict) and isinstance(part, dict):
        return all(key in whole and _contains(whole[key], part[key]) for key in part)
    if isinstance(whole, list) and isinstance(part, list):
        return all(any(_contains(one, other) for one in whole) for other in part)
    return type(whole) is type(part) and whole == part
