"""Strict JSON: what Postgres stores is what was given, or an error says where it is not."""

from __future__ import annotations

import math
import re
from typing import Any, Final, cast

from pydantic_core import PydanticSerializationError, from_json, to_json

from pgconductor.exceptions import InvalidPayload, PayloadDecodeError

__all__ = [
    "DEFAULT_MAX_BYTES",
    "MAX_DEPTH",
    "decode",
    "encode",
    "encoded_strictly",
    "refuse_lone_surrogates",
]

MAX_DEPTH: Final = 64
DEFAULT_MAX_BYTES: Final = 256 * 1024
_MAX_INT: Final = 2**63 - 1
# No float has more digits before its point, and jsonb writes them all out.
_MANY_DIGITS: Final = re.compile(r"\d{309}", re.ASCII)
#: What may be none of what JSON and Postgres hold, for short texts.
_DOUBTFUL: Final = re.compile(rb"\\u0000|null|NaN|Infinity|\xef\xbf\xbd|[0-9]{19}")
#: As many digits as the largest integer of 64 bits has, wherever: all digits taken for zeros.
_LARGE: Final = b"0" * 19
_AS_ZEROS: Final = bytes.maketrans(b"123456789", b"000000000")
#: All but brackets and quotes.
_OTHERS: Final = bytes(set(range(256)) - set(b'[]{}"'))
_STRINGS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"')
_BRACKETS: Final = re.compile(rb"[\[\]{}]")
_Container = dict[Any, Any] | list[Any] | tuple[Any, ...]

#: How a field gets a type.
_TYPED: Final = {
    "payload": "declare the payload's type",
    "result": "hint what the function returns",
}


def encode(value: object, *, max_bytes: int = DEFAULT_MAX_BYTES, field: str = "payload") -> str:
    """Encode a plain JSON value as text.

    Args:
        value: None, bool, int, float, str, or lists, tuples and str-keyed dicts of these.
        max_bytes: Largest size of the encoded text, in bytes.
        field: The argument's name, for the error.

    Returns:
        The JSON text.

    Raises:
        InvalidPayload: Something in it is not JSON, or Postgres would not store it as it is:
            NUL, lone surrogate, NaN, infinity, integer beyond 64 bits, nested deeper than 64,
            or larger than ``max_bytes``. The message gives the path to it.
    """
    encoded = _at_a_glance(value)
    if encoded is None:
        _check(value, field)
        encoded = to_json(value)
    if len(encoded) > max_bytes:
        raise InvalidPayload(
            f"is {len(encoded)} bytes as JSON, the limit is {max_bytes}; store the data elsewhere "
            "and pass a reference, or raise the limit in the settings",
            field,
        )
    return encoded.decode()


def _at_a_glance(value: object) -> bytes | None:
    """The JSON of a value that is read from it again; None where only the walk can tell.

    Where both are the same, nothing in it was a set, a number that is not finite, a key that is not
    a string, or anything else that pydantic writes as something that it is not.
    """
    try:
        encoded = to_json(value, inf_nan_mode="constants")
        if _is_unstorable(encoded) or _is_deep(encoded):
            return None
        return encoded if from_json(encoded, allow_inf_nan=False) == value else None
    except (PydanticSerializationError, ValueError, RecursionError):
        return None  # The walk says where.


def refuse_lone_surrogates(root: object, field: str) -> None:
    """Raise if a string somewhere in plain containers holds one; pydantic replaces it in keys.

    Raises:
        InvalidPayload: One does.
    """
    todo = [root]
    while todo:
        value = todo.pop()
        if isinstance(value, str):
            _check_str(value, "some place", field)
        elif isinstance(value, dict):
            parts = cast("dict[object, object]", value)
            todo += [*parts.keys(), *parts.values()]
        elif isinstance(value, list | tuple | set | frozenset):
            todo += cast("list[object]", value)


def encoded_strictly(encoded: bytes, *, max_bytes: int) -> str | None:
    """JSON that pydantic has written, as text, if it is certain that :func:`encode` would take it.

    A look at the bytes costs less than a walk through the value. Whatever looks as if it might be
    something that JSON or Postgres cannot hold is left to the walk, which knows, and says where.

    Args:
        encoded: JSON as pydantic writes it.
        max_bytes: Largest size.

    Returns:
        The text, or None where only :func:`encode` can tell.
    """
    size = len(encoded)
    if size <= 2 * MAX_DEPTH and size <= max_bytes:
        # So short that it is not deep either, and one search costs less than several.
        return None if _DOUBTFUL.search(encoded) is not None else encoded.decode()
    if size > max_bytes or _is_unstorable(encoded):
        return None
    # What stands for numbers that are not finite.
    if b"null" in encoded or b"NaN" in encoded or b"Infinity" in encoded:
        return None
    return None if _is_deep(encoded) else encoded.decode()


