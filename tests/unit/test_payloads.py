"""Strict JSON: the table of bad inputs in the reliability design, and what must go through."""

from __future__ import annotations

import enum
import json
import math
from collections import Counter, OrderedDict, namedtuple
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter

from pgconductor.domain.payloads import DEFAULT_MAX_BYTES, MAX_DEPTH, decode, encode
from pgconductor.exceptions import InvalidPayload, PayloadDecodeError
from pgconductor.runtime.codec import Codec

Pair = namedtuple("Pair", ["a", "b"])


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Side(enum.Enum):
    LEFT = 1


class Text(str):
    __slots__ = ()


@dataclass
class Plain:
    a: int = 1


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth - 1):
        value = [value]
    return value


def loop() -> Any:
    value: list[Any] = []
    value.append({"again": value})
    return value


# --- refused -------------------------------------------------------------------------------------

REFUSED: list[tuple[Any, str]] = [
    ("\x00", r"NUL character at \$"),
    ({"a": ["x\x00"]}, r"NUL character at \$\.a\[0\]"),
    ({"a\x00": 1}, r"NUL character at \$ \(a key\)"),
    ("\ud800", r"lone surrogate at \$"),
    (["ok", "\udfff"], r"lone surrogate at \$\[1\]"),
    ({"\ud800": 1}, "lone surrogate"),
    (math.nan, r"non-finite number \(nan\) at \$"),
    ({"a": math.inf}, r"non-finite number \(inf\) at \$\.a"),
    ([-math.inf], r"non-finite number \(-inf\) at \$\[0\]"),
    (2**63, r"beyond 64 bits at \$; send it as a string"),
    ({"a": -(2**63) - 1}, r"beyond 64 bits at \$\.a"),
    (10**5000, "beyond 64 bits"),
    (nested(MAX_DEPTH + 2), "nested deeper than 64"),
    (nested(20_000), "nested deeper than 64"),
    (loop(), "nested deeper than 64"),
    ({1: "a"}, r"key 1 at \$ is not a string"),
    ({"a": {None: 1}}, r"key None at \$\.a is not a string"),
    ({(1, 2): 3}, "is not a string"),
    ({1, 2}, r"set at \$ is not JSON"),
    (frozenset(), "frozenset at"),
    (b"bytes", r"bytes at \$ is not JSON"),
    (bytearray(b"x"), "bytearray at"),
    ({"price": Decimal("1.5")}, r"Decimal at \$\.price is not JSON"),
    (datetime.now(UTC), "datetime at"),
    (UUID(int=0), "UUID at"),
    (Plain(), r"Plain at \$ is not JSON; convert it, or declare the payload's type"),
    ([object()], r"object at \$\[0\]"),
    (1j, "complex at"),
    (range(3), "range at"),
    (iter(()), "tuple_iterator at"),
    (len, "builtin_function_or_method at"),
    (Side.LEFT, "Side at"),
    (int, "type at"),
    ("x" * DEFAULT_MAX_BYTES, f"{DEFAULT_MAX_BYTES + 2} bytes as JSON, the limit is"),
    (["ü"] * DEFAULT_MAX_BYTES, "pass a reference, or raise the limit"),
]


@pytest.mark.parametrize(("value", "message"), REFUSED, ids=[text for _, text in REFUSED])
def test_what_is_not_strict_json_is_refused(value: Any, message: str) -> None:
    with pytest.raises(InvalidPayload, match=message) as caught:
        encode(value)
    assert caught.value.field == "payload"
    assert str(caught.value).startswith("payload: ")
    # A message that quotes the whole payload would fill logs, and leak.
    assert len(str(caught.value)) < 300


def test_the_error_names_the_argument() -> None:
    with pytest.raises(InvalidPayload, match=r"^result: ") as caught:
        encode({1}, field="result")
    assert caught.value.field == "result"


@given(st.integers(1, 200))
def test_the_size_limit_is_in_bytes_and_exact(size: int) -> None:
    value = "ü" * size
    assert encode(value, max_bytes=2 * size + 2) == f'"{value}"'
    with pytest.raises(InvalidPayload, match="the limit is"):
        encode(value, max_bytes=2 * size + 1)


# --- accepted ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (2**63 - 1, 2**63 - 1),
        (-(2**63), -(2**63)),
        (1.7976931348623157e308, 1.7976931348623157e308),
        (5e-324, 5e-324),
        ("", ""),
        ("\u2028\u202e\U0010ffff", "\u2028\u202e\U0010ffff"),
        ((1, (2,)), [1, [2]]),
        (Pair(1, 2), [1, 2]),
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (Text("t"), "t"),
        ({Text("k"): Level.HIGH}, {"k": 3}),
        (Counter("aab"), {"a": 2, "b": 1}),
        (OrderedDict(z=1, a=2), {"z": 1, "a": 2}),
        ({"": {"": []}}, {"": {"": []}}),
    ],
    ids=repr,
)
def test_plain_values_and_their_kin_are_encoded(value: Any, expected: Any) -> None:
    assert decode(encode(value)) == expected


def test_sixty_four_levels_are_allowed() -> None:
    assert decode(encode(nested(MAX_DEPTH))) == nested(MAX_DEPTH)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"])),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(JSON)
