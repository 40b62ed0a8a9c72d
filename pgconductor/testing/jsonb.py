"""JSON text as ``jsonb`` has it: without spaces of its own, with its keys in another order."""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, TypeAlias

from pgconductor.exceptions import InvalidPayload

__all__ = ["as_jsonb"]

#: Beyond so many digits Postgres refuses a number; here it is left as it is.
_MOST_DIGITS: Final = 20_000


def as_jsonb(text: str | None, field: str) -> str | None:
    """JSON text as it is read from a ``jsonb`` column that it was written to.

    Args:
        text: JSON text; as in Postgres, its numbers may have any number of digits.
        field: What it is, for the error.

    Raises:
        InvalidPayload: It is no JSON; from Postgres it would be a ``DBAPIError``.
    """
    if text is None:
        return None
    try:
        value: _Json = json.loads(
            text, parse_int=_Number, parse_float=_Number, parse_constant=_refuse
        )
    except ValueError as error:
        raise InvalidPayload(f"is not JSON text: {error}", field) from error
    return _written(value)


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


def _written(value: _Json) -> str:
    if isinstance(value, dict):
        pairs = sorted(value.items(), key=_place)
        return "{" + ", ".join([f"{_written(key)}: {_written(one)}" for key, one in pairs]) + "}"
    if isinstance(value, list):
        return "[" + ", ".join([_written(one) for one in value]) + "]"
    return str(value) if isinstance(value, _Number) else json.dumps(value, ensure_ascii=False)


def _place(pair: tuple[str, _Json]) -> tuple[int, bytes]:
    """What jsonb sorts keys by; it would refuse lone surrogates, which the fake does not."""
    key = pair[0].encode("utf-8", "surrogatepass")
    return len(key), key


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
