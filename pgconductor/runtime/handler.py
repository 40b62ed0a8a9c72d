"""A handler as the user wrote it, with payload and result typed by its hints."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import NoneType
from typing import Any, Final, cast

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic_core import PydanticSerializationError, to_json

from pgconductor.domain.failures import message_of
from pgconductor.domain.payloads import decode, encode, encoded_strictly, refuse_lone_surrogates
from pgconductor.exceptions import (
    ConfigurationError,
    InvalidPayload,
    PayloadDecodeError,
    ResultEncodeError,
)
from pgconductor.runtime.hints import bare, hints_of

__all__ = ["Codec", "Handler"]


#: Kinds of pydantic's schemas whose values validation makes anew, and that serialise as they are.
_BUILTINS: Final = frozenset({"bool", "dict", "float", "int", "list", "none", "nullable", "str"})


_MOST_FINDINGS: Final = 500


@dataclass(frozen=True, slots=True)
class Codec:
    """Turns values of one type into JSON text and back.

    Attributes:
        adapter: Pydantic's adapter of the type; None for plain JSON, which is taken as it is.
        name: What the type is called in messages.
        keeps_none: Whether None stands for itself, whatever pydantic would make of it.
        freshly_made: Whether what validation returns is of the type for certain. A model may have
            been changed since it was validated, so its serialiser must complain, which takes it
            longer than all the rest.
        lazy: Whether a value may hold an iterator, which can be written once only.
    """

    adapter: TypeAdapter[Any] | None = None
    name: str = "JSON"
    keeps_none: bool = True
    freshly_made: bool = False
    lazy: bool = False

    @classmethod
    def of(cls, hint: Any, where: str) -> Codec:
        """The codec of a type hint.

        Args:
            hint: A type, or ``Any`` for plain JSON.
            where: What carries the hint, for the message.

        Raises:
            ConfigurationError: Pydantic cannot handle the type.
        """
        if hint is Any or hint is inspect.Parameter.empty:
            return cls()
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(hint)
        except (PydanticUserError, PydanticUndefinedAnnotation, TypeError) as error:
            raise ConfigurationError(
                f"{where}: pydantic cannot handle {hint!r}: {error}"
            ) from error
        return cls(
            adapter,
            getattr(hint, "__name__", str(hint)),
            keeps_none=hint is None or hint is NoneType,
            freshly_made=_of_builtins(adapter.core_schema),
            lazy=_has_iterators(adapter.core_schema),
        )

    def encode(self, value: object, *, max_bytes: int, field: str = "payload") -> str | None:
        """JSON text of a value of the type; None for None.

        Raises:
            InvalidPayload: The value is not of the type, or not strict JSON.
        """
        if value is None and self.keeps_none:
            return None
        if self.adapter is None:
            return None if value is None else encode(value, max_bytes=max_bytes, field=field)
        try:
            valid = self.adapter.validator.validate_python(value)
            serializer = self.adapter.serializer
            if not self.lazy:
                quick = encoded_strictly(
                    serializer.to_json(valid)
                    if self.freshly_made
                    else serializer.to_json(
                        valid, by_alias=True, round_trip=True, warnings="error"
                    ),
                    max_bytes=max_bytes,
                )
                if quick is not None:
                    return quick
            value = serializer.to_python(
                valid, mode="json", by_alias=True, round_trip=True, warnings="error"
            )
            if not self.lazy:
                refuse_lone_surrogates(serializer.to_python(valid), field)
        except ValidationError as error:
            # Not its cause: pydantic's message quotes the input, and tracebacks are logged.
            raise InvalidPayload(_explained(error, self.name), field) from None
        except (PydanticSerializationError, UnicodeError, ValueError) as error:
            raise InvalidPayload(
                f"{self.name} cannot be made JSON: {message_of(error)}", field
            ) from error
        return None if value is None else encode(value, max_bytes=max_bytes, field=field)

    def check(self, text: str | None) -> None:
        """What was encoded must be of the type: an excluded field may be missing, for instance.

        What it is read as here is not what it is on record: there, keys of objects are in another
        order, and a number may be written as another kind of number.

        Raises:
            PayloadDecodeError: It is not.
        """
        if self.adapter is not None:
            self.decode(text)

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


def _of_builtins(schema: Any) -> bool:
    """Whether a type is made of plain JSON's own types only."""
    if isinstance(schema, dict):
        parts = cast("dict[str, Any]", schema)
        return parts.get("type", "none") in _BUILTINS and all(map(_of_builtins, parts.values()))
    return not isinstance(schema, list | tuple) or all(map(_of_builtins, cast("list[Any]", schema)))