def _is_unstorable(encoded: bytes) -> bool:
    """Whether there may be a NUL, half of a surrogate pair, or an integer beyond 64 bits."""
    return (
        b"\\u0000" in encoded
        or b"\xef\xbf\xbd" in encoded
        or (len(encoded) >= len(_LARGE) and _LARGE in encoded.translate(_AS_ZEROS))
    )


def _is_deep(encoded: bytes) -> bool:
    """Whether JSON is nested deeper than it may be."""
    # Each level opens and closes, and most values have fewer brackets than there may be levels.
    if len(encoded) <= 2 * MAX_DEPTH or encoded.count(b"[") + encoded.count(b"{") <= MAX_DEPTH:
        return False
    left = encoded.translate(None, _OTHERS).replace(b'""', b"")
    if b"\\" not in encoded and b'"' not in left:
        # No bracket is in a string: each round takes away the innermost level.
        for _ in range(MAX_DEPTH):
            left = left.replace(b"[]", b"").replace(b"{}", b"")
            if not left:
                return False
        return True
    depth = deepest = 0
    for bracket in _BRACKETS.findall(_STRINGS.sub(b"", encoded)):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest > MAX_DEPTH


def decode(text: str | None) -> Any:
    """Decode JSON text that the database returned; None stays None.

    Raises:
        PayloadDecodeError: It cannot be read, for instance a number with thousands of digits.
    """
    if text is None:
        return None
    try:
        # No walk as in encode(): jsonb holds no NUL, no lone surrogate and no NaN.
        value = from_json(text, allow_inf_nan=False)
        if _MANY_DIGITS.search(text):
            # A fraction beyond every float is read as infinity, without complaint.
            _refuse_infinity(value)
        return value
    except (ValueError, RecursionError) as error:
        raise PayloadDecodeError(f"the stored JSON cannot be read: {error}") from error


def _refuse_infinity(root: Any) -> None:
    todo = [root]
    while todo:
        value = todo.pop()
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("a number is larger than any float")
        if isinstance(value, dict):
            todo.extend(value.values())  # pyright: ignore[reportUnknownArgumentType] - plain JSON
        elif isinstance(value, list):
            todo.extend(value)  # pyright: ignore[reportUnknownArgumentType] - plain JSON


def _check(root: object, field: str) -> None:
    """Walk ``root`` without recursion; raise at the first value that is not strict JSON."""
    todo: list[tuple[object, str, int]] = [(root, "$", 1)]
    while todo:
        value, path, depth = todo.pop()
        if value is None or value is True or value is False:
            continue
        if isinstance(value, str):
            _check_str(value, path, field)
        elif isinstance(value, int):
            if not -_MAX_INT - 1 <= value <= _MAX_INT:
                raise InvalidPayload(
                    f"integer beyond 64 bits at {path}; send it as a string", field
                )
        elif isinstance(value, float):
            if not math.isfinite(value):
                raise InvalidPayload(f"non-finite number ({value}) at {path}", field)
        elif isinstance(value, (dict, list, tuple)):
            if depth > MAX_DEPTH:
                raise InvalidPayload(f"nested deeper than {MAX_DEPTH} at {path[:80]}", field)
            _push_children(value, path, depth, field, todo)  # pyright: ignore[reportUnknownArgumentType]  # checked there
        else:
            way = f", or {_TYPED[field]} so that pydantic converts it" if field in _TYPED else ""
            raise InvalidPayload(
                f"{type(value).__name__} at {path} is not JSON; convert it{way}", field
            )


def _push_children(
    value: _Container,
    path: str,
    depth: int,
    field: str,
    todo: list[tuple[object, str, int]],
) -> None:
    if isinstance(value, dict):
        for key, child in value.items():
            if not isinstance(key, str):
                raise InvalidPayload(f"key {key!r} at {path} is not a string", field)
            _check_str(key, f"{path} (a key)", field)
            todo.append((child, f"{path}.{key}", depth + 1))
    else:
        for index, child in enumerate(value):
            todo.append((child, f"{path}[{index}]", depth + 1))


def _check_str(value: str, path: str, field: str) -> None:
    if "\x00" in value:
        raise InvalidPayload(f"NUL character at {path}, which Postgres cannot store", field)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InvalidPayload(f"lone surrogate at {path}", field) from error
