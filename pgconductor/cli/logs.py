"""Logging of a worker: lines for people, or JSON for machines."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from pgconductor.cli.output import clean

__all__ = ["JsonFormatter", "TextFormatter", "set_up_logging"]

# What every record has; the rest was given as `extra`.
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# The order in which people want to read them.
_CONTEXT = ("process_number", "task", "execution_id", "attempt", "queue", "orchestrator_id")


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _USUAL}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and everything given as ``extra``.

    Records about an execution carry ``execution_id``, ``task``, ``queue`` and ``attempt``.
    """

    def format(self, record: logging.LogRecord) -> str:
        """See logging."""
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)


class TextFormatter(logging.Formatter):
    """A line for people; what a terminal would obey is taken out."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """See logging."""
        extra = _extra(record)
        named = " ".join(f"{name}={extra[name]}" for name in _CONTEXT if name in extra)
        text = super().format(record)
        head, line_end, rest = text.partition("\n")
        return clean(f"{head}{f' [{named}]' if named else ''}{line_end}{rest}", keep="\n\t")


def set_up_logging(level: str, *, as_json: bool, process_number: int | None = None) -> None:
    """Log to standard error.

    Args:
        level: The least level that is shown, of the root logger.
        as_json: For machines.
        process_number: Which of several processes this is; every record says so.
    """
    handler = logging.StreamHandler(sys.stderr)
    if process_number is not None:

        def numbered(record: logging.LogRecord) -> bool:
            record.process_number = process_number
            return True

        handler.addFilter(numbered)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # At DEBUG these tell of every poll.
    for noisy in ("asyncio", "sqlalchemy"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLogger().level))
