"""Values of a type as JSON text and back: the same value, or an error before it is stored."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from types import NoneType
from typing import Any, Final, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic_core import PydanticSerializationError, to_json

from pgconductor.domain.failures import message_of
from pgconductor.domain.jsonb import expanded
from pgconductor.domain.payloads import decode, encode, encoded_strictly, refuse_lone_surrogates
from pgconductor.exceptions import ConfigurationError, InvalidPayload, PayloadDecodeError
from pgconductor.runtime.lossy import BASE64, refusal
from pgconductor.runtime.sameness import difference
from pgconductor.runtime.schemas import Check, Unsure, kinds, of_builtins, of_plain_json, surely

__all__ = ["Codec"]

_CONFIG: Final = cast("ConfigDict", BASE64)
_MOST_FINDINGS: Final = 500
#: The value in a warning of pydantic's serialiser, which may be secret.
_QUOTED: Final = re.compile(
    r", input_value=(?:(?!\n  PydanticSerialization).)*(?=, input_type=)", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Codec:
    """Turns values of one type into JSON text and back.

    Attributes:
        adapter: Pydantic's adapter of the type; None for plain JSON, which is taken as it is.
        name: What the type is called in messages.
        keeps_none: Whether None stands for itself, whatever pydantic would make of it.
        plain: Whether the type is one of plain JSON, such as ``dict`` or ``list[Any]``.
        freshly_made: Whether what validation returns is of the type for certain, and comes back. A
            model may have been changed since it was validated, so its serialiser must complain,
            which takes it longer than all the rest.
        surely: Tells at a glance that a value comes back; None where it has to be read back.
        lazy: Whether a value may hold an iterator, which can be written once only.
        kinds: What pydantic's schema of the type is made of.
    """

    adapter: TypeAdapter[Any] | None = None
    name: str = "JSON"
    keeps_none: bool = True
    plain: bool = True
    freshly_made: bool = False
    surely: Check | None = None
    lazy: bool = False
    kinds: frozenset[str] = frozenset()

    @classmethod
    def of(cls, hint: Any, where: str) -> Codec:
        """The codec of a type hint.

        Args:
            hint: A type, or ``Any`` for plain JSON.
            where: What carries the hint, for the message.

        Raises:
            ConfigurationError: Pydantic cannot handle the type, or its values would not come back.
        """
        if hint is Any or hint is inspect.Parameter.empty:
            return cls()
        try:
            adapter, config = _adapter(hint)
        except (PydanticUserError, PydanticUndefinedAnnotation, TypeError) as error:
            raise ConfigurationError(
                f"{where}: pydantic cannot handle {hint!r}: {error}"
            ) from error
        schema: Any = adapter.core_schema
        why = refusal(schema, config)
        if why is not None:
            raise ConfigurationError(f"{where}: {why}")
        found = kinds(schema)
        return cls(
            adapter,
            getattr(hint, "__name__", str(hint)),
            keeps_none=hint is None or hint is NoneType,
            plain="any" in found and of_plain_json(schema),
            freshly_made=of_builtins(schema),
            surely=_surely(schema),
            lazy="generator" in found,
            kinds=frozenset(found),
        )

    def encode(self, value: object, *, max_bytes: int, field: str = "payload") -> str | None:
        """JSON text of a value of the type; None for None.

        Raises:
            InvalidPayload: The value is not of the type, not strict JSON, or would not come back
                as it is. Its cause is a ``PayloadDecodeError`` where it could not be read at all.
        """
        if value is None and self.keeps_none:
            return None
        if self.adapter is None:
            return None if value is None else encode(value, max_bytes=max_bytes, field=field)
        try:
            valid = self.adapter.validator.validate_python(value)
        except ValidationError as error:
            # Not its cause: pydantic's message quotes the input, and tracebacks are logged.
            raise InvalidPayload(_explained(error, self.name), field) from None
        if self.plain:
            return None if valid is None else encode(valid, max_bytes=max_bytes, field=field)
        try:
            if self.freshly_made:
                # The way of most small payloads.
                written = self.adapter.serializer.to_json(valid)
                at_once = encoded_strictly(written, max_bytes=max_bytes)
                if at_once is not None:
                    return at_once
            text, quick = self._written(self.adapter, valid, max_bytes, field)
        except PydanticSerializationError as error:
            # Not its cause: pydantic's message quotes the value, and tracebacks are logged.
            told = _QUOTED.sub("", message_of(error))
            raise InvalidPayload(f"{self.name} cannot be made JSON: {told}", field) from None
        except (UnicodeError, ValueError) as error:
            if isinstance(error, InvalidPayload):
                raise
            raise InvalidPayload(
                f"{self.name} cannot be made JSON: {message_of(error)}", field
            ) from error
        if "typed-dict" in self.kinds and (key := _left_out(value, valid)) is not None:
            raise InvalidPayload(f"key {key!r} is not of the type, and would be left out", field)
        if not quick:
            self._compare(valid, text, field)
        return text

    def _written(
        self, adapter: TypeAdapter[Any], valid: Any, max_bytes: int, field: str
    ) -> tuple[str | None, bool]:
        """The JSON text, and whether it is certain that the same value is read from it."""
        serializer = adapter.serializer
        if not self.lazy:
            written = (
                serializer.to_json(valid)
                if self.freshly_made
                else serializer.to_json(valid, by_alias=True, round_trip=True, warnings="error")
            )
            quick = encoded_strictly(written, max_bytes=max_bytes)
            if quick is not None:
                return quick, self.freshly_made or (self.surely is not None and self.surely(valid))
        value = serializer.to_python(
            valid, mode="json", by_alias=True, round_trip=True, warnings="error"
        )
        if not self.lazy:
            refuse_lone_surrogates(serializer.to_python(valid), field)
        text = None if value is None else encode(value, max_bytes=max_bytes, field=field)
        return text, self.freshly_made and valid is not None

    def _compare(self, valid: Any, text: str | None, field: str) -> None:
        """Raise unless the same value is read from the text, as jsonb writes it."""
        try:
            read = self.decode(None if text is None else expanded(text))
            plainly = "any" in self.kinds and "union" not in self.kinds
            why = difference(valid, read, plainly=plainly)
        except PayloadDecodeError as error:
            raise InvalidPayload(f"cannot be read back: {error}", field) from error
        except Exception as error:  # noqa: BLE001 - the type's own validators may raise anything
            unread = PayloadDecodeError(f"{type(error).__name__}: {message_of(error)}")
            unread.__cause__ = error
            raise InvalidPayload(f"cannot be read back: {unread}", field) from unread
        if why is not None:
            raise InvalidPayload(why, field)

    def decode(self, text: str | None) -> Any:
        """The value that JSON text stands for.

        Raises:
            PayloadDecodeError: The text cannot be read, or is not of the type.
        """
        if self.adapter is None:
            return decode(text)
        try:
            return self.adapter.validator.validate_json("null" if text is None else text)
        except ValidationError as error:
            raise PayloadDecodeError(_explained(error, self.name)) from None
        except (ValueError, RecursionError) as error:
            raise PayloadDecodeError(
                f"the stored JSON cannot be read: {message_of(error)}"
            ) from error

    def from_stored(self, value: Any) -> Any:
        """The value that decoded JSON stands for.

        Raises:
            PayloadDecodeError: It is not of the type.
        """
        return value if self.adapter is None else self.decode(to_json(value).decode())


def _adapter(hint: Any) -> tuple[TypeAdapter[Any], ConfigDict]:
    """Pydantic's adapter of a type, with bytes as base64 as far as the type does not say."""
    try:
        return TypeAdapter(hint, config=_CONFIG), _CONFIG
    except PydanticUserError as error:
        if error.code != "type-adapter-config-unused":
            raise
    return TypeAdapter(hint), ConfigDict()


