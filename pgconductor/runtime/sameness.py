"""Whether a value that was read is the one that was written."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Final, cast
from uuid import UUID

from pydantic import BaseModel

__all__ = ["difference"]

_ABSENT: Final = object()
#: A subclass of these is read as the class itself, which the type asks for.
_LEAVES: Final = (str, int, float, bytes, Decimal, date, datetime, time, timedelta, UUID)
_Pair = tuple[Any, Any, str]


def difference(written: object, read: object, *, plainly: bool) -> str | None:
    """What is not the same in two values; None if all is.

    Order counts in what has an order, and types count: a date is not its text, and a subclass of a
    model is another type. An instance of a subclass of ``str``, ``datetime`` and the like is the
    same as an equal one of the class itself. Whole numbers and equal fractions are the same.

    Args:
        written: One value.
        read: The other one.
        plainly: Whether a tuple may come back as a list, and a member of an enumeration as the text
            or number that it is, as in plain JSON.
    """
    todo: list[_Pair] = [(written, read, "$")]
    while todo:
        one, other, path = todo.pop()
        if one is other:
            continue
        if isinstance(one, float) and not math.isfinite(one) and not _both_nan(one, other):
            if one != other:
                return f"non-finite number ({one}) at {path}"
            continue
        if type(one) is not type(other) and not _akin(one, other, plainly=plainly):
            return f"{type(one).__name__} at {path[:80]} would come back as {type(other).__name__}"
        parts = _parts(one, other, path)
        if parts is None:
            return f"{type(one).__name__} at {path[:80]} would not come back as it is"
        todo += reversed(parts)
    return None


def _akin(one: object, other: object, *, plainly: bool) -> bool:
    kind = type(other)
    if isinstance(one, Enum):
        return plainly and kind in (str, int) and isinstance(one, kind)
    if isinstance(one, int | float) and not isinstance(one, bool) and kind in (int, float):
        return True
    if kind in _LEAVES:
        return isinstance(one, kind)
    if plainly and kind is list:
        return isinstance(one, list | tuple)
    return plainly and kind is dict and isinstance(one, dict)


def _parts(one: Any, other: Any, path: str) -> list[_Pair] | None:
    """The parts of two values of one type, in pairs; None if the values are not the same."""
    match one:
        case dict():
            return _items(cast("Any", one), other, path)
        case list() | tuple() | deque():
            return _places(cast("list[Any]", one), other, path)
        case set() | frozenset():
            elements = cast("set[Any]", one)
            same = elements == other and _types(elements) == _types(other)
        case Iterator():
            same = True  # It has been written, and nothing is left of it to compare.
        case _:
            names = _names(one)
            if names is not None:
                return _attributes(one, other, names, path)
            same = _equal(one, other)
    return [] if same else None


def _places(one: list[Any], other: list[Any], path: str) -> list[_Pair] | None:
    if len(one) != len(other):
        return None
    return [(a, b, f"{path}[{place}]") for place, (a, b) in enumerate(zip(one, other, strict=True))]


def _names(one: Any) -> list[str] | None:
    """What an object consists of; None where it says itself what it equals."""
    if isinstance(one, BaseModel):
        return [*type(one).model_fields, *(one.model_extra or {})]
    if is_dataclass(one) and not isinstance(one, type):
        return [field.name for field in fields(one) if field.compare]
    compares: Any = type(one).__eq__
    if compares is object.__eq__ and not isinstance(one, Enum):
        return [*vars(one)]
    return None


def _attributes(one: Any, other: Any, names: list[str], path: str) -> list[_Pair] | None:
    if isinstance(one, BaseModel) and len(one.model_extra or {}) != len(other.model_extra or {}):
        return None
    return [
        (getattr(one, name, _ABSENT), getattr(other, name, _ABSENT), f"{path}.{name}")
        for name in names
    ]


def _items(one: dict[Any, Any], other: dict[Any, Any], path: str) -> list[_Pair] | None:
    """Keys with keys and values with values: both are in the order in which they were written."""
    if len(one) != len(other):
        return None
    pairs: list[_Pair] = []
    for (key, value), (other_key, other_value) in zip(one.items(), other.items(), strict=True):
        name = f"{path}.{key}"
        pairs += [(key, other_key, f"{name} (a key)"), (value, other_value, name)]
    return pairs


def _types(values: set[Any] | frozenset[Any]) -> set[tuple[Any, type]]:
    return {(value, type(value)) for value in values}


def _both_nan(one: float, other: object) -> bool:
    return math.isnan(one) and isinstance(other, float) and math.isnan(other)


def _equal(one: Any, other: Any) -> bool:
    if _is_aware(one) and _is_aware(other):
        # Two zones never agree on an hour that the clock shows twice.
        return bool(one.astimezone(UTC) == other.astimezone(UTC))
    if isinstance(one, Decimal) and one.is_nan():
        return bool(other.is_nan())
    if isinstance(one, float) and isinstance(other, int):
        # The digits of a large float are known only so far.
        return one == float(other)
    return bool(one == other)


def _is_aware(value: object) -> bool:
    return isinstance(value, datetime) and value.utcoffset() is not None
