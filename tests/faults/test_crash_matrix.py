"""I3 to I5: killed, and frozen and thawed, at each durable boundary of a handler that has them all.

One voyage stands at each boundary; one kill finds them all there. Then others take them over.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from uuid import UUID

import pytest

from pgconductor.domain.outcomes import Disposition
from tests.faults.drills import RECOVERY, Drill
from tests.faults.logbook import all_ended, assert_made_once, embarked
from tests.faults.voyage import PLACES
from tests.support.processes import Child
from tests.support.waiting import eventually

pytestmark = pytest.mark.faults

ROOMY = {"DRILL_CONCURRENCY": "400"}
IN_MEMORY = {"PGCONDUCTOR_SUSPEND_AFTER": "60"}
SUSPENDED = {"PGCONDUCTOR_SUSPEND_AFTER": "0.001"}


def places(*without: str) -> list[str]:
    return [one for one in PLACES if not one.startswith(without)]


def twice(there: Sequence[str]) -> list[list[str]]:
    """A place in the first process and one behind it in the second, for one voyage each."""
    return [
        # Once the messenger has emitted its event, the voyage goes on to its end.
        [one] if one in ("messenger after arrival", "messenger ended") else [one, *there[i:][9:10]]
        for i, one in enumerate(there)
    ]


async def all_stand(child: Child, voyages: Mapping[UUID, Sequence[str]], life: int) -> None:
    """Wait until each voyage, or a child of it, stands where it is to stand in this process."""
    wanted = {f"standing {one} {_named(p[life])}" for one, p in voyages.items() if life < len(p)}

    def stand() -> bool:
        left = wanted.difference(child.lines)
        assert not left, f"{sorted(left)}\n" + "\n".join(child.errors[-30:])
        return True

    await eventually(stand, timeout=RECOVERY, interval=0.05)


def _named(point: str) -> str:
    return point if point.startswith(("kin", "messenger")) else f"voyage {point}"


async def killed(drill: Drill, voyages: Mapping[UUID, Sequence[str]], env: dict[str, str]) -> None:
    """Two processes are killed, one after the other, with all voyages where they are to stand."""
    for life in range(max(map(len, voyages.values()))):
        child = await drill.worker(env={**ROOMY, **env, "DRILL_LIFE": str(life)})
        await all_stand(child, voyages, life)
        child.kill()
        await child.wait()


async def test_killed_in_memory(drill: Drill) -> None:
    """What is done is kept, what is not is done, once; also when the second process is killed."""
    voyages = await embarked(drill, twice(places("suspended")))
    await killed(drill, voyages, IN_MEMORY)
    async with drill.rescuer():
        await all_ended(drill)
    assert_made_once(drill, voyages)


async def test_killed_while_suspended(drill: Drill) -> None:
    """The same, of handlers that leave memory wherever they wait."""
    voyages = await embarked(drill, twice(places("told")))
    await killed(drill, voyages, SUSPENDED)
    async with drill.rescuer(suspend_after=0.001):
        await all_ended(drill)
    assert_made_once(drill, voyages)


#: A transaction that has proven its owner has the row locked: nobody can take it over.
LOCKED = ("before booking", "before block", "before end", "kin before kept")
#: What happens to a voyage and its children that is more than an effect of a plain step.
LASTING = (
    "SELECT to_jsonb(e) AS one FROM pgconductor.executions e"
    " UNION ALL SELECT to_jsonb(s) FROM pgconductor.steps s"
    " UNION ALL SELECT to_jsonb(v) FROM pgconductor.events v"
    " UNION ALL SELECT to_jsonb(f) FROM effects f WHERE task NOT IN ('step', 'shaky', 'own')"
    " ORDER BY 1"
)


def _late(voyage: UUID, point: str) -> str:
    """What comes of the outcome of who stood there: only what was committed is its own."""
    verdict = Disposition.KNOWN if point == "after end" else Disposition.LOST
    return f"late {voyage} {_named(point).split()[0]} {verdict}"


async def test_frozen_and_thawed(drill: Drill) -> None:
    """I1: whatever it writes when it comes back is refused: no step, child, event or end of it.

    It is deaf as well: that it was evicted would end it before it tries.
    """
    voyages = await embarked(drill, [[one] for one in places("suspended", *LOCKED)])
    late = {**ROOMY, **IN_MEMORY, "DRILL_LIFE": "0", "DRILL_LATE": "1"}
    child = await drill.worker(env=late)
    await all_stand(child, voyages, 0)
    child.sigstop()
    async with drill.rescuer():
        await all_ended(drill)
        assert_made_once(drill, voyages)
        before = drill.rows(LASTING)
        os.kill(child.pid, signal.SIGUSR1)
        child.sigcont()
        verdicts = {_late(one, point) for one, (point,) in voyages.items()}

        def all_refused() -> bool:
            left = verdicts.difference(child.lines)
            assert not left, sorted(left)
            return True

        await eventually(all_refused, timeout=RECOVERY)
        # Nor was it told that something is on record already.
        assert [line for line in child.lines if line.startswith("accepted late")] == []
        assert drill.rows(LASTING) == before


async def test_frozen_with_the_row_locked(drill: Drill) -> None:
    """I1, I4: between the proof of its owner and the commit nobody takes it over; then it goes on.

    So for as long as such a process is frozen, and the server has its connection, nobody does.
    """
    locked = await embarked(drill, [[one] for one in LOCKED])
    other = await embarked(drill, [["before step"]])
    late = {**ROOMY, **IN_MEMORY, "DRILL_LIFE": "0", "DRILL_LATE": "1"}
    child = await drill.worker(env=late)
    await all_stand(child, {**locked, **other}, 0)
    child.sigstop()
    async with drill.rescuer():
        await drill.finished(*other)
        held = (
            "SELECT count(*) FROM pgconductor.executions e"
            " JOIN pgconductor.orchestrators o ON o.id = e.locked_by WHERE o.pid = %s"
        )
        assert drill.value(held, child.pid) == len(LOCKED)
        os.kill(child.pid, signal.SIGUSR1)
        child.sigcont()
        await all_ended(drill, alone=False)
    assert_made_once(drill, {**locked, **other})


async def test_killed_before_it_has_looked(drill: Drill) -> None:
    """I3: what has come for those that are suspended is found by others, whoever it had told."""
    ids = await drill.invoke_many("harbour", [None] * 5)
    child = await drill.worker(env={**SUSPENDED, "DRILL_BLIND": "1"})
    await eventually(
        lambda: (
            drill.rows(
                "SELECT state, count(*) AS n FROM pgconductor.executions GROUP BY 1 ORDER BY 1"
            )
            == [{"state": "completed", "n": 10}, {"state": "waiting", "n": 5}]
        ),
        timeout=RECOVERY,
    )
    child.kill()
    await child.wait()
    async with drill.rescuer():
        await all_ended(drill)
    for one in ids:
        mine = {"voyage": str(one)}
        assert drill.execution(one)["result"] == [None, "kept", mine, "shaky"]
    assert drill.value("SELECT count(*) FROM pgconductor.steps WHERE pending") == 0
