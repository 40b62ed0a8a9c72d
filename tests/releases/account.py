"""What is asserted at the end of every deployment, and what is measured."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from tests.releases.build import Release
from tests.releases.deployment import Deployment

__all__ = ["applied_at", "assert_accounted", "assert_gone_before", "idle", "unattended"]

#: Tasks whose handlers can be interrupted.
WITH_BOUNDARIES = {"journey", "odyssey", "voyage", "crossing", "leg"}
#: What happens once in an execution of a task, however often its handler begins, and what is on
#: record of it.
ONCE = {
    "voyage": {"packed", "booked", "paid"},
    "crossing": {"booked", "paid"},
    "leg": set[str](),
}
KEYS = {
    "voyage": {"pack", "book", "night", "out", "back", "pay"},
    "crossing": {"book", "lookout", "out", "pay"},
    "leg": {"rest"},
}


def assert_accounted(deployment: Deployment, *, crashed: Mapping[UUID, int] | None = None) -> None:
    """Every execution has ended as it should, and each was completed once (I1, I3, I4, I7).

    That is, by what the database holds and by what the business has seen:

    - there is what was invoked, and nothing else; all of it is completed, and nothing is held;
    - each child is there once, each step is on record once, each effect of a step or a transaction
      is there once;
    - one attempt is charged, for those that were given back were given their attempt back; crashes
      are counted for those whose owner was taken for dead, and for nobody else;
    - the handler has ended once (its last effect is there once), and it is this attempt whose
      result was stored: the result is the number of that effect;
    - a handler that was never interrupted has begun once as well. Only those that have
      boundaries to be interrupted at may have begun several times.

    Where an owner was taken for dead (``crashed``), its handler may have ended too: handlers are
    executed at least once. Then only the result is asked for, which is that of one attempt.
    """
    crashed = crashed or {}
    executions = {
        row["id"]: row["e"]
        for row in deployment.rows("SELECT id, to_jsonb(e) AS e FROM pgconductor.executions e")
    }
    invoked = {one for one, execution in executions.items() if execution["parent_id"] is None}
    assert invoked == deployment.invoked
    effects: dict[UUID, dict[str, list[int]]] = {
        one: {"begun": [], "ended": []} for one in executions
    }
    for row in deployment.rows("SELECT * FROM effects ORDER BY id"):
        effects[row["execution_id"]].setdefault(row["what"], []).append(row["id"])
    for one, execution in executions.items():
        _assert_completed_once(execution, crashed.get(one, 0))
        begun, ended = effects[one]["begun"], effects[one]["ended"]
        assert execution["result"] in ended, execution
        if one not in crashed:
            assert len(ended) == 1, (execution, ended)
            assert len(begun) == 1 or execution["task_key"] in WITH_BOUNDARIES, (execution, begun)
        for what in ONCE.get(execution["task_key"], ()):
            assert len(effects[one].get(what, ())) == 1, (execution, what)
    _assert_recorded_once(deployment, executions)


def _assert_recorded_once(
    deployment: Deployment, executions: Mapping[UUID, Mapping[str, Any]]
) -> None:
    keys: dict[UUID, set[str]] = {one: set() for one in executions}
    for row in deployment.rows("SELECT execution_id, key, pending FROM pgconductor.steps"):
        assert not row["pending"], row
        keys[row["execution_id"]].add(row["key"])
    children: dict[str, list[str]] = {}
    for execution in executions.values():
        if execution["parent_id"] is not None:
            children.setdefault(execution["parent_id"], []).append(execution["parent_key"])
    for one, execution in executions.items():
        task = execution["task_key"]
        assert keys[one] == KEYS.get(task, set()), execution
        made = {"voyage": ["back", "out"], "crossing": ["out"]}.get(task, [])
        assert sorted(children.get(str(one), [])) == made, execution


def _assert_completed_once(execution: Mapping[str, Any], crashes: int) -> None:
    assert execution["state"] == "completed", execution
    assert execution["finished_by"] is not None, execution
    assert execution["locked_by"] is None, execution
    assert execution["claim_number"] is None, execution
    assert (execution["attempts"], execution["crashes"]) == (1, crashes), execution


def applied_at(deployment: Deployment, revision: int) -> datetime:
    """When the transaction of a revision was at its end, by the database's clock."""
    found: datetime = deployment.value(
        "SELECT applied_at FROM pgconductor.schema_migrations WHERE version = %s", revision
    )
    return found


def assert_gone_before(deployment: Deployment, revision: int, release: Release) -> None:
    """Nobody of a release was registered when a revision was applied, or later, nor did anything.

    Args:
        deployment: It.
        revision: Which one.
        release: Whom it shuts out.
    """
    at = applied_at(deployment, revision)
    present = deployment.rows(
        "SELECT orchestrator_id FROM presence WHERE release = %s GROUP BY 1"
        " HAVING count(*) FILTER (WHERE NOT came) = 0 OR max(at) > %s",
        release.version,
        at,
    )
    assert not present
    late = deployment.rows(
        "SELECT * FROM effects WHERE release = %s AND at > %s", release.version, at
    )
    assert not late


def unattended(deployment: Deployment) -> float:
    """For how many seconds nobody at all was registered, from the first one on."""
    seconds, there = 0.0, 0
    since: datetime | None = None
    for row in deployment.rows("SELECT came, at FROM presence ORDER BY at, id"):
        if there == 0 and since is not None:
            seconds += (row["at"] - since).total_seconds()
        there += 1 if row["came"] else -1
        since = row["at"]
    return seconds


def idle(deployment: Deployment, before: Release, after: Release) -> float:
    """Seconds from the last effect of one release to the first of the next; negative: they overlap.

    Args:
        deployment: It.
        before: Whose last effect.
        after: Whose first.
    """
    found = deployment.value(
        "SELECT extract(epoch FROM min(at) FILTER (WHERE release = %s)"
        " - max(at) FILTER (WHERE release = %s)) FROM effects",
        after.version,
        before.version,
    )
    return float(found)
