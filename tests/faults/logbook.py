"""What voyages leave behind, and what is asserted of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from tests.faults.drills import RECOVERY, Drill
from tests.support.waiting import eventually

__all__ = ["all_ended", "assert_made_once", "embarked", "under_way"]

RESULT: Final = [True, "shaky", "booking", "kept", "kept", "kept", True, True]
#: How often each effect, where nothing happens to the process or the database.
OF_TRANSACTIONS: Final = Counter(["booking", "block", "end"])
OF_STEPS: Final = Counter(["step", "shaky", "shaky"])
KEYS: Final = {
    *("change", "step", "shaky", "booking", "block", "nap", "child", "twin 1", "twin 2"),
    *("spawned", "answer", "echo", "heard"),
}
CHILDREN: Final = [("kin", "child"), ("kin", "twin 1"), ("kin", "twin 2"), ("messenger", "")]
#: Where a function is called again, for the call before it was not recorded.
AGAIN: Final = {"before step": "step", "before shaky": "shaky", "kin before own": "own"}


async def embarked(drill: Drill, standing: Sequence[Sequence[str]]) -> dict[UUID, Sequence[str]]:
    """Invoke voyages, and say where each is to stand in each process."""
    ids = await drill.invoke_many("voyage", standing)
    return dict(zip(ids, standing, strict=True))


async def under_way(drill: Drill, steps: int) -> None:
    """Wait until so many steps of all are on record: a moment that is told by how far they are."""
    recorded = "SELECT count(*) FROM pgconductor.steps"
    await eventually(lambda: drill.value(recorded) >= steps, timeout=RECOVERY)


async def all_ended(drill: Drill, *, alone: bool = True) -> None:
    """Wait until all has ended, children and what was spawned as well, and is cleared away."""
    await drill.finished()
    await eventually(lambda: drill.unfinished() == 0, timeout=RECOVERY, interval=0.05)
    if alone:
        await drill.only_registered(drill.own_pid)


def assert_made_once(
    drill: Drill, voyages: Mapping[UUID, Sequence[str]], *, calm: bool = True
) -> None:
    """Everything has happened as if nothing had happened to a process.

    Args:
        drill: It.
        voyages: By execution where it has stood.
        calm: Whether nothing has happened to the database: otherwise functions of steps may have
            been called oftener, and handlers have failed and been tried again.
    """
    executions = {row["id"]: row for row in drill.rows("SELECT * FROM pgconductor.executions")}
    effects = _effects(drill)
    keys = _keys(drill)
    children: dict[UUID, list[dict[str, Any]]] = {one: [] for one in voyages}
    for row in executions.values():
        assert row["state"] == "completed", row
        assert (row["locked_by"], row["claim_number"]) == (None, None), row
        assert row["attempts"] == 1 or not calm, row
        if row["parent_id"] is not None:
            children[row["parent_id"]].append(row)
    for one, standing in voyages.items():
        again = Counter(AGAIN[point] for point in standing if point in AGAIN)
        assert executions[one]["result"] == RESULT, standing
        assert keys[one] == KEYS, standing
        _assert_effects(effects[one], OF_TRANSACTIONS, OF_STEPS, again, calm=calm)
        made = sorted((row["task_key"], row["parent_key"] or "") for row in children[one])
        assert made == CHILDREN, standing
        for row in children[one]:
            if row["task_key"] == "kin":
                more = again if row["parent_key"] == "child" else Counter[str]()
                _assert_effects(
                    effects[row["id"]], Counter(["kept"]), Counter(["own"]), more, calm=calm
                )
    _assert_events(drill, voyages)


def _effects(drill: Drill) -> dict[UUID, Counter[str]]:
    found: dict[UUID, Counter[str]] = {}
    for row in drill.rows("SELECT execution_id, task FROM effects"):
        found.setdefault(row["execution_id"], Counter())[row["task"]] += 1
    return found


def _keys(drill: Drill) -> dict[UUID, set[str]]:
    found: dict[UUID, set[str]] = {}
    for row in drill.rows("SELECT execution_id, key, kind, pending FROM pgconductor.steps"):
        assert not row["pending"], row
        # How many tries there were depends on where the process was killed.
        if row["kind"] != "try":
            found.setdefault(row["execution_id"], set()).add(row["key"])
    return found


def _assert_effects(
    found: Counter[str],
    of_transactions: Counter[str],
    of_steps: Counter[str],
    again: Counter[str],
    *,
    calm: bool,
) -> None:
    """Those of transactions are there once, those of steps as often as they had to be."""
    assert {what: found[what] for what in of_transactions} == of_transactions, found
    assert found.keys() == of_transactions.keys() | of_steps.keys(), found
    for what, count in of_steps.items():
        if calm:
            assert found[what] == count + again[what], (what, found, again)
        else:
            assert found[what] >= count, (what, found)


def _assert_events(drill: Drill, voyages: Mapping[UUID, Sequence[str]]) -> None:
    found = Counter(
        (row["name"], UUID(row["payload"]["voyage"]))
        for row in drill.rows("SELECT name, payload FROM pgconductor.events")
    )
    assert found == Counter((name, one) for one in voyages for name in ("arrived", "echo"))
