"""Which types and values come back from JSON, and in which words the others are refused."""

from __future__ import annotations

import enum
import traceback
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from pydantic import (
    AliasChoices,
    AliasPath,
    AnyUrl,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    Secret,
    SecretBytes,
    SecretStr,
)
from typing_extensions import TypedDict

from pgconductor.exceptions import ConfigurationError, InvalidPayload
from pgconductor.runtime.codec import Codec
from pgconductor.runtime.sameness import difference
from pgconductor.testing.jsonb import as_jsonb
from tests.contracts.kinds_of_values import (
    Aliased,
    Base,
    Box,
    Cached,
    Cat,
    Colour,
    Crossed,
    Dog,
    Hidden,
    Holder,
    Level,
    Loose,
    Options,
    Packed,
    Pair,
    Point,
    Point3,
    Salted,
    Size,
    Sub,
    Texts,
    Told,
    Tree,
    Twin,
    Worded,
    Words,
    canonical,
)

BERLIN = ZoneInfo("Europe/Berlin")


class Moment(datetime):
    pass


class Text(str):
    __slots__ = ()


class TextsDict(TypedDict):
    data: bytes


@dataclass
class TextsClass:
    data: bytes


class TextsTuple(NamedTuple):
    data: bytes


class Open(BaseModel):
    x: int = Field(validation_alias=AliasChoices("x", "y"))  # type: ignore[pydantic-alias]


class Nested(BaseModel):
    x: int = Field(validation_alias=AliasPath("a", "x"))  # type: ignore[pydantic-alias]


class Login(BaseModel):
    name: int
    pin: int


class Called(BaseModel):
    back: Callable[[], int] | None = None


class Lazy(BaseModel):
    days: Iterable[date]


class Uneasy:
    """Says nothing of what it equals, and pydantic is told how to write and read it."""

    def __init__(self, n: int) -> None:
        self.n = n

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> Any:
        from pydantic_core import core_schema as cs

        read = cs.no_info_after_validator_function(cls, cs.int_schema())
        return cs.json_or_python_schema(
            json_schema=read,
            python_schema=cs.is_instance_schema(cls),
            serialization=cs.plain_serializer_function_ser_schema(lambda one: one.n),
        )


COME_BACK: list[tuple[Any, Any]] = [
    (int, 2**63 - 1),
    (float, 1e308),
    (int | float, 1e22),
    (int | str, "1"),
    (bool | int, 1),
    (str, "\ufffd\\u0000 null NaN"),
    (bytes, b"\x00\xff\xfe"),
    (bytes | None, b"\xff"),
    (dict[str, bytes], {"a": b"\xff"}),
    (list[TextsClass], [TextsClass(b"\xff")]),
    (list[TextsDict], [{"data": b"\xff"}]),
    (TextsTuple, TextsTuple(b"\xff")),
    (Packed, Packed(data=b"\xff")),
    (complex, 1 + 2j),
    (Decimal, Decimal("1.10")),
    (Decimal, Decimal("1E+500")),
    (datetime, datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=BERLIN)),
    (datetime, datetime(2026, 1, 1)),  # noqa: DTZ001 - naive, and stays so
    (date | datetime, datetime(2026, 1, 1, tzinfo=UTC)),
    (date | datetime, date(2026, 1, 1)),
    (time, time(1, 2, tzinfo=UTC)),
    (timedelta, timedelta.max),
    (timedelta, timedelta(microseconds=-1)),
    (UUID, UUID(int=7)),
    (Path, Path("a/b")),
    (IPv4Address, IPv4Address("192.0.2.1")),
    (AnyUrl, AnyUrl("https://example.org/a?b=c")),
    (Size, Size.SMALL),
    (Level, Level.LOW),
    (Literal["a", 1], 1),
    (set[int], {1, 2}),
    (frozenset[date], frozenset({date(2026, 1, 1)})),
    (tuple[int, str], (1, "a")),
    (deque[int], deque([1])),
    (Counter[str], Counter("aab")),
    (defaultdict[str, int], defaultdict(int, a=1)),
    (Sequence[int], [1]),
    (Mapping[str, int], {"bb": 1, "a": 2}),
    (dict[str, float], {"zz": 1e22, "a": 1.0}),
    (dict[int, str], {10: "a", 9: "b"}),
    (dict[date, int], {date(2026, 1, 1): 1}),
    (Pair, Pair(1, 2.5)),
    (Options, {"colour": "red"}),
    (Point, Point(1, {"a": None})),
    (Base, Base(x=1)),
    (Holder, Holder(base=Base(), many=[Base(x=2)], when=datetime(2026, 1, 1, tzinfo=UTC))),
    (Cached, Cached(x=1)),
    (Aliased, Aliased(eX=1)),
    (Open, Open(x=1)),
    (Told, Told(secret=SecretStr("s"))),
    (Worded, Worded(x=1.5)),
    (Tree, Tree(n=1, left=Tree(n=2))),
    (Box[int], Box[int](inside=1)),
    (Words, Words(["a"])),
    (Cat | Dog, Dog(n=1)),
    (Annotated[Cat | Dog, Field(discriminator="kind")], Dog(n=1)),
    (Loose, Loose.model_validate({"anything": {"a": [1, None]}, "left": "over"})),
    (Uneasy, Uneasy(7)),
]


