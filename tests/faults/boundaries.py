"""Where handlers of a worker process stand still: before and after each commit of theirs.

Each execution is told where it stands, by the process that it is in: in the first one, in the
second one (``DRILL_LIFE``). It stands there while the others go on to their own places, so that one
kill finds executions at all of them. Without ``DRILL_LIFE`` nobody stands anywhere.

- ``begun`` is where the handler begins, ``written booking`` where a transaction has written;
- ``before booking`` and ``after booking`` are what is sent and its answer: the commit of a
  transaction, with its row locked by then, and the write of everything else;
- ``told nap`` is where the end of a wait is on record, and the handler is not told;
- ``suspended at nap`` is where the handler has ended, and the database does not know;
- ``ended`` is the same with its result.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from pgconductor.domain.outcomes import Completed, Outcome, Suspended, Verdict
from pgconductor.domain.steps import Recorded, Settled, Started, StepRecord, StepStart
from pgconductor.runtime.completer import Completer
from pgconductor.runtime.journal import Journal
from pgconductor.runtime.machine import Machine
from pgconductor.runtime.waits import Waits
from pgconductor.services.steps import StepService
from pgconductor.services.transactions import OpenTransaction

__all__ = ["go_on_late", "look_at_nothing", "place", "point_of", "stand", "watch"]

LIFE: Final = os.environ.get("DRILL_LIFE")

#: Where executions are to stand, and under what name that is told.
_PLACES: Final[dict[UUID, tuple[str, str]]] = {}
#: Where those stand that cannot be held back by waiting.
_STOOD: Final[dict[UUID, str]] = {}
_WITHHELD: Final[list[tuple[Completer, Outcome]]] = []
_UNTOLD: Final[list[Waits]] = []
_SUSPENDED_AT: Final[dict[UUID, str]] = {}
_THAWED: Final = asyncio.Event()


def point_of(standing: Sequence[str]) -> str:
    """Where to stand in this process; nowhere, if it is not told."""
    life = -1 if LIFE is None else int(LIFE)
    return standing[life] if 0 <= life < len(standing) else ""


def place(execution_id: UUID, point: str, name: str) -> None:
    """Have an execution of this process stand somewhere."""
    if point and execution_id not in _STOOD:
        _PLACES[execution_id] = point, name


async def stand(execution_id: UUID, point: str) -> None:
    """Stand here, if it is the place, until the process is killed or told that it is late."""
    if _stands(execution_id, point):
        await _THAWED.wait()


def _stands(execution_id: UUID, point: str) -> bool:
    if _THAWED.is_set() or _PLACES.get(execution_id, ("",))[0] != point:
        return False
    if execution_id not in _STOOD:
        _STOOD[execution_id] = point
        print("standing", _PLACES[execution_id][1], point, flush=True)
    return True


def _accepted(execution_id: UUID, key: str, *, late: bool) -> None:
    """Tell of what was written, if whoever wrote it had been thawed by then."""
    if late:
        print("accepted late", execution_id, key, flush=True)


def watch() -> None:
    """Have the runtime of this process stop at the places."""
    _watch_journal()
    _watch_transactions()
    _watch_waits()
    _watch_outcomes()


def _watch_journal() -> None:
    record, begin = Journal.record, Journal.start

    async def recorded(self: Journal, step: StepRecord) -> Recorded:
        await stand(step.execution_id, f"before {step.key}")
        late = _THAWED.is_set()
        found = await record(self, step)
        _accepted(step.execution_id, step.key, late=late)
        await stand(step.execution_id, f"after {step.key}")
        return found

    async def started(self: Journal, start: StepStart) -> Started:
        await stand(start.execution_id, f"before {start.key}")
        late = _THAWED.is_set()
        found = await begin(self, start)
        _accepted(start.execution_id, start.key, late=late)
        await stand(start.execution_id, f"after {start.key}")
        return found

    Journal.record = recorded  # type: ignore[method-assign]
    Journal.start = started  # type: ignore[method-assign]


def _watch_transactions() -> None:
    commit, complete_in = OpenTransaction.commit, Journal.complete_in

    async def completing(self: Journal, session: Any, outcome: Completed) -> bool:
        session.info["ends"] = outcome.execution_id
        return await complete_in(self, session, outcome)

    async def committed(self: OpenTransaction, step: StepRecord | None) -> str | None:
        if step is not None:
            execution_id, key = step.execution_id, step.key
        else:
            execution_id, key = self.session.info["ends"], "end"
        finish = self.session.commit

        async def finished() -> None:
            await stand(execution_id, f"before {key}")
            await finish()
            await stand(execution_id, f"after {key}")

        self.session.commit = finished  # type: ignore[method-assign]
        late = _THAWED.is_set()
        found = await commit(self, step)
        _accepted(execution_id, key, late=late)
        return found

    Journal.complete_in = completing  # type: ignore[method-assign]
    OpenTransaction.commit = committed  # type: ignore[method-assign]


def _watch_waits() -> None:
    hear, suspend = Waits.settled, Waits.suspend

    def told(self: Waits, settled: Settled) -> None:
        for ended in settled.ended:
            if _stands(self.execution_id, f"told {ended.key}"):
                _UNTOLD.append(self)
                return
        hear(self, settled)

    def suspended(self: Waits) -> bool:
        done = suspend(self)
        if done and self.suspended_by is not None:
            _SUSPENDED_AT[self.execution_id] = self.suspended_by
        return done

    Waits.settled = told  # type: ignore[assignment, method-assign]
    Waits.suspend = suspended  # type: ignore[method-assign]


def _watch_outcomes() -> None:
    add, knows = Completer.add, Completer.knows

    def known(self: Completer, execution_id: UUID) -> bool:
        return any(execution_id == one.execution_id for _, one in _WITHHELD) or knows(
            self, execution_id
        )

    def added(self: Completer, outcome: Outcome) -> None:
        one = outcome.execution_id
        point = (
            f"suspended at {_SUSPENDED_AT.get(one)}" if isinstance(outcome, Suspended) else "ended"
        )
        if _stands(one, point):
            _WITHHELD.append((self, outcome))
        else:
            add(self, outcome)

    Completer.add = added  # type: ignore[method-assign]
    Completer.knows = known  # type: ignore[method-assign]


def go_on_late() -> None:
    """At SIGUSR1 everybody goes on, and nobody learns of the eviction but by what is refused."""
    written = Machine._on_written

    def told(self: Machine, verdicts: list[Verdict]) -> None:
        for one in verdicts:
            if _THAWED.is_set() and one.execution_id in _STOOD:
                print("late", _PLACES[one.execution_id][1], one.disposition, flush=True)
        written(self, verdicts)

    def thaw() -> None:
        _THAWED.set()
        for completer, outcome in _WITHHELD:
            completer.add(outcome)
        for waits in _UNTOLD:
            waits._sentry.look(waits.execution_id)

    Machine._on_written = told  # type: ignore[method-assign]
    Machine._on_evicted = lambda self: None  # type: ignore[method-assign]
    Machine._on_fence = lambda self, fenced: None  # type: ignore[method-assign]
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, thaw)


def look_at_nothing() -> None:
    """Have this process find nothing that anybody waits for."""

    async def settle(self: StepService, seen: Mapping[UUID, int | None]) -> list[Settled]:
        return [Settled(one, wakes) for one, wakes in seen.items() if wakes is not None]

    async def settle_due(self: StepService) -> None:
        pass

    StepService.settle = settle  # type: ignore[method-assign]
    StepService.settle_due = settle_due  # type: ignore[method-assign]