def _has_iterators(schema: Any) -> bool:
    """Whether pydantic leaves some iterator of the caller's as it is."""
    if isinstance(schema, dict):
        parts = cast("dict[str, Any]", schema)
        return parts.get("type") == "generator" or any(map(_has_iterators, parts.values()))
    return isinstance(schema, list | tuple) and any(map(_has_iterators, cast("list[Any]", schema)))


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


@dataclass(frozen=True, slots=True)
class Handler:
    """A user's function, and how to call it.

    Attributes:
        function: The function itself.
        is_async: Whether it is a coroutine function; a plain one is called in a thread.
        takes_payload: Whether it has a second parameter.
        has_default: Whether that parameter has a default, used for an execution without payload.
        payload: Codec of the payload.
        result: Codec of the result.
    """

    function: Callable[..., Any]
    is_async: bool
    takes_payload: bool
    has_default: bool
    payload: Codec
    result: Codec

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Handler:
        """Inspect a function ``f(ctx)`` or ``f(ctx, payload)``, async or plain.

        Raises:
            ConfigurationError: It cannot be a handler; the message says why.
        """
        name = getattr(function, "__qualname__", repr(function))
        if not callable(function):
            raise ConfigurationError(f"{name} is not callable")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise ConfigurationError(f"{name} is a generator; a handler returns its result")
        parameters = list(inspect.signature(function).parameters.values())
        positional = [
            p for p in parameters if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}
        ]
        extra = [p for p in parameters[2:] if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
        if len(positional) == 0 or extra:
            raise ConfigurationError(f"{name} must take (ctx) or (ctx, payload), nothing else")
        try:
            # Not that of the context, which is often imported for type checkers only.
            hints = hints_of(bare(function), [*(one.name for one in positional[1:2]), "return"])
        except NameError as error:
            raise ConfigurationError(
                f"{name}: a type hint cannot be resolved ({error}); payload and result types must "
                "be importable where the handler is defined"
            ) from error
        payload = positional[1] if len(positional) > 1 else None
        hint = Any if payload is None else hints.get(payload.name, Any)
        return cls(
            function=function,
            is_async=inspect.iscoroutinefunction(function),
            takes_payload=payload is not None,
            has_default=payload is not None and payload.default is not payload.empty,
            payload=Codec.of(hint, f"{name}, payload"),
            result=Codec.of(hints.get("return", Any), f"{name}, result"),
        )

    def arguments(self, payload: str | None) -> tuple[Any, ...]:
        """What to pass after the context.

        Raises:
            PayloadDecodeError: The stored payload is not of the handler's type.
        """
        if not self.takes_payload or (payload is None and self.has_default):
            return ()
        return (self.payload.decode(payload),)

    def encode_payload(self, value: object, *, max_bytes: int) -> str | None:
        """JSON text of a payload.

        Raises:
            InvalidPayload: It is not of the handler's type, or the handler takes none.
        """
        if value is None and (self.has_default or not self.takes_payload):
            return None
        if not self.takes_payload:
            raise InvalidPayload("this task takes no payload")
        return self.payload.encode(value, max_bytes=max_bytes)

    def encode_result(self, value: object, *, max_bytes: int) -> str | None:
        """JSON text of a result.

        Raises:
            ResultEncodeError: It is not of the declared type, or cannot be stored.
        """
        try:
            return self.result.encode(value, max_bytes=max_bytes, field="result")
        except InvalidPayload as error:
            raise ResultEncodeError(
                f"the handler's effects have happened, its result cannot be stored: {error}"
            ) from error
