"""A handler as the user wrote it, with payload and result typed by its hints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pgconductor.exceptions import ConfigurationError, InvalidPayload, ResultEncodeError
from pgconductor.runtime.codec import Codec
from pgconductor.runtime.hints import awaited, bare, hints_of, is_async
from pgconductor.runtime.signatures import checked, name_of, payload_of

__all__ = ["Codec", "Handler"]


@dataclass(frozen=True, slots=True)
class Handler:
    """A user's function, and how to call it.

    Attributes:
        function: The function itself.
        is_async: Whether calling it gives a coroutine for certain; any other is called in a thread.
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

        Whatever else can be called is taken for plain, and what it returns is awaited if it can be.

        Raises:
            ConfigurationError: It cannot be a handler; the message says why.
        """
        function = checked(function)
        name = name_of(function)
        payload = payload_of(function)
        asked = ["return"] if payload is None else [payload.name, "return"]
        try:
            # Not that of the context, which is often imported for type checkers only.
            hints = hints_of(bare(function), asked)
        except Exception as error:
            # What is written in a hint may raise anything as it is evaluated.
            raise ConfigurationError(
                f"{name}: a type hint cannot be resolved ({error}); payload and result types must "
                "be importable where the handler is defined"
            ) from error
        hint = Any if payload is None else hints.get(payload.name, Any)
        return cls(
            function=function,
            is_async=is_async(function),
            takes_payload=payload is not None,
            has_default=payload is not None and payload.default is not payload.empty,
            payload=Codec.of(hint, f"{name}, payload"),
            result=Codec.of(awaited(hints.get("return", Any)), f"{name}, result"),
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
