"""How results of steps are written and read: by the hints of their functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from weakref import WeakKeyDictionary

from pgconductor.exceptions import ConfigurationError, InvalidInput
from pgconductor.runtime.codec import Codec
from pgconductor.runtime.hints import result_hint, telling
from pgconductor.runtime.signatures import generates

__all__ = ["codec_of"]

#: By function, for as long as it lives: making one costs more than a step.
_CODECS: Final[WeakKeyDictionary[Callable[..., Any], Codec]] = WeakKeyDictionary()


def codec_of(function: Callable[..., Any]) -> Codec:
    """The codec of what a function returns, by its hint; without one, plain JSON.

    Raises:
        InvalidInput: It is nothing that can be called, or a generator.
        ConfigurationError: The hint cannot be resolved, or pydantic cannot handle it.
    """
    if not callable(function):
        raise InvalidInput(
            "fn", f"{function!r} cannot be called: give the function and its arguments, one by one"
        )
    if generates(function):
        raise InvalidInput(
            "fn", f"{function!r} is a generator; a step's function returns its result"
        )
    return _codec_of(telling(function))


def _codec_of(function: Callable[..., Any]) -> Codec:
    """The codec of what a function returns, by its hint; without one, plain JSON."""
    try:
        found = _CODECS.get(function)
        if found is None:
            _CODECS[function] = found = _made(function)
    except TypeError:
        return _made(function)  # A callable object that cannot be a key.
    return found


def _made(function: Callable[..., Any]) -> Codec:
    name = getattr(function, "__qualname__", repr(function))
    try:
        hint = result_hint(function)
    except Exception as error:
        # What is written in a hint may raise anything as it is evaluated.
        raise ConfigurationError(
            f"step {name}: a type hint cannot be resolved ({error}); the type of a step's result "
            "must be importable where the function is defined"
        ) from error
    return Codec.of(hint, f"step {name}, result")
