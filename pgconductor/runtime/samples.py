"""Values of a type that are like most of them, made of pydantic's schema of it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path, PurePath
from typing import Any, Final, cast
from uuid import UUID

__all__ = ["TEXT", "samples"]

Schema = Mapping[str, Any]

TEXT: Final = "some text"
_ASIDE: Final = frozenset({"type", "ref", "metadata", "microseconds_precision"})
#: The second float is a whole number in jsonb.
_SAMPLES: Final[Mapping[str, tuple[Any, ...]]] = {
    "bool": (True,),
    "int": (7,),
    "float": (1.5, 1e22),
    "str": (TEXT,),
    "bytes": (b"\xff",),
    "complex": (1.5 + 2j,),
    "decimal": (Decimal("1.50"),),
    "date": (date(2001, 2, 3),),
    "time": (time(4, 5, 6),),
    "datetime": (datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC), datetime(2001, 2, 3, tzinfo=UTC)),
    "timedelta": (timedelta(hours=7, microseconds=1),),
    "uuid": (UUID(int=8),),
}
_BY_CLASS: Final[Mapping[Any, Any]] = {
    Path: Path("some/path"),
    PurePath: PurePath("some/path"),
    IPv4Address: IPv4Address("192.0.2.1"),
    IPv6Address: IPv6Address("2001:db8::1"),
}
_MANY: Final = 100
_COLLECTIONS: Final[Mapping[str, type]] = {"list": list, "set": set, "frozenset": frozenset}


def samples(schema: Schema) -> list[Any]:
    """Some values of a type; none where validators or constraints have a say in them."""
    kind: str = schema["type"]
    if kind in ("nullable", "default"):
        return samples(schema["schema"]) + ([None] if kind == "nullable" else [])
    if kind in _SAMPLES:
        return [*_SAMPLES[kind]] if _ASIDE.issuperset(schema) else []
    if kind in ("enum", "literal"):
        members: list[Any] = schema["members" if kind == "enum" else "expected"]
        return [] if "missing" in schema else members[:_MANY]
    if kind == "lax-or-strict":
        return [_BY_CLASS[one] for one in _classes(schema) if one in _BY_CLASS]
    return [] if "serialization" in schema else _composed(schema)


def _composed(schema: Schema) -> list[Any]:
    kind: str = schema["type"]
    if kind == "union":
        choices: list[Any] = schema["choices"]
        return [sample for one in choices for sample in samples(_unlabelled(one))]
    if kind in ("model", "typed-dict"):
        return _of_fields(schema)
    if not (_ASIDE | {"items_schema", "keys_schema", "values_schema"}).issuperset(schema):
        return []
    if kind == "tuple":
        places = [samples(one)[:1] for one in schema["items_schema"]]
        return [tuple(one for (one,) in places)] if all(places) else []
    if kind == "dict":
        keys = samples(schema.get("keys_schema", _ANY))[:1]
        return [{key: one} for key in keys for one in samples(schema.get("values_schema", _ANY))]
    return _collected(schema) if kind in _COLLECTIONS else []


def _unlabelled(choice: Any) -> Schema:
    return cast("tuple[Schema, str]", choice)[0] if isinstance(choice, tuple) else choice


def _collected(schema: Schema) -> list[Any]:
    try:
        found = samples(schema.get("items_schema", _ANY))
        return [_COLLECTIONS[schema["type"]]([one]) for one in found]
    except TypeError:
        return []  # A set of what it cannot hold.


def _of_fields(schema: Schema) -> list[Any]:
    inner: Schema = schema["schema"] if schema["type"] == "model" else schema
    if inner["type"] not in ("model-fields", "typed-dict") or schema.get("root_model"):
        return []
    found = {name: samples(one["schema"])[:1] for name, one in inner["fields"].items()}
    if not all(found.values()):
        return []
    values = {name: one for name, (one,) in found.items()}
    return [values if schema["type"] == "typed-dict" else schema["cls"].model_construct(**values)]


_ANY: Final[Schema] = {"type": "any"}


def _classes(schema: Any) -> set[Any]:
    """The classes that a schema asks instances of."""
    if isinstance(schema, dict):
        parts = cast("dict[str, Any]", schema)
        if parts.get("type") == "is-instance":
            return {parts["cls"]}
        return {one for part in parts.values() for one in _classes(part)}
    several: list[Any] = cast("Any", schema) if isinstance(schema, list) else []
    return {one for part in several for one in _classes(part)}
