"""Types that a payload or result may be declared as, and values of them, for property tests."""

from __future__ import annotations

import dataclasses
import enum
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from ipaddress import IPv4Address
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    Json,
    PlainSerializer,
    RootModel,
    SecretStr,
    computed_field,
    field_serializer,
    field_validator,
)
from typing_extensions import TypedDict

__all__ = ["TYPED", "Typed", "canonical"]

T = TypeVar("T")
#: A type, and a value of it.
Typed = tuple[Any, Any]


class Colour(enum.Enum):
    RED = 1
    BLUE = "1"
    PAIR = (1, 2)


class Size(enum.StrEnum):
    SMALL = "small"


class Level(enum.IntEnum):
    LOW = 1


class Base(BaseModel):
    x: int = 0


class Sub(Base):
    y: float = 1.0


class Twin(BaseModel):
    x: int = 0


class Holder(BaseModel):
    base: Base
    many: list[Base] = []
    when: datetime | None = None


class Loose(BaseModel, extra="allow"):
    anything: Any = None
    more: dict[str, Any] = {}


class Frank(BaseModel, ser_json_inf_nan="constants"):
    x: float


class Worded(BaseModel, ser_json_inf_nan="strings"):
    x: float


class Short(BaseModel, ser_json_timedelta="float"):
    lasts: timedelta


class Cached(BaseModel):
    x: int
    cache: int = Field(default=0, exclude=True)

    @computed_field
    def double(self) -> int:
        return 2 * self.x


class Aliased(BaseModel):
    x: int = Field(alias="eX")


class Hidden(BaseModel):
    x: int = Field(exclude=True)


class Crossed(BaseModel):
    x: int = Field(default=0, validation_alias="a", serialization_alias="b")


class Told(BaseModel):
    secret: SecretStr

    @field_serializer("secret", when_used="json")
    def tell(self, secret: SecretStr) -> str:
        return secret.get_secret_value()


class Salted(BaseModel):
    word: str

    @field_validator("word")
    @classmethod
    def salt(cls, word: str) -> str:
        return word + "!"


class Texts(BaseModel):
    data: bytes


