"""What a function's type hints say, as far as somebody asks."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial
from types import FunctionType
from typing import Any, Final, Self, cast, get_args, get_origin, get_type_hints

__all__ = ["awaited", "bare", "hints_of", "is_async", "result_hint", "telling"]

_AWAITED: Final = (Awaitable, Coroutine)


def hints_of(function: Callable[..., Any], names: Iterable[str]) -> dict[str, Any]:
    """Some of a function's hints.

    The others are not looked at: what is imported for type checkers only cannot be resolved.

    Args:
        function: A function; whatever else may be called has no hints.
        names: Which parameters, and ``return``.

    Raises:
        NameError: One of these cannot be resolved.
    """
    written: dict[str, Any] = getattr(function, "__annotations__", {})
    inner: Any = inspect.unwrap(function)
    if not isinstance(inner, FunctionType):
        return {}
    asked = FunctionType(inner.__code__, inner.__globals__, closure=inner.__closure__)
    asked.__annotations__ = {name: written[name] for name in names if name in written}
    # The type variables of ``def f[T]()``, since Python 3.12.
    cast("Any", asked).__type_params__ = getattr(inner, "__type_params__", ())
    return get_type_hints(asked, include_extras=True)


def bare(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function that is called in the end, without what was bound to it."""
    while isinstance(function, partial):
        function = function.func
    if not isinstance(function, type) and not hasattr(function, "__code__"):
        method = inspect.getattr_static(type(function), "__call__", None)
        if isinstance(method, FunctionType):
            function = method  # An object that can be called.
    return getattr(function, "__func__", function)


def telling(function: Callable[..., Any]) -> Callable[..., Any]:
    """What tells the type of a result: the bare function, or the class of a method for ``Self``."""
    plain = bare(function)
    hint = getattr(plain, "__annotations__", {}).get("return")
    if hint is not Self and hint not in ("Self", "typing.Self"):
        return plain
    while isinstance(function, partial):
        function = function.func
    owner = getattr(function, "__self__", None)
    return owner if isinstance(owner, type) else type(owner)


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling a function gives a coroutine for certain."""
    # Both may be marked: the object, and the function that it is called by.
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(bare(function))


def result_hint(function: Callable[..., Any]) -> Any:
    """What a bare function says that it returns, or what is awaited of it; a class makes itself.

    Raises:
        NameError: That cannot be resolved.
    """
    if isinstance(function, type):
        return function
    return awaited(hints_of(function, ["return"]).get("return", Any))


def awaited(hint: Any) -> Any:
    """What is awaited of what a hint stands for; the hint itself if nothing is."""
    return get_args(hint)[-1] if get_origin(hint) in _AWAITED and get_args(hint) else hint