@pytest.mark.parametrize(("hint", "value"), COME_BACK, ids=range(len(COME_BACK)))
def test_what_comes_back(hint: Any, value: Any) -> None:
    codec = Codec.of(hint, "here")
    read = codec.decode(as_jsonb(codec.encode(value, max_bytes=10_000), "payload"))
    if hint is Uneasy:
        assert (type(read), read.n) == (Uneasy, value.n)
    else:
        assert canonical(read) == canonical(value)


@pytest.mark.parametrize(
    ("hint", "value", "why"),
    [
        (Base, Sub(), r"Sub at \$ would come back as Base"),
        (list[Base], [Base(), Sub()], r"Sub at \$\[1\] would come back as Base"),
        (Holder, Holder(base=Sub()), r"Sub at \$\.base would come back as Base"),
        (Point, Point3(1), r"Point3 at \$ would come back as Point"),
        (Loose, Loose(anything={1}), r"set at \$\.anything would come back as list"),
        (Worded, Worded(x=float("inf")), r"non-finite number \(inf\) at \$\.x"),
        (Loose, Loose.model_validate({"left": Decimal(1)}), "would come back as str"),
        (Loose, Loose(anything={"a": float("nan")}), r"non-finite number \(nan\) at \$\.anything"),
        (Options, {"colour": "red", "size": 1}, "key 'size' is not of the type, and would be left"),
        (Cached, Cached(x=1, cache=2), r"int at \$\.cache would not come back as it is"),
        (Salted, Salted(word="a"), r"str at \$\.word would not come back as it is"),
        (datetime, datetime(1850, 1, 1, tzinfo=BERLIN), r"datetime at \$ would not come back"),
        (list[time], [time(1, tzinfo=timezone(timedelta(seconds=1)))], "time at"),
        (Annotated[int, PlainSerializer(lambda n: n + 1)], 1, r"int at \$ would not come back"),
        (Annotated[int, PlainSerializer(str, return_type=str)], 1, None),
        (Annotated[int, PlainSerializer(hex, return_type=str)], 1, "read back: .*valid int"),
        (Base, Base.model_construct(x="one"), "cannot be made JSON"),  # type: ignore[arg-type]
        (Base, Base.model_construct(), None),
        (dict[str, int], {"\x00": 1}, "NUL"),
    ],
)  # fmt: skip
def test_which_values_are_refused(hint: Any, value: Any, why: str | None) -> None:
    codec = Codec.of(hint, "here")
    if why is None:
        assert codec.decode(codec.encode(value, max_bytes=1000)) is not None
        return
    with pytest.raises(InvalidPayload, match=why):
        codec.encode(value, max_bytes=1000)


