"""Errors as they are stored: whatever a handler raises, it can be written down."""

from __future__ import annotations

import tracemalloc
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from pgconductor.domain.failures import is_modest, shown, storable
from pgconductor.domain.limits import MAX_ERROR_CHARS, MAX_TRACEBACK_CHARS
from pgconductor.domain.outcomes import Disposition, Failure, Verdict
from pgconductor.domain.retry import RetryPolicy
from pgconductor.runtime.suspension import consists_of, holds
from pgconductor.runtime.wording import describe
from pgconductor.types import ExecutionState


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:  # noqa: BLE001 - that is what it is for
        return caught


def assert_storable(failure: Failure) -> None:
    texts = (failure.type, failure.message, failure.traceback or "")
    for text, limit in zip(texts, (200, MAX_ERROR_CHARS, MAX_TRACEBACK_CHARS), strict=True):
        assert "\x00" not in text
        text.encode()
        assert len(text) <= limit


def test_an_error_is_type_message_and_stack() -> None:
    failure = Failure.from_exception(raised(KeyError("amount")))
    assert (failure.type, failure.message) == ("KeyError", "'amount'")
    assert failure.traceback is not None
    assert failure.traceback.startswith("Traceback (most recent call last):")
    assert failure.traceback.endswith("KeyError: 'amount'\n")
    assert "test_domain_outcomes.py" in failure.traceback


def test_a_cause_is_shown() -> None:
    error = ValueError("outer")
    error.__cause__ = raised(OSError("inner"))
    stack = Failure.from_exception(raised(error)).traceback
    assert stack is not None
    assert stack.index("OSError: inner") < stack.index("ValueError: outer")


def test_what_postgres_cannot_store_is_escaped() -> None:
    failure = Failure.from_exception(raised(ValueError("a\x00b\ud800c")))
    assert_storable(failure)
    assert failure.message == "a\\0b\\ud800c"
    assert failure.traceback is not None
    assert failure.traceback.endswith("ValueError: a\\0b\\ud800c\n")


@pytest.mark.parametrize("filling", ["x", "\x00", "\ud800", "\U0001f600", "line\n"])
def test_a_huge_message_is_cut(filling: str) -> None:
    failure = Failure.from_exception(raised(ValueError(filling * 200_000)))
    assert_storable(failure)
    assert len(failure.message) == MAX_ERROR_CHARS
    assert failure.message.endswith("…")


def test_the_end_of_a_long_stack_is_kept() -> None:
    def deep(levels: int) -> None:
        if levels:
            (deep if levels % 2 else deeper)(levels - 1)
        raise ValueError("\x00" * 5_000 + "the end")

    def deeper(levels: int) -> None:
        deep(levels)

    with pytest.raises(ValueError, match="the end") as caught:
        deep(400)
    failure = Failure.from_exception(caught.value)
    assert_storable(failure)
    assert failure.traceback is not None
    assert failure.traceback.endswith("the end\n")


# --- errors that resist --------------------------------------------------------------------------


class BrokenStrError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


class BrokenReprError(Exception):
    def __repr__(self) -> str:
        raise RuntimeError("no")


def refuse(_self: object) -> object:
    raise RuntimeError("no")


# Made by hand, since no type checker lets them pass.
WrongStrError: Any = type("WrongStrError", (Exception,), {"__str__": lambda _: 5})
BrokenNotesError: Any = type("BrokenNotesError", (Exception,), {"__notes__": property(refuse)})
OddNotesError: Any = type("OddNotesError", (Exception,), {"__notes__": 5})
OddSyntaxError: Any = SyntaxError


def chain(length: int) -> BaseException:
    error: BaseException = ValueError("first")
    for number in range(length):
        following = ValueError(str(number))
        following.__cause__ = error
        error = following
    return error


def circle() -> BaseException:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    return one


def group(depth: int) -> Any:
    error: Any = ValueError("innermost")
    for _ in range(depth):
        error = ExceptionGroup("group", [error])
    return error


class OddTextError(Exception):
    def __str__(self) -> str:
        return OddText("odd")


class OddText(str):
    __slots__ = ()

    def __len__(self) -> int:
        raise RuntimeError("no")

    __getitem__ = replace = encode = __len__  # type: ignore[assignment]  # all of it is odd


class ExitingError(Exception):
    def __str__(self) -> str:
        raise SystemExit(1)

    __repr__ = __str__


def noted(*notes: str) -> BaseException:
    error = ValueError("noted")
    error.__notes__ = list(notes)
    return error


def invalid(number: int) -> BaseException:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(list[int]).validate_python(["no"] * number)
    return caught.value


