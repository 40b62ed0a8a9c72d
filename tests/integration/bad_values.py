"""Values that must be refused, and in which words."""

from __future__ import annotations

import dataclasses
import enum
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Any
from uuid import UUID

from pgconductor.exceptions import InvalidInput, InvalidName, NaiveDatetime

__all__ = ["FIELDS", "JSON_TEXTS", "LATER", "PAYLOADS", "nested"]

LATER = datetime(2040, 1, 1, tzinfo=UTC)
A_QUEUE = "cannot name a queue; use a lower-case letter, then at most 47"
A_TASK = "cannot name a task; use a letter or '_', then at most 127"
YEARS = "out of range (years 1970 to 8999)"


class Nowhere(tzinfo):
    """A zone that does not know its offset: the datetime is as good as naive."""

    def utcoffset(self, _: datetime | None) -> None:
        return None

    def dst(self, _: datetime | None) -> None:
        return None

    def tzname(self, _: datetime | None) -> None:
        return None


@dataclasses.dataclass
class Order:
    number: int


class Colour(enum.Enum):
    RED = 1


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def circle() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


# Value, and the pattern of what is said.
PAYLOADS: dict[str, tuple[Any, str]] = {
    "NUL": ({"a": ["b", "c\x00"]}, r"NUL character at \$\.a\[1\]"),
    "NUL in a key": ({"a": {"b\x00": 1}}, r"NUL character at \$\.a \(a key\)"),
    "lone surrogate": ({"a": "b\ud800"}, r"lone surrogate at \$\.a"),
    "lone surrogate in a key": ({"\udfff": 1}, r"lone surrogate at \$ \(a key\)"),
    "NaN": ([1.0, float("nan")], r"non-finite number \(nan\) at \$\[1\]"),
    "infinity": (float("inf"), r"non-finite number \(inf\) at \$"),
    "negative infinity": ({"a": float("-inf")}, r"non-finite number \(-inf\) at \$\.a"),
    "2**63": ({"n": 2**63}, r"integer beyond 64 bits at \$\.n; send it as a string"),
    "-2**63-1": (-(2**63) - 1, r"integer beyond 64 bits at \$; send it as a string"),
    "5,000 digits": (10**4999, r"integer beyond 64 bits at \$"),
    "depth 65": (nested(65), r"nested deeper than 64 at \$\[0\]"),
    "depth 3,000": (nested(3_000), r"nested deeper than 64 at \$\[0\]"),
    "depth 20,000": (nested(20_000), r"nested deeper than 64 at \$\[0\]"),
    "a circle": (circle(), r"nested deeper than 64 at \$\[0\]"),
    "too large": ("x" * 300_000, r"is 300002 bytes as JSON, the limit is 262144; store the"),
    "set": ({"a": {1}}, r"set at \$\.a is not JSON; convert it, or declare the payload's type"),
    "bytes": (b"x", r"bytes at \$ is not JSON"),
    "Decimal": ([Decimal(1)], r"Decimal at \$\[0\] is not JSON"),
    "dataclass": (Order(1), r"Order at \$ is not JSON"),
    "enum": ({"colour": Colour.RED}, r"Colour at \$\.colour is not JSON"),
    "datetime": (LATER, r"datetime at \$ is not JSON"),
    "UUID": (UUID(int=1), r"UUID at \$ is not JSON"),
    "generator": ((n for n in range(3)), r"generator at \$ is not JSON"),
    "complex": (1j, r"complex at \$ is not JSON"),
    "function": (nested, r"function at \$ is not JSON"),
    "a key that is a number": ({1: "a"}, r"key 1 at \$ is not a string"),
    "a key that is None": ({None: "a"}, r"key None at \$ is not a string"),
}

# Text, and the SQLSTATE.
JSON_TEXTS = {
    "NUL": (r'"\u0000"', "22P05"),
    "lone surrogate": (r'"\ud800"', "22P02"),
    "NaN": ("NaN", "22P02"),
    "no JSON": ("{", "22P02"),
    "empty": ("", "22P02"),
    "depth 20,000": ("[" * 20_000 + "]" * 20_000, "54001"),
    "too large for the table": (f'"{"x" * 8_388_609}"', "23514"),
}

