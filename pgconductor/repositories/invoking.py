"""Invokes as values, so that sync and async sessions execute the same statements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import TextClause

from pgconductor import sql
from pgconductor.domain.invocations import Invocation, Invoked
from pgconductor.exceptions import InvalidInput
from pgconductor.repositories.errors import sqlstate

__all__ = ["Invoke", "already_there"]

_UNIQUE_VIOLATION: Final = "23505"
_PRIMARY_KEY: Final = "executions_pkey"


@dataclass(frozen=True, slots=True)
class Invoke:
    """A statement that makes executions, its parameters, and how to read what it returns.

    Attributes:
        statement: What to execute.
        parameters: Its parameters.
        invocations: What it is for.
    """

    statement: TextClause
    parameters: Mapping[str, Any]
    invocations: Sequence[Invocation]

    @classmethod
    def of(cls, invocations: Sequence[Invocation], *, announce: bool = True) -> Invoke:
        """The cheapest statement that does it.

        Args:
            invocations: At least one.
            announce: Wake the workers of what is due. Those with dedupe keys always do.
        """
        first = invocations[0]
        alike = first.dedupe_key is None and all(one.kind == first.kind for one in invocations)
        if alike and len(invocations) == 1:
            return cls(
                sql.INVOKE_ONE,
                {"id": first.id, "payload": first.payload, **_shared(first, announce)},
                invocations,
            )
        if alike:
            payloads = [one.payload for one in invocations]
            lines = "\n".join(["" if payload is None else payload for payload in payloads])
            # A payload that somebody has encoded over several lines is still JSON; an empty one is
            # not, and for the server to refuse.
            if lines.count("\n") == len(invocations) - 1 and "" not in payloads:
                ids = [one.id for one in invocations]
                parameters = {"ids": ids, "payloads": lines, **_shared(first, announce)}
                return cls(sql.INVOKE_ALIKE, parameters, invocations)
        return cls(sql.INVOKE, _listed(invocations), invocations)

    def answers(self, rows: Iterable[Any]) -> list[Invoked]:
        """What has come of the invocations, in their order.

        Args:
            rows: What the statement has returned.
        """
        if self.statement is sql.INVOKE:
            return [Invoked(row.id, row.created) for row in rows]
        return [Invoked(one.id, True) for one in self.invocations]


def already_there(error: Exception) -> InvalidInput | None:
    """What an error means, where it is that the id of an invocation is used already."""
    if sqlstate(error) != _UNIQUE_VIOLATION or _PRIMARY_KEY not in str(error):
        return None
    return InvalidInput("invocations", "an execution of the same id is there already")


def _shared(one: Invocation, announce: bool) -> dict[str, Any]:
    return {
        "task_key": one.task_key,
        "queue": one.queue,
        "run_at": one.run_at,
        "delay": one.delay,
        "priority": one.priority,
        "max_attempts": one.max_attempts,
        "max_crashes": one.max_crashes,
        "announce": announce,
    }


def _listed(invocations: Sequence[Invocation]) -> dict[str, list[Any]]:
    return {
        "ids": [one.id for one in invocations],
        "task_keys": [one.task_key for one in invocations],
        "queues": [one.queue for one in invocations],
        "payloads": [one.payload for one in invocations],
        "run_ats": [one.run_at for one in invocations],
        "delays": [one.delay for one in invocations],
        "priorities": [one.priority for one in invocations],
        "dedupe_keys": [one.dedupe_key for one in invocations],
        "dedupe_scopes": [one.dedupe_scope.value for one in invocations],
        "dedupe_replaces": [one.dedupe_replace for one in invocations],
        "max_attempts": [one.max_attempts for one in invocations],
        "max_crashes": [one.max_crashes for one in invocations],
    }