@pytest.mark.parametrize(
    ("hint", "why"),
    [
        (SecretStr, r"a secret at \$ would be written as '\*+'"),
        (SecretStr | None, "a secret at"),
        (SecretBytes, "a secret at"),
        (list[Secret[int]], r"a secret at \$\[\*\]"),
        (Texts, r"bytes at \$\.data would be written as UTF-8, .* ConfigDict\(ser_json_bytes="),
        (Sequence[Texts], r"bytes at \$\[\*\]\.data"),
        (TextsClass, r"bytes at \$\.data"),
        (TextsDict, r"bytes at \$\.data"),
        (Hidden, r"the field at \$\.x is required, and excluded from what is written"),
        (Crossed, r"the field at \$\.x is written as 'b', and not read by that name"),
        (Nested, r"the field at \$\.x is written as 'x', and not read by that name"),
        (Callable[[], int], r"a callable at \$ cannot be read from JSON"),
        (Called, r"a callable at \$\.back"),
        (type[int], r"a class at \$ cannot be read"),
        (OrderedDict[str, int], r"OrderedDict at \$ would lose its order"),
        (Iterable[date], r"an iterator at \$ can be gone through only once"),
        (Lazy, r"an iterator at \$\.days"),
        (date | str, r"str at \$ would come back as date"),
        (str | date, r"date at \$ would come back as str"),
        (UUID | str, r"str at \$ would come back as UUID"),
        (bytes | str, "would come back as"),
        (Path | str, "would come back as"),
        (str | complex, "would come back as"),
        (Decimal | float, r"float at \$ would come back as Decimal"),
        (Size | str, r"Size at \$ would come back as str"),
        (Level | int, r"Level at \$ would come back as int"),
        (list[int] | set[int], r"set at \$ would come back as list"),
        (Base | Twin, r"Twin at \$ would come back as Base"),
        (list[date | str], r"str at \$\[\*\] would come back as date"),
        (Colour, r"Colour\.PAIR at \$ would not come back from JSON"),
        (dict[tuple[int, int], int], r"keys of type tuple at \$"),
        (dict[int | None, int], r"keys of type NoneType at \$"),
        (dict[int | str, int], r"keys of type int at \$ would come back as str"),
    ],
)
def test_which_types_are_refused(hint: Any, why: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^here: .*{why}"):
        Codec.of(hint, "here")


def test_a_mutated_model_is_read_back_before_it_is_stored() -> None:
    class Positive(BaseModel):
        n: int = Field(gt=0)

    value = Positive(n=1)
    value.n = -1
    with pytest.raises(InvalidPayload, match=r"cannot be read back: .*greater than 0"):
        Codec.of(Positive, "here").encode(value, max_bytes=100)


def test_what_a_serializer_complains_of_is_not_quoted() -> None:
    """It may be secret, and the message is logged."""
    changed: Any = Login(name=1, pin=2)
    changed.name, changed.pin = "hunter2, input_type=x\n", "hunter2"
    with pytest.raises(InvalidPayload) as refused:
        Codec.of(Login, "f").encode(changed, max_bytes=1000)
    assert "cannot be made JSON" in str(refused.value)
    assert all(name in str(refused.value) for name in ("'name'", "'pin'"))
    assert "hunter2" not in "".join(traceback.format_exception(refused.value))


def test_a_subclass_of_text_is_text() -> None:
    moment = Moment(2026, 1, 1, tzinfo=UTC)
    assert Codec.of(datetime, "here").encode(moment, max_bytes=100) == '"2026-01-01T00:00:00Z"'
    assert Codec.of(str, "here").encode(Text("a"), max_bytes=100) == '"a"'
    assert Codec.of(dict[str, Any], "here").encode({"a": (Size.SMALL, 1)}, max_bytes=100)


def test_members_of_an_enumeration_are_other_than_their_text() -> None:
    class Kind(enum.StrEnum):
        GOOD = "good"

    assert difference(Kind.GOOD, "good", plainly=False) == "Kind at $ would come back as str"
    assert difference(Kind.GOOD, "good", plainly=True) is None


def test_a_model_may_say_how_its_bytes_are_written() -> None:
    class Hexed(BaseModel):
        model_config = ConfigDict(ser_json_bytes="hex", val_json_bytes="hex")
        data: bytes

    codec = Codec.of(Hexed, "here")
    assert codec.encode(Hexed(data=b"\xff"), max_bytes=100) == '{"data":"ff"}'
    assert codec.decode('{"data":"ff"}') == Hexed(data=b"\xff")