def _surely(schema: Any) -> Check | None:
    try:
        return surely(schema) or _always
    except Unsure:
        return None


def _always(_: object) -> bool:
    return True


def _left_out(given: Any, valid: Any) -> str | None:
    """A key of a dictionary that validation has left out."""
    todo = [(given, valid)]
    while todo:
        one, other = todo.pop()
        if isinstance(one, dict) and isinstance(other, dict):
            parts: dict[Any, Any] = cast("Any", one)
            rest: dict[Any, Any] = cast("Any", other)
            if len(parts) > len(rest):
                return str(next(key for key in parts if key not in rest))[:80]
            todo += [(parts[key], rest[key]) for key in parts if key in rest]
        elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
            todo += zip(cast("list[Any]", one), cast("list[Any]", other), strict=False)
    return None


def _explained(error: ValidationError, name: str) -> str:
    """Pydantic's findings in one line, without the input, which may be secret."""
    if error.error_count() > _MOST_FINDINGS:
        # It tells them all or none, and of a million takes many seconds.
        return f"is not a valid {name}: {error.error_count()} things are wrong with it"
    findings = [
        f"{'.'.join(str(part) for part in one['loc']) or '(root)'}: {one['msg']}"
        for one in error.errors(include_url=False, include_input=False, include_context=False)
    ]
    return f"is not a valid {name}: {'; '.join(findings[:5])}"
