"""Errors of handlers as text, whatever they are: bounded in size and in time, and never raising.

An error may have a message of many megabytes, raise when it is asked for it, hold a million others,
or be caused by one that it causes. What is told of it is cut before it is copied, and nothing is
looked at without end.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final, cast

from pydantic_core import ValidationError

from pgconductor.domain.limits import MAX_ERROR_CHARS, MAX_TRACEBACK_CHARS

__all__ = [
    "clean",
    "is_modest",
    "leaves",
    "members",
    "message_of",
    "name_of",
    "shown",
    "stack_of",
    "storable",
]

#: How much of an error is looked at before it is told in short.
_ERRORS: Final = 64
_FRAMES: Final = 2_000
_NOTES: Final = 20
#: Pydantic takes 20 microseconds to show one of these, and shows them all.
_VALIDATIONS: Final = 500
_SHOWN_CHARS: Final = 500
#: What is told in short.
_SHORT_CHARS: Final = 1_000
_SHORT_FRAMES: Final = 30
_SHORT_ERRORS: Final = 5


def storable(text: str, limit: int) -> str:
    """``text`` as Postgres can store it: no NUL, no lone surrogate, at most ``limit`` long."""
    cleaned = clean(_head(text, limit + 1))
    return cleaned if len(cleaned) <= limit else f"{cleaned[: limit - 1]}…"


def clean(text: str) -> str:
    """``text`` without what Postgres cannot store."""
    return text.replace("\x00", "\\0").encode(errors="backslashreplace").decode()


def _head(text: str, most: int) -> str:
    # A subclass of str may do anything in methods of its own.
    return str.__getitem__(text, slice(most))


def name_of(error: BaseException) -> str:
    """The name of an error's type."""
    return storable(type.__dict__["__name__"].__get__(type(error)), 200)


def message_of(error: BaseException, most: int = MAX_ERROR_CHARS) -> str:
    """An error's message, at most ``most`` characters of it and one more."""
    try:
        if isinstance(error, ValidationError) and _is_long(error):
            return f"{error.error_count()} validation errors for {error.title}"
        return _head(str(error), most + 1)
    except BaseException as broken:  # noqa: BLE001 - a user's __str__ may raise anything
        return f"<its message cannot be shown: {name_of(broken)}>"


def _is_long(error: BaseException) -> bool:
    return isinstance(error, ValidationError) and error.error_count() > _VALIDATIONS


def shown(error: BaseException) -> str:
    """An error in a line of a log, as ``repr`` has it."""
    if members(error) is None and not isinstance(error, ValidationError):
        try:
            return storable(_head(repr(error), _SHOWN_CHARS + 1), _SHOWN_CHARS)
        except BaseException as broken:  # noqa: BLE001 - a user's __repr__ may raise anything
            return f"{name_of(error)}(<it cannot be shown: {name_of(broken)}>)"
    return storable(f"{name_of(error)}({message_of(error, _SHOWN_CHARS)!r})", _SHOWN_CHARS)


def members(error: BaseException) -> tuple[BaseException, ...] | None:
    """What a group holds; None for an error that is none."""
    if isinstance(error, BaseExceptionGroup):
        return cast("BaseExceptionGroup[BaseException]", error).exceptions
    return None


def leaves(
    error: BaseException, whole: Callable[[BaseException], bool] = lambda _: False
) -> Iterator[BaseException]:
    """The errors of a group, and of the groups in it; the error itself if it is none.

    A group that is in several others is gone through once.

    Args:
        error: The error.
        whole: Whether a group is to be taken as one error.
    """
    left, seen = [iter((error,))], set[int]()
    while left:
        one = next(left[-1], None)
        if one is None:
            left.pop()
        elif (inside := members(one)) is None or whole(one):
            yield one
        elif id(one) not in seen:
            seen.add(id(one))
            left.append(iter(inside))


def is_modest(error: BaseException) -> bool:
    """Whether an error, with all that it comes from, can be shown whole in no time."""
    try:
        return _is_modest(error)
    except BaseException:  # noqa: BLE001 - its notes and fields may be anything
        return False


def _is_modest(error: BaseException) -> bool:
    told: set[int] = set()
    left: list[BaseException] = [error]
    errors = frames = 0
    while left:
        one = left.pop()
        errors += 1
        told.add(id(one))
        # Whatever is in several groups is told of in each.
        left += (members(one) or ())[: _ERRORS + 1]
        left += [
            it for it in (one.__cause__, one.__context__) if it is not None and id(it) not in told
        ]
        trace = one.__traceback__
        while trace is not None and frames <= _FRAMES:
            frames, trace = frames + 1, trace.tb_next
        texts = [message_of(one), *_notes(one)]
        large = _is_long(one) or any(len(text) > MAX_ERROR_CHARS for text in texts)
        if errors + len(left) > _ERRORS or frames > _FRAMES or large:
            return False
    return True


def _notes(error: BaseException) -> list[str]:
    notes: list[object] = list(getattr(error, "__notes__", ()))
    if len(notes) > _NOTES:
        raise ValueError("too many notes")
    return [_head(str(one), MAX_ERROR_CHARS + 1) for one in notes]


def stack_of(error: BaseException) -> str:
    """An error's formatted stack, as it is stored; of a very large one, in short."""
    # The end of a stack is the part that tells; an innocent head may be cut.
    text = "".join(_lines(error))[-MAX_TRACEBACK_CHARS:]
    return clean(text)[-MAX_TRACEBACK_CHARS:]


def _lines(error: BaseException) -> list[str]:
    if is_modest(error):
        try:
            return traceback.format_exception(error)
        except BaseException:  # noqa: BLE001, S110 - then it is told in short
            pass
    try:
        return list(_in_short(error))
    except BaseException as broken:  # noqa: BLE001 - its fields may be anything
        return [f"<its stack cannot be shown: {name_of(broken)}>\n"]


def _in_short(error: BaseException) -> Iterator[str]:
    """The last frames, and the errors that it comes from or holds, without theirs."""
    yield "(the error is large, and told in short)\n"
    cause, told = error.__cause__ or error.__context__, {id(error)}
    while cause is not None and id(cause) not in told and len(told) <= _SHORT_ERRORS:
        told.add(id(cause))
        yield f"after {name_of(cause)}: {message_of(cause, _SHORT_CHARS)}\n"
        cause = cause.__cause__ or cause.__context__
    if members(error) is not None:
        for one in islice(leaves(error), _SHORT_ERRORS):
            yield f"holds {name_of(one)}: {message_of(one, _SHORT_CHARS)}\n"
    yield "Traceback (most recent call last):\n"
    yield from traceback.format_tb(error.__traceback__, limit=-_SHORT_FRAMES)
    yield f"{name_of(error)}: {message_of(error, _SHORT_CHARS)}\n"
