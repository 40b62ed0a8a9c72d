"""Random handlers: small trees of what a handler can do, and what they are drawn from."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Final, Literal

from hypothesis import strategies as st
from pydantic import BaseModel

__all__ = ["BELL", "MAX_ATTEMPTS", "PROGRAMS", "Op", "Program", "Report", "Task", "keys_of"]

#: The event that is waited for, with a number in its payload.
BELL: Final = "bell"
#: Of every task.
MAX_ATTEMPTS: Final = 3

Task = Literal["sturdy", "frail", "once"]
Kind = Literal[
    "step",
    "shaky",
    "hopeless",
    "transact",
    "block",
    "sleep",
    "child",
    "spawn",
    "gather",
    "wait",
    "emit",
    "patched",
    "fail",
]


class Op(BaseModel):
    """One thing that a handler does.

    Attributes:
        kind: What.
        number: How often it fails (``shaky``, ``fail``); which event.
        seconds: How long it sleeps, or waits at most.
        strict: Whether an error on record is let through, and so ends the execution.
        task: Of a child.
        program: Of a child.
        branches: What is gathered.
    """

    kind: Kind
    number: int | None = None
    seconds: float | None = None
    strict: bool = False
    task: Task = "sturdy"
    program: Program | None = None
    branches: list[Op] = []

    @property
    def timeout(self) -> timedelta | None:
        return None if self.seconds is None else timedelta(seconds=self.seconds)


class Program(BaseModel):
    """What a handler does, in order.

    Attributes:
        ops: That.
        closing: Whether it completes in a transaction of its own.
    """

    ops: list[Op]
    closing: bool = False


class Report(BaseModel):
    """What a handler returns: a value for each thing that it did."""

    values: list[Any]


def keys_of(program: Program) -> Iterator[tuple[str, Op, int]]:
    """The key of each thing that a handler does, and its number among those of the handler."""
    for place, op in enumerate(program.ops):
        if op.kind == "gather":
            for i, branch in enumerate(op.branches):
                yield f"{place}.{i}", branch, place
        else:
            yield str(place), op, place


# Short ones end by themselves, the others by a jump of the clock.
_SLEEPS: Final = st.sampled_from([0.01, 60.0, 3_600.0])
_LIMITS: Final = st.sampled_from([None, None, 1_800.0])
_NUMBERS: Final = st.sampled_from([None, 0, 1])
_TASKS: Final = st.sampled_from(["sturdy", "sturdy", "frail", "once"])


def _op(kind: Kind, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Op]:
    return st.builds(Op, kind=st.just(kind), **fields)


_STEP: Final = _op("step")
_TRANSACT: Final = _op("transact")
_SHAKY: Final = _op("shaky", number=st.integers(1, 2))
_HOPELESS: Final = _op("hopeless", strict=st.booleans())
_SLEEP: Final = _op("sleep", seconds=_SLEEPS)
_WAIT: Final = _op("wait", number=_NUMBERS, seconds=_LIMITS, strict=st.booleans())
_LEAVES: Final = st.one_of(
    _STEP,
    _TRANSACT,
    _op("block"),
    _SHAKY,
    _HOPELESS,
    _SLEEP,
    _WAIT,
    _op("emit", number=st.sampled_from([0, 1])),
    _op("patched"),
    _op("fail", number=st.sampled_from([0, 1, 1, 2, 3])),
)


def _program(ops: st.SearchStrategy[Op], most: int) -> st.SearchStrategy[Program]:
    listed = st.lists(ops, min_size=1, max_size=most)
    return st.builds(Program, ops=listed, closing=st.sampled_from([False, False, True]))


def _larger(inner: st.SearchStrategy[Program]) -> st.SearchStrategy[Op]:
    child = _op("child", program=inner, seconds=_LIMITS, strict=st.booleans(), task=_TASKS)
    branch = st.one_of(child, child, _SLEEP, _WAIT, _STEP, _TRANSACT, _SHAKY)
    return st.one_of(
        child,
        _op("spawn", program=inner, task=_TASKS),
        _op("gather", branches=st.lists(branch, min_size=2, max_size=3)),
    )


def _either(one: st.SearchStrategy[Op], other: st.SearchStrategy[Op]) -> st.SearchStrategy[Op]:
    """Each as often as the other, however many there are of them."""
    return st.booleans().flatmap(lambda first: one if first else other)


#: Children mostly have something to wait for: otherwise hardly one is there when its parent ends.
_SMALL: Final = _program(_either(_LEAVES, st.one_of(_SLEEP, _WAIT, _TRANSACT)), 2)
_MIDDLE: Final = _program(_either(_LEAVES, _larger(_SMALL)), 3)
PROGRAMS: Final = _program(_either(_LEAVES, _larger(_MIDDLE)), 4)