def bush(width: int, depth: int) -> Any:
    errors: list[Any] = [ValueError(str(number)) for number in range(width)]
    for _ in range(depth):
        errors = [ExceptionGroup("bush", errors), *errors[:width]]
    return errors[0]


#: What takes seconds or gigabytes if it is told as it is.
ENORMOUS: list[BaseException] = [
    ValueError("x" * 60_000_000),
    ValueError("x" * 3_000_000, b"y" * 3_000_000),
    UnicodeDecodeError("utf-8", b"x" * 30_000_000, 0, 1, "no" * 10_000_000),
    noted("x" * 60_000_000),
    noted(*["note"] * 100_000),
    chain(100_000),
    group(5_000),
    bush(40, 40),
    ExceptionGroup("wide", [ValueError(str(number)) for number in range(200_000)]),
    ExceptionGroup("x" * 60_000_000, [ValueError("y" * 60_000_000)]),
    invalid(5_000),
]

RESISTING: list[BaseException] = [
    *ENORMOUS,
    OddTextError(),
    ExitingError(),
    BrokenStrError(),
    WrongStrError(),
    BrokenReprError("x"),
    BrokenNotesError(),
    OddNotesError(),
    OddSyntaxError("by hand", ("file", 1, "not a number", "text")),
    chain(3_000),
    circle(),
    group(300),
    ExceptionGroup("wide", [ValueError(str(number)) for number in range(500)]),
    SystemExit(3),
    KeyboardInterrupt(),
    GeneratorExit(),
    Exception(),
    type("N" * 1_000, (Exception,), {})("long name"),
]


@pytest.mark.parametrize("error", RESISTING, ids=lambda error: type(error).__name__[:20])
def test_every_error_can_be_written_down(error: BaseException) -> None:
    """I3: an attempt that cannot be reported would be tried again for ever."""
    failure = Failure.from_exception(raised(error))
    assert_storable(failure)
    assert failure.type.startswith(type(error).__name__[:100])
    assert len(shown(error)) <= 500
    assert len(describe(error)) <= 3_000


@pytest.mark.parametrize("error", ENORMOUS, ids=lambda error: type(error).__name__[:20])
def test_an_enormous_error_is_not_copied(error: BaseException) -> None:
    """Once its text is made, which is the error's own doing, nothing of that size is."""
    caught = raised(error)
    tracemalloc.start()
    try:
        Failure.from_exception(caught)
        shown(caught)
        (_, most) = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # A text of 60 MB, made by str() or repr(), once at a time; twice where repr() joins two.
    assert most < 300_000_000
    assert not is_modest(caught)


@pytest.mark.parametrize("error", RESISTING, ids=lambda error: type(error).__name__[:20])
def test_every_error_is_judged(error: BaseException) -> None:
    """A retry policy, and who asks what a group holds, take any as well."""
    RetryPolicy().decide(error, 1)
    assert not holds(error, OSError)
    assert not consists_of(error, OSError)


def test_a_stack_in_short_tells_the_end_and_what_it_holds() -> None:
    error = ExceptionGroup("x" * 100_000, [ValueError("inner"), KeyError("k")])
    error.__cause__ = OSError("before")
    stack = Failure.from_exception(raised(error)).traceback or ""
    assert "after OSError: before" in stack
    assert "holds ValueError: inner" in stack
    assert "test_domain_outcomes.py" in stack


def test_a_message_that_cannot_be_shown_says_why() -> None:
    failure = Failure.from_exception(raised(BrokenStrError()))
    assert failure.message == "<its message cannot be shown: RuntimeError>"


@given(st.text(st.characters() | st.sampled_from("\x00\ud800")), st.integers(1, 50))
def test_storable_text_is_short_clean_and_otherwise_unchanged(text: str, limit: int) -> None:
    stored = storable(text, limit)
    stored.encode()
    assert "\x00" not in stored
    assert len(stored) <= limit
    if len(text) <= limit and text.isascii() and "\x00" not in text:
        assert stored == text


def test_a_verdict_is_accepted_unless_lost() -> None:
    one = UUID(int=1)
    accepted = {
        disposition: Verdict(one, disposition, ExecutionState.COMPLETED).accepted
        for disposition in Disposition
    }
    assert accepted == {
        Disposition.RECORDED: True,
        Disposition.KNOWN: True,
        Disposition.LOST: False,
    }


def test_a_group_tells_what_is_in_it() -> None:
    """A TaskGroup's own message says no more than how many there are."""
    inner = ExceptionGroup("inner", [KeyError("k")])
    failure = Failure.from_exception(ExceptionGroup("outer", [ValueError("no stock"), inner]))
    assert failure.type == "ExceptionGroup"
    assert failure.message == "outer (2 sub-exceptions): ValueError: no stock; KeyError: 'k'"
