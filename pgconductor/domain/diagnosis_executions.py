"""Executions that stand still: what to make of them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Final

from pgconductor.domain.diagnosis import rounded, summed_up
from pgconductor.domain.health import Finding, Overdue, Severity, StuckReading

__all__ = ["PATIENCE", "held", "overdue"]

#: How long something may be late before anybody is told.
PATIENCE: Final = timedelta(minutes=5)


def held(seen: StuckReading) -> list[Finding]:
    """Executions that are held by the dead, or for too long."""
    cases = [
        (
            Severity.BAD,
            seen.orphans,
            None,
            "held by orchestrators that are not there",
            (
                "start an orchestrator: it takes them back within stale_after; if one is there, "
                "its log says why it does not"
            ),
        ),
        (
            Severity.BAD,
            seen.stale,
            seen.stale_age,
            "held by orchestrators whose heartbeat has stopped",
            (
                "another orchestrator takes them back within stale_after: start one; see "
                "`pgconductor orchestrators` for whose process is dead or frozen"
            ),
        ),
        (
            Severity.WARN,
            seen.cancelling,
            seen.cancelling_age,
            "still executed, though their cancellation was asked for long ago",
            (
                "their handlers do not reach a boundary: have them call ctx.checkpoint(), or "
                "await; restarting the process ends them"
            ),
        ),
        (
            Severity.WARN,
            seen.overtime,
            seen.overtime_age,
            "executed for longer than their task's timeout",
            "their handlers cannot be interrupted (a thread, a blocked loop): restart the process",
        ),
    ]
    found = [
        Finding(
            severity,
            "stuck executions",
            f"{count} executions are {what}" + (f", for up to {rounded(age)}" if age else ""),
            advice,
            {"executions": count, "age": age},
        )
        for severity, count, age, what, advice in cases
        if count
    ]
    return summed_up(found, "stuck executions", "whatever is held is held by the living")


def overdue(seen: Iterable[Overdue], orchestrators: int) -> list[Finding]:
    """Executions that have been due for long, by queue and task.

    Args:
        seen: What is due.
        orchestrators: How many are registered.
    """
    found = [_overdue(one, orchestrators) for one in seen]
    return summed_up(found, "overdue executions", f"nothing is due for longer than {PATIENCE}")


def _overdue(one: Overdue, orchestrators: int) -> Finding:
    if not orchestrators:
        severity, advice = Severity.BAD, "no orchestrator is registered: start a worker"
    elif not one.declared:
        severity = Severity.BAD
        advice = (
            "nobody has ever declared this task: deploy the release that has it, correct the name "
            "where it is invoked, or cancel them"
        )
    elif not one.busy:
        severity = Severity.BAD
        advice = (
            f"nothing of the queue is being executed: start a worker that serves {one.queue} and "
            "has this task"
        )
    else:
        severity = Severity.WARN
        advice = "its workers do not keep up: more processes, or a higher concurrency"
    what = (
        f"{one.count} executions of {one.task_key} in queue {one.queue} are due, "
        f"for up to {rounded(one.oldest)}"
    )
    figures = {
        "queue": one.queue,
        "task": one.task_key,
        "executions": one.count,
        "age": one.oldest,
    }
    return Finding(severity, "overdue executions", what, advice, figures)
