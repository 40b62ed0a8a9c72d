"""The pure model of random handlers: what may come of one, given what is on record of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.faults.programs import MAX_ATTEMPTS, Op, Program, keys_of

__all__ = ["MAX_CRASHES", "Ended", "Noted", "expected", "prefix_faults"]

MAX_CRASHES: Final = {"sturdy": 4, "frail": 2, "once": 1}
_NO_ERRORS: Final = {"(timeout)": "WaitTimeout", "(cancelled)": "ChildCancelled"}


@dataclass(frozen=True)
class Noted:
    """What is on record under a key.

    Attributes:
        result: As it was decoded.
        error_type: What it has ended by, or None.
        pending: Whether it is waited for.
        child: The execution that it stands for.
    """

    result: Any = None
    error_type: str | None = None
    pending: bool = False
    child: str | None = None


@dataclass(frozen=True)
class Ended:
    """How a handler ends that nothing happens to.

    Attributes:
        state: ``completed`` or ``failed``.
        attempts: After how many.
        values: What it has returned.
        error_type: What it has failed by.
        reached: How many of its things were begun at all.
    """

    state: str
    attempts: int
    values: list[Any] = field(default_factory=list[Any])
    error_type: str | None = None
    reached: int = 0


class _Raised(Exception):
    """An error that the handler does not catch."""


def expected(program: Program, record: Mapping[str, Noted]) -> Ended:
    """How the handler ends.

    Args:
        program: What it does.
        record: What it has been told.

    Raises:
        KeyError: It has not come to its end: something is not on record.
    """
    values: list[Any] = []
    failures = 0
    for place, op in enumerate(program.ops):
        if op.kind == "fail":
            failures = max(failures, op.number or 0)
            if op.number == 0 or failures >= MAX_ATTEMPTS:
                attempts = MAX_ATTEMPTS if op.number else failures + 1
                kind = "Flop" if op.number else "DoNotRetry"
                return Ended("failed", attempts, error_type=kind, reached=place + 1)
        try:
            values.append(_value(str(place), op, record))
        except _Raised as raised:
            kind = str(raised)
            return Ended("failed", failures + 1, error_type=kind, reached=place + 1)
    return Ended("completed", failures + 1, values, reached=len(program.ops))


def _value(key: str, op: Op, record: Mapping[str, Noted]) -> Any:
    if op.kind == "fail":
        return None
    if op.kind == "gather":
        branches = enumerate(op.branches)
        # A strict branch is told of when all have ended: they are gathered with their errors.
        found = [_caught(f"{key}.{i}", branch, record) for i, branch in branches]
        for one in found:
            if isinstance(one, _Raised):
                raise one
        return found
    noted = record[key]
    if noted.pending:
        raise KeyError(key)
    if noted.error_type is not None:
        return _error(op, noted.error_type)
    if op.kind == "child":
        return ["done", noted.result["values"]]
    if op.kind == "spawn":
        return noted.child
    return True if op.kind == "patched" else noted.result


def _caught(key: str, op: Op, record: Mapping[str, Noted]) -> Any:
    try:
        return _value(key, op, record)
    except _Raised as raised:
        return raised


def _error(op: Op, error_type: str) -> list[str]:
    if op.kind == "hopeless":
        raised, told = "StepFailed", ["hopeless"]
    elif error_type in _NO_ERRORS:
        raised, told = _NO_ERRORS[error_type], [_NO_ERRORS[error_type]]
    else:
        raised, told = "ChildFailed", ["ChildFailed", error_type]
    if op.strict:
        raise _Raised(raised)
    return told


def prefix_faults(program: Program, record: Mapping[str, Noted]) -> Iterator[str]:
    """What is on record that cannot be: of no key of the handler's, or begun too soon."""
    places = {key: place for key, _, place in keys_of(program)}
    kinds = {key: op.kind for key, op, _ in keys_of(program)}
    for key in record:
        if key.partition("~")[0] not in places:
            yield f"{key} is on record, which the handler never asks for"
    furthest = max((places.get(key.partition("~")[0], -1) for key in record), default=-1)
    for key, place in places.items():
        noted = record.get(key)
        if place < furthest and kinds[key] != "fail" and (noted is None or noted.pending):
            yield f"something of place {furthest} has begun before {key} has ended"
    for place, op in enumerate(program.ops[: furthest + 1]):
        if op.kind == "fail" and place < furthest and op.number in (0, MAX_ATTEMPTS):
            yield f"something has begun behind the failure at {place}"