def test_all_strict_json_comes_back(value: Any) -> None:
    text = encode(value)
    assert decode(text) == value
    assert json.loads(text) == value


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
    | st.decimals() | st.uuids() | st.dates() | st.complex_numbers(),
    lambda inner: st.lists(inner, max_size=4)
    | st.tuples(inner, inner)
    | st.dictionaries(st.text() | st.integers(), inner, max_size=4),
    max_leaves=10,
)  # fmt: skip


@given(ANYTHING)
def test_anything_is_encoded_or_refused_with_our_error(value: Any) -> None:
    try:
        text = encode(value)
    except InvalidPayload:
        return
    assert decode(text) is not None or value is None


# --- reading what is stored ----------------------------------------------------------------------


def test_no_text_is_no_value() -> None:
    assert decode(None) is None
    assert decode("null") is None


@pytest.mark.parametrize(
    "text",
    [
        "1" * 5_000,  # more digits than Python reads
        "[" * 3_000 + "]" * 3_000,
        '"\\ud800"',
        "NaN",
        "Infinity",
        "",
        "{",
        "nope",
        "[1] [2]",
    ],
    ids=lambda text: text[:12],
)
def test_what_cannot_be_read_is_one_error(text: str) -> None:
    """It fails one execution, never the batch that it came in."""
    with pytest.raises(PayloadDecodeError, match="cannot be read"):
        decode(text)


def test_big_numbers_that_sql_stored_are_read() -> None:
    """Postgres keeps them exactly, and so does Python: up to 4,300 digits."""
    assert decode("1" + "0" * 400) == 10**400
    assert decode(str(2**63)) == 2**63


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_with_our_error(text: str) -> None:
    try:
        decode(text)
    except PayloadDecodeError:
        return
    json.loads(text)


class Order(BaseModel):
    id: int
    note: str | None = None
    price: float = 0.5


class Frank(BaseModel, ser_json_inf_nan="constants"):
    x: float


class Lazy(BaseModel):
    xs: Iterable[int]
    y: int | None = None


@pytest.mark.parametrize("y", [None, 5])
def test_an_iterator_is_written_once(y: int | None) -> None:
    text = Codec.of(Lazy, "here").encode(Lazy(xs=iter([1, 2, 3]), y=y), max_bytes=1000)
    assert json.loads(text or "") == {"xs": [1, 2, 3], "y": y}


def test_a_replacement_character_of_the_users_own_is_kept() -> None:
    assert Codec.of(str, "here").encode("\ufffd", max_bytes=100) == '"\ufffd"'


QUICK = [
    (dict[str, int], {"n": 1}),
    (list[str], ["a", "ä", "\\", '"']),
    (float, 1e-7),
    (dict[str, float], {"x": 0.1, "y": 1e300}),
    (list[list[bool]], [[True], []]),
    (Order, Order(id=1)),
    (Order, Order(id=1, note="null")),
    (dict[str, int | None], {"n": None}),
    (dict[str, str], {"n": "\\u0000 is not a NUL here"}),
    (int, 2**63 - 1),
    (int, 10**18),
    (str, "1" * 25),
    (list[int], list(range(100))),
]


@pytest.mark.parametrize(("hint", "value"), QUICK)
def test_a_typed_value_is_encoded_as_a_plain_one(hint: Any, value: Any) -> None:
    """The look at the bytes and the walk through the value come to the same text."""
    codec = Codec.of(hint, "here")
    plain = TypeAdapter[Any](hint).dump_python(value, mode="json", by_alias=True)
    assert codec.encode(value, max_bytes=1000) == encode(plain, max_bytes=1000)
    assert codec.decode(codec.encode(value, max_bytes=1000)) == value


REFUSED_TYPED = [
    (float, math.nan),
    (dict[str, float], {"x": math.inf}),
    (list[float], [1.0, -math.inf]),
    (str, "a\x00b"),
    (dict[str, str], {"k\x00": "v"}),
    (str, "\ud800"),
    (int, 2**63),
    (int, -(2**63) - 1),
    (dict[str, int], {"\ud800": 1}),
    (dict[str, list[dict[str, int]]], {"a": [{"b\udfff": 2}]}),
    (Frank, Frank(x=math.nan)),
    (Frank, Frank(x=-math.inf)),
    (list[int], list(range(1000))),
]


@pytest.mark.parametrize(("hint", "value"), REFUSED_TYPED)
def test_a_typed_value_that_cannot_be_stored_is_refused(hint: Any, value: Any) -> None:
    with pytest.raises(InvalidPayload):
        Codec.of(hint, "here").encode(value, max_bytes=1000)


def test_a_typed_value_that_is_nested_too_deeply_is_refused() -> None:
    deep: Any = []
    for _ in range(64):
        deep = [deep]
    with pytest.raises(InvalidPayload, match="nested deeper"):
        Codec.of(list[Any], "here").encode(deep, max_bytes=1000)


def test_a_model_that_was_changed_for_the_worse_is_refused() -> None:
    order = Order(id=1)
    order.id = "one"  # type: ignore[assignment]
    with pytest.raises(InvalidPayload):
        Codec.of(Order, "here").encode(order, max_bytes=1000)
