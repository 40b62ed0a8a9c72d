"""What the server's queue of notifications means for us: a pure function."""

from __future__ import annotations

from typing import Final

from pgconductor.domain.diagnosis import rounded
from pgconductor.domain.health import Finding, NotifyReading, Severity

__all__ = ["notifications"]

_MUCH: Final = 0.5
#: From here on, nobody is notified: see pgconductor.notify().
_NEARLY_FULL: Final = 0.9


def notifications(seen: NotifyReading) -> list[Finding]:
    """Whether the queue of notifications has room.

    Args:
        seen: What was read.
    """
    figures = {"usage": seen.usage, "pid": seen.pid, "age": seen.age}
    what = f"the queue of notifications is {seen.usage:.0%} full"
    if seen.usage < _MUCH:
        return [Finding(Severity.OK, "notifications", what, "", figures)]
    severity = Severity.WARN
    if seen.usage >= _NEARLY_FULL:
        severity = Severity.BAD
        what += ": workers and waiting callers are not notified, they poll"
    advice = "a session that listens holds it by its open transaction; the server's log names it"
    if seen.pid is not None:
        who = f"{seen.application or 'unnamed'}, {seen.state or 'state unknown'}"
        what += f"; open for longest is the transaction of {seen.pid} ({who}): {rounded(seen.age)}"
        advice += f". If it is this one, end it: SELECT pg_terminate_backend({seen.pid})"
    return [Finding(severity, "notifications", what, advice, figures)]