# Field, value, type of the error, what it says.
FIELDS: list[tuple[str, Any, type[InvalidInput], str]] = [
    *(
        ("queue", name, InvalidName, A_QUEUE)
        for name in (
            "",
            " ",
            "Mail",
            "1st",
            "-a",
            "a b",
            "a.b",
            "a\n",
            "a\x00",
            "ä",
            "\u202ea",
            "a" * 49,
            "a" * 70,
            None,
            7,
            True,
            b"mail",
        )
    ),
    *(
        ("task_key", name, InvalidName, A_TASK)
        for name in (
            "",
            " ",
            "1st",
            "a b",
            "a\n",
            "a\x00",
            "ä",
            "a\u200b",
            "-a",
            "a'b",
            "a" * 129,
            None,
            7,
            b"send",
        )
    ),
    ("dedupe_key", "", InvalidName, "is empty; leave it out"),
    ("dedupe_key", " \t", InvalidName, "is empty; leave it out"),
    ("dedupe_key", "a\nb", InvalidName, "control or otherwise invisible character"),
    ("dedupe_key", "a\u202eb", InvalidName, "control or otherwise invisible character"),
    ("dedupe_key", "a" * 513, InvalidName, "longer than 512 bytes; hash it"),
    ("dedupe_key", "ä" * 257, InvalidName, "longer than 512 bytes; hash it"),
    ("dedupe_key", "a\x00", InvalidInput, "holds a NUL character"),
    ("dedupe_key", "a\ud800", InvalidInput, "lone surrogate at position 1"),
    ("dedupe_key", 7, InvalidInput, "a string is due, not int"),
    ("dedupe_scope", "for ever", InvalidInput, "is no DedupeScope"),
    ("dedupe_scope", None, InvalidInput, "is no DedupeScope"),
    ("run_at", datetime(2040, 1, 1), NaiveDatetime, "a naive datetime is ambiguous; give it"),  # noqa: DTZ001
    ("run_at", LATER.replace(tzinfo=Nowhere()), NaiveDatetime, "a naive datetime is ambiguous"),
    ("run_at", datetime(9999, 12, 31, tzinfo=UTC), InvalidInput, YEARS),
    ("run_at", datetime(1969, 12, 31, tzinfo=UTC), InvalidInput, YEARS),
    ("run_at", datetime.min.replace(tzinfo=UTC), InvalidInput, YEARS),
    ("run_at", date(2040, 1, 1), InvalidInput, "a datetime is due, not date"),
    ("run_at", "2040-01-01T00:00Z", InvalidInput, "a datetime is due, not str"),
    ("run_at", 2208988800, InvalidInput, "a datetime is due, not int"),
    ("delay", timedelta(seconds=-1), InvalidInput, "is negative; use timedelta(0) for at once"),
    ("delay", timedelta.min, InvalidInput, "is negative"),
    ("delay", timedelta(days=3654), InvalidInput, "longer than ten years"),
    ("delay", timedelta.max, InvalidInput, "longer than ten years"),
    ("delay", 5, InvalidInput, "a timedelta is due, not int"),
    ("priority", 32_768, InvalidInput, "32768 is out of range (-32767 to 32767)"),
    ("priority", -32_768, InvalidInput, "-32768 is out of range (-32767 to 32767)"),
    ("priority", True, InvalidInput, "a whole number is due, not bool"),
    ("priority", 1.0, InvalidInput, "a whole number is due, not float"),
    ("priority", "1", InvalidInput, "a whole number is due, not str"),
    ("priority", None, InvalidInput, "a whole number is due, not NoneType"),
    *(
        (field, value, InvalidInput, message)
        for field in ("max_attempts", "max_crashes")
        for value, message in (
            (0, "0 is out of range (1 to 1000000)"),
            (-1, "-1 is out of range (1 to 1000000)"),
            (1_000_001, "1000001 is out of range (1 to 1000000)"),
            (True, "a whole number is due, not bool"),
            (2.5, "a whole number is due, not float"),
        )
    ),
]
