"""What is on record of all executions, and what operators are to leave of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from tests.faults.fleet import Fleet

__all__ = [
    "Found",
    "Row",
    "Step",
    "copied_by_fork",
    "held_by_nobody",
    "kept_by_retry",
    "read",
]

Row = dict[str, Any]
Step = dict[str, Any]


@dataclass
class Found:
    """The database at one moment."""

    executions: dict[UUID, Row]
    steps: dict[UUID, dict[str, Step]]
    effects: Counter[tuple[UUID, str]]
    events: list[Row]

    @property
    def emits(self) -> Counter[tuple[UUID, str]]:
        """How often each handler has emitted under each key."""
        made = [one["payload"] for one in self.events if "by" in one["payload"]]
        return Counter((UUID(one["by"]), str(one["key"])) for one in made)

    def own(self, execution: UUID) -> Mapping[str, Step]:
        """What it has on record that was not copied from another."""
        born: datetime = self.executions[execution]["created_at"]
        steps = self.steps.get(execution, {})
        return {key: one for key, one in steps.items() if one["created_at"] >= born}


def read(fleet: Fleet) -> Found:
    """The whole database."""
    steps: dict[UUID, dict[str, Step]] = {}
    for row in fleet.rows("SELECT * FROM pgconductor.steps"):
        steps.setdefault(row["execution_id"], {})[row["key"]] = row
    effects = fleet.rows("SELECT execution_id, key FROM effects")
    return Found(
        {row["id"]: row for row in fleet.rows("SELECT * FROM pgconductor.executions")},
        steps,
        Counter((row["execution_id"], row["key"]) for row in effects),
        fleet.rows("SELECT * FROM pgconductor.events ORDER BY emitted_at, id"),
    )


def _numbered(one: Step, other: Step) -> bool:
    return one["place"] is not None and other["place"] is not None


def _began_before(one: Step, other: Step) -> bool:
    by = "place" if _numbered(one, other) else "created_at"
    return bool(one[by] < other[by])


def _began_behind(one: Step, other: Step) -> bool:
    """Whether one began when the other had ended."""
    if _numbered(one, other):
        return bool(one["place"] > other["place"])
    return bool(one["created_at"] > (other["ended_at"] or other["created_at"]))


def kept_by_retry(
    found: Found, one: UUID, *, from_scratch: bool, from_step: str | None
) -> set[str]:
    """What a retry leaves of the record of an execution that has finished."""
    steps = found.steps.get(one, {})
    bound = None if from_step is None else steps[from_step]
    kept = [
        it
        for it in steps.values()
        if it["kind"] not in ("try", "first") and (bound is None or _began_before(it, bound))
    ]

    def in_vain(step: Step) -> bool:
        if step["error"] is not None and not any(_began_behind(it, step) for it in kept):
            return True
        child = found.executions.get(step["child_id"])
        return step["pending"] and child is not None and child["state"] in ("failed", "cancelled")

    return {
        key
        for key, step in steps.items()
        if not from_scratch
        and step["kind"] != "try"
        and (bound is None or _began_before(step, bound))
        and not in_vain(step)
    }


def copied_by_fork(found: Found, one: UUID, *, from_step: str | None) -> set[str]:
    """What another execution begins with that is like one that has finished."""
    steps = found.steps.get(one, {})
    bound = None if from_step is None else steps[from_step]
    return {
        key
        for key, step in steps.items()
        if bound is not None
        and _began_before(step, bound)
        and step["kind"] != "try"
        and not step["pending"]
    }


def held_by_nobody(fleet: Fleet) -> list[Row]:
    """Executions whose owner has no row (I2)."""
    return fleet.rows(
        "SELECT e.id, e.locked_by FROM pgconductor.executions e WHERE e.state = 'running'"
        " AND NOT EXISTS (SELECT FROM pgconductor.orchestrators o WHERE o.id = e.locked_by)"
    )
