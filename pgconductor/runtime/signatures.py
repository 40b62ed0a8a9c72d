"""What can be declared as a handler, and how it is called: (ctx) or (ctx, payload)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin, is_typeddict

from pydantic import BaseModel

from pgconductor.exceptions import ConfigurationError
from pgconductor.runtime.hints import bare, hints_of

__all__ = ["checked", "generates", "name_of", "payload_of"]

_Parameter = inspect.Parameter
_POSITIONAL: Final = (_Parameter.POSITIONAL_ONLY, _Parameter.POSITIONAL_OR_KEYWORD)


def name_of(function: object) -> str:
    """What a function is called in messages."""
    return str(getattr(function, "__qualname__", None) or repr(function))


def generates(function: Callable[..., Any]) -> bool:
    """Whether calling a function gives a generator for certain."""
    return any(
        inspect.isgeneratorfunction(one) or inspect.isasyncgenfunction(one)
        for one in (function, bare(function))
    )


def checked(function: object) -> Callable[..., Any]:
    """The function that a declaration is about, which can be called.

    Args:
        function: What was declared; of a ``staticmethod`` it is the function in it.

    Raises:
        ConfigurationError: It cannot be a handler, whatever parameters it has.
    """
    if isinstance(function, staticmethod):
        function = function.__func__
    name = name_of(function)
    if isinstance(function, classmethod):
        raise ConfigurationError(
            f"{name} is a classmethod, which has no class yet: declare it below the class, as in "
            "conductor.task(Class.method)"
        )
    if isinstance(function, type):
        raise ConfigurationError(
            f"{name} is a class: declare a function, or an object that can be called"
        )
    if not callable(function):
        raise ConfigurationError(f"{name} is not callable")
    if generates(function):
        raise ConfigurationError(f"{name} is a generator; a handler returns its result")
    return function


def payload_of(function: Callable[..., Any]) -> inspect.Parameter | None:
    """The parameter that takes the payload, if there is one.

    Of a decorated function, the signature is that of the function in it. If that cannot be called
    as a handler is, the decorator may give it something: then its own signature counts.

    Raises:
        ConfigurationError: The function cannot be called by (ctx) or (ctx, payload).
    """
    name = name_of(function)
    try:
        signature = inspect.signature(function)
        own = inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{name} does not tell what parameters it has ({error}): call it in a function of your "
            "own, and declare that"
        ) from error
    except NameError as error:  # Python 3.14 evaluates hints as they are asked for.
        raise ConfigurationError(f"{name}: a type hint cannot be resolved ({error})") from error
    trouble = _trouble(signature)
    if trouble is not None and signature != own and _trouble(own) is None:
        signature, trouble = own, None
    if trouble is not None:
        raise ConfigurationError(f"{name} must take (ctx) or (ctx, payload): {trouble}")
    positional = [one for one in signature.parameters.values() if one.kind in _POSITIONAL]
    if signature == own and not hasattr(function, "__wrapped__"):
        _check_context(function, positional[0].name)
    payload = positional[1] if len(positional) > 1 else None
    try:
        own.bind(*(None for _ in positional[:2]))
    except TypeError as error:
        raise ConfigurationError(
            f"{name} is decorated by something that cannot be called by (ctx) or (ctx, payload): "
            f"{error}"
        ) from error
    return payload


def _check_context(function: Callable[..., Any], name: str) -> None:
    """Raise if the first parameter is the payload, by its type: it would get the context."""
    try:
        hint = hints_of(bare(function), [name]).get(name)
    except Exception:  # noqa: BLE001 - the context's type is often imported for type checkers only
        return
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    kinds = [get_origin(one) or one for one in members if one is not NoneType]
    if kinds and all(isinstance(one, type) and _is_of_payloads(one) for one in kinds):
        raise ConfigurationError(
            f"{name_of(function)} must take (ctx) or (ctx, payload): its first parameter, "
            f"{name!r}, would get the context, which is none of its type; put ctx before it"
        )


def _is_of_payloads(cls: type) -> bool:
    plain = cls.__module__ in ("builtins", "datetime", "decimal", "uuid") and cls is not object
    known: Any = cls
    return plain or issubclass(cls, BaseModel) or is_dataclass(known) or is_typeddict(known)


def _trouble(signature: inspect.Signature) -> str | None:
    """Why a handler cannot have a signature; None if it can."""
    parameters = list(signature.parameters.values())
    if any(one.kind is _Parameter.VAR_POSITIONAL for one in parameters):
        return (
            "of *args nobody can tell what they take; name the parameters, or let the decorator "
            "use functools.wraps"
        )
    return _trouble_of_named(parameters, [one for one in parameters if one.kind in _POSITIONAL])


def _trouble_of_named(
    parameters: list[inspect.Parameter], positional: list[inspect.Parameter]
) -> str | None:
    if not positional:
        return "it takes no context; let its first parameter be ctx"
    if positional[0].name in ("self", "cls"):
        return (
            f"its first parameter is {positional[0].name!r}; declare the method of an object, as "
            "in conductor.task(object.method), not the function in its class"
        )
    required = [one for one in parameters if one.default is one.empty]
    others = [one for one in required if one not in positional[:2]]
    if len(positional) == 1 and others:
        first = others[0]
        if first.kind is first.KEYWORD_ONLY:
            return f"{first.name!r} is keyword-only; take the '*' away if it is the payload"
        return f"**{first.name} takes no payload, which is one value; name a second parameter"
    extra = [repr(one.name) for one in others if one.kind is not one.VAR_KEYWORD]
    if not extra:
        return None
    return (
        f"nothing is given for {', '.join(extra)}; bind a value by functools.partial, or give it a "
        "default"
    )