class Packed(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
    data: bytes


class Tree(BaseModel):
    n: int
    left: Tree | None = None


class Box(BaseModel, Generic[T]):
    inside: T


class Words(RootModel[list[str]]):
    pass


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    n: int


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    n: int


@dataclasses.dataclass
class Point:
    x: int
    extra: Any = None


@dataclasses.dataclass
class Point3(Point):
    z: int = 0


class Pair(NamedTuple):
    a: int
    b: float


class Options(TypedDict, total=False):
    colour: str
    deep: list[Any]


ZONES = [timezone(timedelta(hours=2)), timezone(timedelta(seconds=61)), ZoneInfo("Europe/Berlin")]
FINE = st.floats(allow_nan=False, allow_infinity=False)
INTS = st.integers(-(2**63), 2**63 - 1) | st.integers()
TEXTS = st.text(st.characters() | st.sampled_from("\x00\ud800aZ1/é"), max_size=6) | st.sampled_from(
    ["1", "true", "null", "2001-02-03", "1.5", "NaN", "PT5S", "\ufffd"]
)
WORDS = st.text(st.characters(categories=["L", "N"]), max_size=5)
TIMES = st.datetimes(timezones=st.none() | st.sampled_from(ZONES))
PLAIN = st.recursive(
    st.none() | st.booleans() | INTS | st.floats() | TEXTS | st.sampled_from(
        [b"x", Decimal("1.5"), UUID(int=1), {1}, 1j, date(2001, 2, 3), Base(), Point(1), object()]
    ),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(TEXTS | st.integers(0, 3), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
LEAVES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (None, st.none()),
    (bool, st.booleans()),
    (int, INTS),
    (float, st.floats()),
    (str, TEXTS),
    (bytes, st.binary(max_size=4)),
    (complex, st.complex_numbers()),
    (Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    (date, st.dates()),
    (datetime, TIMES),
    (time, st.times(timezones=st.none() | st.sampled_from(ZONES[:2]))),
    (timedelta, st.timedeltas()),
    (UUID, st.uuids()),
    (Path, WORDS.map(Path)),
    (IPv4Address, st.ip_addresses(v=4)),
    (Colour, st.sampled_from(Colour)),
    (Size, st.sampled_from(Size)),
    (Level, st.sampled_from(Level)),
    (Literal["a", 1], st.sampled_from(["a", 1])),
    (SecretStr, WORDS.map(SecretStr)),
]
OTHERS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (Any, PLAIN),
    (object, PLAIN),
    (dict, st.dictionaries(TEXTS | st.integers(0, 3), PLAIN, max_size=3)),
    (list, st.lists(PLAIN, max_size=3)),
    (dict[str, Any], st.dictionaries(TEXTS, PLAIN, max_size=3)),
    (Base, st.builds(Base, x=INTS) | st.builds(Sub, x=INTS)),
    (Twin | Base, st.builds(Base) | st.builds(Twin)),
    (Holder, st.builds(Holder, base=st.builds(Base) | st.builds(Sub), when=st.none() | TIMES)),
    (Holder, st.builds(Holder, base=st.just(Base()), many=st.lists(st.builds(Sub), max_size=1))),
    (Loose, st.builds(Loose, anything=PLAIN, left=PLAIN)),
    (Loose, st.builds(Loose.model_construct, anything=PLAIN, more=PLAIN)),
    (Frank, st.builds(Frank, x=st.floats())),
    (Worded, st.builds(Worded, x=st.floats())),
    (Short, st.builds(Short, lasts=st.timedeltas())),
    (Cached, st.builds(Cached, x=INTS, cache=st.integers(0, 1))),
    (Aliased, st.builds(Aliased, eX=INTS)),
    (Hidden, st.builds(Hidden, x=INTS)),
    (Crossed, st.builds(Crossed, a=INTS)),
    (Told, st.builds(Told, secret=WORDS.map(SecretStr))),
    (Salted, st.builds(Salted, word=WORDS)),
    (Texts, st.builds(Texts, data=st.binary(max_size=3))),
    (Packed, st.builds(Packed, data=st.binary(max_size=3))),
    (Tree, st.builds(Tree, n=INTS, left=st.none() | st.builds(Tree, n=INTS, left=st.none()))),
    (Box[float], st.builds(Box[float], inside=st.floats())),
    (Box[Any], st.builds(Box[Any], inside=PLAIN)),
    (Words, st.lists(TEXTS, max_size=2).map(Words)),
    (Annotated[Cat | Dog, Field(discriminator="kind")], st.builds(Cat, kind=st.just("cat"))),
    (Cat | Dog, st.builds(Dog, kind=st.just("dog")) | st.builds(Cat, kind=st.just("cat"))),
    (Point, st.builds(Point, INTS, PLAIN) | st.builds(Point3, INTS)),
    (Pair, st.builds(Pair, INTS, st.floats())),
    (Options, st.fixed_dictionaries({}, optional={"colour": TEXTS, "more": INTS})),
    (Options, st.fixed_dictionaries({"deep": st.lists(PLAIN, max_size=2)})),
    (Annotated[int, PlainSerializer(lambda n: f"about {n}", return_type=str)], INTS),
    (Annotated[int, PlainSerializer(lambda n: n // 2)], INTS),
    (Annotated[int, AfterValidator(lambda n: n // 2)], st.integers(0, 1)),
    (Annotated[int, Field(gt=0)], st.integers(1, 9)),
    (Callable[[], int], st.just(lambda: 1)),
    (type[int], st.just(int)),
    (Json[int], st.just("1")),
    (OrderedDict[str, int], st.just(OrderedDict(z=1, a=2))),
    (Counter[str], st.just(Counter("aab"))),
    (defaultdict[str, int], st.just(defaultdict(int, a=1))),
]
#: To be given types that are known only as the tests are executed.
MADE: Any = SimpleNamespace(
    list=list,
    dict=dict,
    tuple=tuple,
    deque=deque,
    set=set,
    frozenset=frozenset,
    Sequence=Sequence,
    Mapping=Mapping,
    Annotated=Annotated,
)
BY_ONE: list[Callable[[Any, Any], Typed]] = [
    lambda hint, one: (MADE.list[hint], [one]),
    lambda hint, one: (hint | None, one),
    lambda hint, one: (MADE.dict[str, hint], {"k": one, "a": one}),
    lambda hint, one: (MADE.tuple[hint, ...], (one, one)),
    lambda hint, one: (MADE.deque[hint], deque([one])),
    lambda hint, one: (MADE.Sequence[hint], [one]),
    lambda hint, one: (MADE.Mapping[str, hint], {"k": one}),
    lambda hint, one: (MADE.Annotated[hint, "a note"], one),
    lambda hint, one: (hint | int, one),
    lambda hint, one: (hint | str, one),
    lambda hint, one: (str | hint, one),
    lambda hint, one: (hint | float, one),
    lambda hint, one: (MADE.list[hint | date], [one]),
]
#: Of what can be hashed.
BY_KEY: list[Callable[[Any, Any], Typed]] = [
    lambda hint, one: (MADE.dict[hint, int], {one: 1}),
    lambda hint, one: (MADE.set[hint], {one}),
    lambda hint, one: (MADE.frozenset[hint], frozenset([one])),
    lambda hint, one: (MADE.dict[MADE.tuple[hint, int], int], {(one, 1): 2}),
    lambda hint, one: (MADE.dict[hint | int, str], {one: "a", 7: "b"}),
]


def of(kinds: list[tuple[Any, st.SearchStrategy[Any]]]) -> st.SearchStrategy[Typed]:
    return st.sampled_from(kinds).flatmap(lambda kind: kind[1].map(lambda value: (kind[0], value)))


def _wrapped(
    kinds: st.SearchStrategy[Typed], ways: list[Callable[[Any, Any], Typed]]
) -> st.SearchStrategy[Typed]:
    return st.tuples(st.sampled_from(ways), kinds).map(lambda drawn: _made(*drawn))


def _made(way: Callable[[Any, Any], Typed], typed: Typed) -> Typed:
    hint, value = typed
    if hint is Any or hint is object or isinstance(hint, str):
        return typed
    try:
        return way(hint, value)
    except TypeError:
        return typed  # Python itself makes no union of these.


TYPED: st.SearchStrategy[Typed] = st.recursive(
    of(LEAVES) | of(OTHERS) | _wrapped(of(LEAVES), BY_KEY) | _wrapped(of(LEAVES), BY_ONE),
    lambda inner: _wrapped(inner, BY_ONE),
    max_leaves=2,
)


def canonical(value: Any) -> Any:  # noqa: PLR0911 - a line for each kind
    """What a value is, types and all, in a form that can be compared.

    Numbers are the same if they are equal, for JSON has one kind of number; of a time, the offset
    counts, not the name of its zone.
    """
    match value:
        case enum.Enum():
            return type(value), value.name
        case bool() | None:
            return type(value), value
        case int() | float():
            if value - value != 0:
                return "number", repr(value)
            # A large float is a whole number in jsonb, of the digits that are known of it.
            return "number", Fraction(value) if abs(value) < 2**53 else float(value)
        case datetime() | time():
            return type(value), value.replace(tzinfo=None, fold=0), value.utcoffset()
        case list() | deque() | tuple():
            return type(value), *map(canonical, value)
        case OrderedDict():
            return type(value), *map(canonical, value.items())
        case dict():
            parts = [(canonical(key), canonical(one)) for key, one in value.items()]
            return type(value), *sorted(parts, key=repr)
        case set() | frozenset():
            return type(value), *sorted(map(canonical, value), key=repr)
        case BaseModel():
            named = {name: value.__dict__.get(name) for name in type(value).model_fields}
            return type(value), canonical({**named, **(value.model_extra or {})})
        case _ if dataclasses.is_dataclass(value):
            return type(value), canonical(vars(value))
        case _:
            return type(value), repr(value)
