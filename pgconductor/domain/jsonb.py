"""JSON text as ``jsonb`` has it: without spaces of its own, with its keys in another order."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, TypeAlias

__all__ = ["expanded", "rewritten"]

#: Beyond so many digits Postgres refuses a number; here it is left as it is.
_MOST_DIGITS: Final = 20_000
_EXPONENT: Final = re.compile(r"\d[eE][+-]?\d", re.ASCII)


def rewritten(text: str) -> str:
    """JSON text as it is read from a ``jsonb`` column that it was written to.

    Args:
        text: JSON text; as in Postgres, its numbers may have any number of digits.

    Raises:
        ValueError: It is no JSON, or holds a NUL or half of a surrogate pair.
        RecursionError: It is nested too deeply.
    """
    return _written(_read(text), in_order=True)


def expanded(text: str) -> str:
    """JSON text with its numbers as ``jsonb`` has them: without exponents.

    A large float is a whole number there, and may be read as one. The order of keys is left alone.
    """
    return _written(_read(text), in_order=False) if _EXPONENT.search(text) else text


def _read(text: str) -> _Json:
    value: _Json = json.loads(text, parse_int=_Number, parse_float=_Number, parse_constant=_refuse)
    return value


@dataclass(frozen=True, slots=True)
class _Number:
    """A number as it was written."""

    text: str

    def __str__(self) -> str:
        """Without exponent, with the digits that it was given, and never a negative zero."""
        if self.text.isdecimal():
            return self.text
        try:
            number = Decimal(self.text)
        except ArithmeticError:
            return self.text
        exponent = number.as_tuple().exponent
        if not isinstance(exponent, int) or abs(exponent) > _MOST_DIGITS:
            return self.text
        if number == 0:
            # Zeros before the point come to nothing.
            number = number.copy_abs() if exponent < 0 else Decimal(0)
        return format(number, "f")


_Json: TypeAlias = "dict[str, _Json] | list[_Json] | _Number | str | bool | None"


def _written(value: _Json, *, in_order: bool) -> str:
    if isinstance(value, dict):
        pairs = sorted(value.items(), key=_place) if in_order else value.items()
        parts = [f"{_quoted(key)}: {_written(one, in_order=in_order)}" for key, one in pairs]
        return "{" + ", ".join(parts) + "}"
    if isinstance(value, list):
        return "[" + ", ".join([_written(one, in_order=in_order) for one in value]) + "]"
    if isinstance(value, str):
        return _quoted(value)
    return str(value) if isinstance(value, _Number) else json.dumps(value)


def _quoted(text: str) -> str:
    if "\x00" in text:
        raise ValueError("a NUL character, which Postgres cannot store")
    text.encode()
    return json.dumps(text, ensure_ascii=False)


def _place(pair: tuple[str, _Json]) -> tuple[int, bytes]:
    """What jsonb sorts keys by."""
    key = pair[0].encode()
    return len(key), key


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
