"""The invoke statement as a value, so that sync and async sessions execute the same one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Row

from pgconductor.domain.invocations import DedupeScope, Invocation, Invoked

__all__ = ["invoke_parameters", "invoked_from"]


def invoke_parameters(invocations: Sequence[Invocation]) -> dict[str, list[Any]]:
    """The parameters of ``sql.INVOKE``: a list for each field, an element for each invocation."""
    return {
        "ids": [one.id for one in invocations],
        "task_keys": [one.task_key for one in invocations],
        "queues": [one.queue for one in invocations],
        "payloads": [one.payload for one in invocations],
        "run_ats": [one.run_at for one in invocations],
        "delays": [one.delay for one in invocations],
        "priorities": [one.priority for one in invocations],
        "dedupe_keys": [one.dedupe_key for one in invocations],
        "dedupe_retained": [one.dedupe_scope is DedupeScope.RETAINED for one in invocations],
        "max_attempts": [one.max_attempts for one in invocations],
        "max_crashes": [one.max_crashes for one in invocations],
    }


def invoked_from(rows: Iterable[Row[Any]]) -> list[Invoked]:
    """Read the rows of ``sql.INVOKE``, which come in the order of the invocations."""
    return [Invoked(row.id, row.created) for row in rows]
