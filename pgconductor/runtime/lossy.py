"""Types whose values do not come back from JSON: found as they are declared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, cast

from pydantic_core import CoreConfig, SchemaSerializer, SchemaValidator, from_json

from pgconductor.domain.jsonb import expanded
from pgconductor.runtime.sameness import difference
from pgconductor.runtime.samples import TEXT, samples
from pgconductor.runtime.schemas import definitions_of, of_builtins

__all__ = ["BASE64", "refusal"]

Schema = Mapping[str, Any]

#: The way in which bytes of any kind are written and read, where pydantic is told.
BASE64: Final[CoreConfig] = {"ser_json_bytes": "base64", "val_json_bytes": "base64"}
#: Why values of a kind do not come back.
_REASONS: Final = {
    "callable": "a callable at {path} cannot be read from JSON; pass what names it",
    "is-subclass": "a class at {path} cannot be read from JSON; pass what names it",
    "is-instance": (
        "an instance of {cls} at {path} cannot be read from JSON; give its type a validator and a "
        "serializer"
    ),
    "bytes": (
        "bytes at {path} would be written as UTF-8, which most bytes are not; have them written as "
        'base64, by ConfigDict(ser_json_bytes="base64", val_json_bytes="base64") as the '
        "model_config of the model, or the __pydantic_config__ of the dataclass or TypedDict"
    ),
    "ordered-dict": (
        "OrderedDict at {path} would lose its order, which jsonb does not keep; use dict, or a "
        "list of pairs"
    ),
    "generator": (
        "an iterator at {path} can be gone through only once, so its items cannot be compared; use "
        "list"
    ),
    "excluded": (
        "the field at {path} is required, and excluded from what is written; give it a default, or "
        "do not exclude it"
    ),
    "alias": (
        "the field at {path} is written as {written!r}, and not read by that name; give it one "
        "alias"
    ),
    "secret": (
        "a secret at {path} would be written as '**********'; pass on where it is found, or give "
        "it a serializer that writes it"
    ),
    "union": (
        "{one} at {path} would come back as {other}, for JSON does not tell these members of the "
        "union apart; use models with a discriminator"
    ),
    "member": "{one} at {path} would not come back from JSON; give it a value of text, or a number",
    "key": (
        "keys of type {one} at {path} would come back as {other}, for in JSON a key is text; use a "
        "list of pairs"
    ),
}
_CONVERTED: Final = ("function-before", "function-after", "function-wrap", "chain")
_SEVERAL: Final = ("list", "set", "frozenset", "tuple", "dict", "deque", "generator")


def refusal(schema: Schema, config: Mapping[str, Any]) -> str | None:
    """Why values of a type do not come back from JSON; None if they may.

    What serialisers of the user's own write is not looked at: each value tells.

    Args:
        schema: Pydantic's schema of the type.
        config: Pydantic's configuration outside of models.
    """
    inner, definitions = definitions_of(schema)
    try:
        _Search(definitions).look(inner, config, "$", converted=False)
    except _Found as found:
        return str(found)
    return None


class _Found(Exception):
    def __init__(self, reason: str, **about: Any) -> None:
        super().__init__(_REASONS[reason].format(**about))


class _Search:
    def __init__(self, definitions: Mapping[str, Schema]) -> None:
        self._definitions = definitions
        self._seen: set[str] = set()

    def look(
        self, schema: Schema, config: Mapping[str, Any], path: str, *, converted: bool
    ) -> None:
        """Raise the first reason in a schema.

        Args:
            schema: Where to look.
            config: The configuration there.
            path: Where that is, for the message.
            converted: Whether validators are around it, which may make of JSON what it asks.
        """
        kind: str = schema["type"]
        serializer = schema.get("serialization")
        if serializer is not None and not _writes_parts(serializer):
            if _hides(serializer):
                raise _Found("secret", path=path)
            return
        if kind == "definition-ref":
            if schema["schema_ref"] not in self._seen:
                self._seen.add(schema["schema_ref"])
                self.look(self._definitions[schema["schema_ref"]], config, path, converted=False)
            return
        if _is_lossy(schema, config, converted=converted):
            raise _Found(kind, path=path, cls=_name(schema.get("cls")))
        if kind in ("model", "dataclass", "typed-dict"):
            config = schema.get("config", config)
        fields = _fields(schema)
        if fields is not None:
            self._check_fields(fields, config, path)
            return
        for one, where in _inner(schema, path):
            self.look(one, config, where, converted=converted or kind in _CONVERTED)
        if kind == "union":
            self._check_union(schema, config, path)
        elif kind in ("enum", "literal"):
            for one, other in self._mistaken(schema, config, samples(schema)):
                raise _Found(
                    "member" if other is None else "union", one=one, other=other, path=path
                )
        elif kind == "dict":
            self._check_keys(schema, config, path)

    def _check_fields(
        self, fields: Iterable[tuple[str, Schema]], config: Mapping[str, Any], path: str
    ) -> None:
        for name, field in fields:
            where = f"{path}.{name}"
            inner: Schema = field["schema"]
            if field.get("serialization_exclude"):
                if field.get("required", inner["type"] != "default"):
                    raise _Found("excluded", path=where)
                continue
            written = field.get("serialization_alias", name)
            if written not in _read_by(name, field, config):
                raise _Found("alias", path=where, written=written)
            self.look(inner, config, where, converted=False)

    def _check_union(self, schema: Schema, config: Mapping[str, Any], path: str) -> None:
        """What a member of a union writes may be read as another member."""
        values = samples(schema)
        for one, other in self._mistaken(schema, config, values):
            if other is not None:  # Otherwise, validators have a say: each value tells.
                raise _Found("union", one=_kind(one), other=_kind(other), path=path)

    def _check_keys(self, schema: Schema, config: Mapping[str, Any], path: str) -> None:
        """A key is written as text, and may not be read from it, or as something else."""
        keys: Schema = schema.get("keys_schema", {"type": "any"})
        whole = {"type": "dict", "keys_schema": keys, "values_schema": {"type": "any"}}
        for key in samples(keys):
            for _, other in self._mistaken(whole, config, [{key: None}]):
                name = "another type" if other is None else _kind(next(iter(other)))
                raise _Found("key", one=_kind(key), other=name, path=path)

    def _mistaken(
        self, schema: Schema, config: Mapping[str, Any], values: list[Any]
    ) -> Iterator[tuple[Any, Any]]:
        """Those of some values that are not read as they are, with what they are read as."""
        if not values:
            return
        whole: Any = {
            "type": "definitions",
            "schema": schema,
            "definitions": [*self._definitions.values()],
        }
        told = cast("CoreConfig", {key: config[key] for key in BASE64 if key in config})
        validator, serializer = SchemaValidator(whole, told), SchemaSerializer(whole, told)
        texts = [serializer.to_json(one, by_alias=True, warnings=False).decode() for one in values]
        if TEXT in values:
            # Text that reads like a value of another member is text all the same.
            likely = [(from_json(text), text) for text in texts if text.startswith('"')]
            values = [*values, *(value for value, _ in likely)]
            texts += [text for _, text in likely]
        for value, text in zip(values, texts, strict=True):
            try:
                read = validator.validate_json(expanded(text))
            except ValueError:
                yield value, None
                continue
            if difference(value, read, plainly=False) is not None:
                yield value, read


def _is_lossy(schema: Schema, config: Mapping[str, Any], *, converted: bool) -> bool:
    kind: str = schema["type"]
    if kind in ("callable", "is-subclass", "is-instance"):
        return not converted
    if kind == "bytes":
        ways = {config.get(key, "utf8") for key in BASE64}
        return "utf8" in ways or len(ways) > 1
    if kind == "generator":
        return not of_builtins(schema.get("items_schema", {"type": "any"}))
    return kind == "ordered-dict"


def _inner(schema: Schema, path: str) -> Iterable[tuple[Schema, str]]:
    """What a schema is made of, as far as JSON is read by it."""
    kind = schema["type"]
    only = {"json-or-python": "json_schema", "lax-or-strict": "lax_schema"}.get(kind)
    todo: list[Any] = [schema[only]] if only is not None else [*schema.values()]
    where = f"{path}[*]" if kind in _SEVERAL else path
    while todo:
        one = todo.pop(0)
        if isinstance(one, list | tuple):  # A choice may have a label.
            todo += cast("list[Any]", one)
        elif isinstance(one, dict):
            parts = cast("dict[str, Any]", one)
            if isinstance(parts.get("type"), str):
                yield parts, where
            elif kind == "tagged-union":
                todo += parts.values()


def _fields(schema: Schema) -> list[tuple[str, Schema]] | None:
    if schema["type"] in ("model-fields", "typed-dict"):
        return [*schema["fields"].items()]
    if schema["type"] in ("dataclass-args", "named-tuple"):
        return [(one["name"], one) for one in schema["fields"]]
    return None


def _read_by(name: str, field: Schema, config: Mapping[str, Any]) -> set[str]:
    """The names by which a field is read."""
    alias: Any = field.get("validation_alias", name)
    # A name, a path of several, or paths to choose from.
    paths: list[Any] = [[alias]] if isinstance(alias, str) else alias
    if paths and not isinstance(paths[0], list):
        paths = [paths]
    names: set[str] = {path[0] for path in paths if len(path) == 1}
    by_name = any(config.get(key) for key in ("validate_by_name", "populate_by_name"))
    if by_name or config.get("validate_by_alias") is False:
        names.add(name)
    return names


def _writes_parts(serializer: Schema) -> bool:
    """Whether a serialiser is pydantic's own for a container, and writes what is in it."""
    module = getattr(serializer.get("function"), "__module__", "")
    return serializer["type"] == "function-wrap" and str(module).startswith("pydantic._internal")


def _hides(serializer: Schema) -> bool:
    """Whether a serialiser is that of pydantic's secrets."""
    function = serializer.get("function")
    name = f"{getattr(function, '__module__', '')}.{getattr(function, '__name__', '')}"
    return name.startswith("pydantic.types._serialize_secret")


def _name(cls: Any) -> str:
    return getattr(cls, "__name__", str(cls))


def _kind(value: Any) -> str:
    return type(value).__name__
