"""What commands print: tables, JSON, and nothing that a terminal would obey."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime, timedelta
from typing import Any, Final, cast
from uuid import UUID

__all__ = [
    "WIDTH",
    "clean",
    "matched",
    "moment",
    "one_line",
    "plain",
    "print_fields",
    "print_json",
    "print_lines",
    "print_table",
    "shortened",
]

#: As much of a step's result, error or match as helps to recognise it.
WIDTH: Final = 120

# Escape sequences whole (CSI, OSC, and the two-character ones), so that no "[31m" stays behind.
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[@-_]?")


def clean(text: str, *, keep: str = "") -> str:
    """Text without escape sequences and control characters, for a terminal.

    Characters that change the direction of text go as well: they make a name look like another.

    Args:
        text: Of whatever origin.
        keep: Control characters that may stay, for instance a line's end.
    """
    bare = _ESCAPES.sub("", text)
    return "".join(
        one if one.isprintable() or one in keep else (" " if one.isspace() else "") for one in bare
    )


def one_line(text: object) -> str:
    """The same on a single line."""
    return " ".join(clean(str(text)).split())


def shortened(text: str, width: int) -> str:
    """Text of at most ``width`` characters."""
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"


def matched(match: Any) -> str:
    """What an event's payload must contain; empty for any payload."""
    return (
        "" if match is None else shortened(one_line(json.dumps(match, ensure_ascii=False)), WIDTH)
    )


def moment(when: datetime) -> str:
    """An instant, to the second."""
    return when.strftime("%Y-%m-%d %H:%M:%S%z")


def plain(value: Any) -> Any:
    """A value as JSON has it: dates in ISO 8601, durations in seconds."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        named = cast("Mapping[object, object]", value)
        return {str(name): plain(one) for name, one in named.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in cast("Sequence[object]", value)]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return str(value) if isinstance(value, UUID) else value


def print_json(value: Any) -> None:
    """Print a value as JSON; everything beyond ASCII is escaped, control characters too."""
    print(json.dumps(plain(value), indent=2))


def print_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print aligned columns; on a terminal the last one is cut at its width.

    Args:
        heads: Of all columns.
        rows: A row may end early.
    """
    shown = [heads, *([one_line("" if cell is None else cell) for cell in row] for row in rows)]
    widths = [max(len(row[at]) for row in shown if at < len(row)) for at in range(len(heads))]
    print_lines(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
        for row in shown
    )


def print_lines(lines: Iterable[str]) -> None:
    """Print lines, which have nothing that a terminal would obey; on one they are cut."""
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in lines:
        print(line if room is None else shortened(line, room))


def print_fields(fields: Mapping[str, object]) -> None:
    """Print names and values below each other; those without a value are left out."""
    given = {name: value for name, value in fields.items() if value is not None}
    width = max((len(name) for name in given), default=0)
    for name, value in given.items():
        # What follows a line's end in the value stays in its column.
        lines = clean(str(value), keep="\n").splitlines() or [""]
        print(f"{name.ljust(width)}  {lines[0]}".rstrip())
        for line in lines[1:]:
            print(f"{'':{width}}  {line}".rstrip())
