"""What pydantic's schema of a type tells of its values, before there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, cast

__all__ = ["Check", "Unsure", "definitions_of", "kinds", "of_builtins", "of_plain_json", "surely"]

Schema = Mapping[str, Any]
#: Whether a value comes back as it is for certain.
Check = Callable[[Any], bool]

#: Kinds whose values validation makes anew, and that JSON has itself.
_BUILTINS: Final = frozenset({"bool", "dict", "float", "int", "list", "none", "nullable", "str"})
_PARTS: Final = {"dict": ("keys_schema", "values_schema"), "list": ("items_schema",)}
#: Kinds that are written as text that only they are read from.
_LEAVES: Final = frozenset(
    {"none", "bool", "int", "float", "str", "decimal", "uuid", "date", "timedelta"}
)
_TIMES: Final = frozenset({"datetime", "time"})
#: What says nothing of the values.
_ASIDE: Final = frozenset({"type", "ref", "metadata", "microseconds_precision"})
_HARMLESS_CONFIG: Final = frozenset({"title", "frozen", "extra_fields_behavior"})


class Unsure(Exception):
    """Only a value can tell whether it comes back."""


def kinds(schema: Any) -> set[str]:
    """The kinds of schemas that a schema is made of."""
    return {one["type"] for one in _nodes(schema)}


def _nodes(schema: Any) -> Iterator[Schema]:
    todo: list[Any] = [schema]
    while todo:
        one = todo.pop()
        if isinstance(one, dict):
            parts = cast("dict[str, Any]", one)
            if isinstance(parts.get("type"), str):
                yield parts
            todo += [part for key, part in parts.items() if key not in ("metadata", "config")]
        elif isinstance(one, list | tuple):
            todo += cast("list[Any]", one)


def definitions_of(schema: Schema) -> tuple[Schema, dict[str, Schema]]:
    """A schema without the definitions that it refers to, and these by name."""
    if schema["type"] != "definitions":
        return schema, {}
    return schema["schema"], {one["ref"]: one for one in schema["definitions"]}


def of_builtins(schema: Any) -> bool:
    """Whether a type is made of plain JSON's own types only, so that its values come back."""
    return all(_is_builtin(one, ("str", "int")) for one in _nodes(schema))


def of_plain_json(schema: Any) -> bool:
    """Whether a type is made of these and of ``Any``, which stands for plain JSON."""
    return all(one["type"] == "any" or _is_builtin(one, ("str", "any")) for one in _nodes(schema))


def _is_builtin(schema: Schema, keys: tuple[str, ...]) -> bool:
    if "serialization" in schema or schema["type"] not in _BUILTINS:
        return False
    parts = _PARTS.get(schema["type"], ())
    if "any" not in keys and not schema.keys() >= {*parts}:
        return False  # What is left out is anything.
    # Keys are strings in JSON, whatever they were.
    return schema.get("keys_schema", {"type": "str"})["type"] in keys


def surely(schema: Schema) -> Check | None:
    """How to tell of a value of a type, at a glance, that it comes back as it is.

    Args:
        schema: Pydantic's schema of the type. Its serialiser must have complained of values that
            are not what the schema says.

    Returns:
        The check; None where there is nothing to look at.

    Raises:
        Unsure: Of this type, that takes more than a glance.
    """
    inner, definitions = definitions_of(schema)
    return _Glance(definitions).of(inner)


class _Glance:
    def __init__(self, definitions: Mapping[str, Schema]) -> None:
        self._definitions = definitions
        self._open: set[str] = set()

    def of(self, schema: Schema) -> Check | None:
        kind: str = schema["type"]
        check = _of_leaf(schema)
        if check is not None:
            return None if check is _always else check
        if "serialization" in schema:
            raise Unsure
        if kind == "definition-ref":
            return self._referred(schema["schema_ref"])
        if kind in ("nullable", "default"):
            return self._optional(schema)
        if kind in ("list", "dict"):
            return self._container(schema)
        if kind in ("model", "dataclass"):
            return self._fields(schema)
        raise Unsure

    def _referred(self, name: str) -> Check | None:
        if name in self._open:
            raise Unsure  # It refers to itself.
        self._open.add(name)
        check = self.of(self._definitions[name])
        self._open.discard(name)
        return check

    def _optional(self, schema: Schema) -> Check | None:
        if schema.get("validate_default"):
            raise Unsure
        check = self.of(schema["schema"])
        return None if check is None else lambda value: value is None or check(value)

    def _container(self, schema: Schema) -> Check | None:
        parts = {"keys_schema", "values_schema", "items_schema"}
        if not (_ASIDE | parts).issuperset(schema):
            raise Unsure
        if schema["type"] == "list":
            check = self.of(schema.get("items_schema", {"type": "any"}))
            return None if check is None else lambda value: all(map(check, value))
        if schema.get("keys_schema", {"type": "any"})["type"] != "str":
            raise Unsure
        of_values = self.of(schema.get("values_schema", {"type": "any"}))
        return None if of_values is None else lambda value: all(map(of_values, value.values()))

    def _fields(self, schema: Schema) -> Check:
        cls: type = schema["cls"]
        inner: Schema = schema["schema"]
        config: Schema = schema.get("config", {})
        if (
            inner["type"] not in ("model-fields", "dataclass-args")
            or any(schema.get(one) for one in ("custom_init", "root_model", "post_init"))
            or not _HARMLESS_CONFIG.issuperset(config)
            or config.get("extra_fields_behavior") == "allow"
            or inner.get("collect_init_only")
        ):
            raise Unsure
        fields: list[Schema] = (
            [{"name": name, **one} for name, one in inner["fields"].items()]
            if inner["type"] == "model-fields"
            else inner["fields"]
        )
        checks = [(one["name"], self._field(one)) for one in fields]
        told = [(name, check) for name, check in checks if check is not None]
        # A model may have been made without what it needs.
        names = {name for name, _ in checks} if inner["type"] == "model-fields" else set[str]()

        def check_fields(value: Any) -> bool:
            if type(value) is not cls or (names and not value.__dict__.keys() >= names):
                return False
            for name, check in told:  # noqa: SIM110 - a generator costs as much again
                if not check(getattr(value, name)):
                    return False
            return True

        return check_fields

    def _field(self, field: Schema) -> Check | None:
        # An alias that is read and written alike is given twice.
        if (
            field.get("serialization_exclude")
            or field.get("serialization_exclude_if") is not None
            or field.get("init") is False
            or field.get("init_only")
            or field.get("serialization_alias", field["name"])
            != field.get("validation_alias", field["name"])
        ):
            raise Unsure
        return self.of(field["schema"])


def _is_in_minutes(value: Any) -> bool:
    """Offsets are written in minutes, and zones have had seconds."""
    offset = value.utcoffset()
    return offset is None or not (offset.seconds % 60 or offset.microseconds)


def _of_leaf(schema: Schema) -> Check | None:
    """The check of what has no parts; None if it has some, or takes more than a glance."""
    kind: str = schema["type"]
    if kind in _TIMES and _ASIDE.issuperset(schema):
        return _is_in_minutes
    if kind == "enum" and not {"missing", "serialization"} & schema.keys():
        values = [one.value for one in schema["members"]]
    elif kind == "literal" and "serialization" not in schema:
        values = schema["expected"]
    else:
        return _always if kind in _LEAVES and _ASIDE.issuperset(schema) else None
    return _always if {type(one) for one in values} in ({str}, {int}) else None


def _always(_: object) -> bool:
    return True
