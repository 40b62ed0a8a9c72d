"""The engine as a pure model: what ``semantics.md`` says, in plain Python, hours for time."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

Owner = tuple[UUID, int]


@dataclass
class ModelWait:
    """A wait for a child, for an event of this name and payload, or for an hour."""

    began: int
    due: int | None = None
    child: UUID | None = None
    event: tuple[str, str | None] | None = None
    pending: bool = True
    result: str | None = None
    error: str | None = None
    took: int | None = None
    woke: int = 0


@dataclass
class ModelRow:
    priority: int
    due: int  # the hour from which on it may be fetched
    max_attempts: int
    max_crashes: int
    key: str | None
    payload: int | None = None
    run_at: datetime | None = None  # as the database has it: the model orders by it, no more
    state: str = "available"
    attempts: int = 0
    crashes: int = 0
    owner: Owner | None = None
    finished_by: Owner | None = None
    cancelling: bool = False
    steps: dict[str, str] = field(default_factory=dict)
    waits: dict[str, ModelWait] = field(default_factory=dict)
    wakes: int = 0
    parent: UUID | None = None
    result: str | None = None
    made_at: int = 0  # how many moments had passed
    own_key: bool = False  # invoked with the scope "unstarted"
    fresh: bool = True  # neither fetched nor retried so far

    @property
    def finished(self) -> bool:
        return self.state in {"completed", "failed", "cancelled"}

    def leave(self, state: str, by: Owner | None = None) -> None:
        """Running no more. A cancellation that was asked for wins."""
        self.state = "cancelled" if self.cancelling else state
        self.owner = None
        self.finished_by = by if self.finished else None


@dataclass
class ModelOrchestrator:
    beat_at: int
    beats: int = 0
    asked_to_stop: bool = False


class Model:
    def __init__(self) -> None:
        self.now = 0
        self.moments = 0
        self.rows: dict[UUID, ModelRow] = {}
        self.events: list[tuple[int, str, str]] = []  # moment, name, payload
        self.orchestrators: dict[UUID, ModelOrchestrator] = {}

    def invoke(self, new: UUID, row: ModelRow, *, retained: bool, replaces: bool = False) -> UUID:
        if row.key is not None:
            same = {one: it for one, it in self.rows.items() if it.key == row.key}
            for one, it in same.items():
                if not it.finished and (it.fresh or not row.own_key):
                    if replaces:
                        it.payload = row.payload
                        it.due = min(it.due, row.due)
                        it.priority = max(it.priority, row.priority)
                    return one
            if retained and same:
                return self.latest_finished(same)
        self.rows[new] = row
        row.made_at = self.moments
        return new

    def latest_finished(self, same: dict[UUID, ModelRow]) -> UUID:
        # There is never more than one: the machine uses a key with one scope only.
        (one,) = same
        return one

    def fetch(self, owner: Owner, limit: int) -> list[UUID]:
        orchestrator = self.orchestrators.get(owner[0])
        if orchestrator is None or orchestrator.asked_to_stop:
            return []
        due = [
            (-row.priority, row.run_at, one)
            for one, row in self.rows.items()
            if row.state == "available" and row.due <= self.now
        ]
        picked = [one for *_, one in sorted(due)][:limit]
        suspects = [one for one in picked if self.suspect(one)]
        if suspects and suspects[0] == picked[0]:
            picked = suspects[:1]
        else:
            picked = [one for one in picked if one not in suspects]
        for one in picked:
            row = self.rows[one]
            row.state, row.owner = "running", owner
            row.attempts += 1
            row.fresh = False
        return picked

    def suspect(self, one: UUID) -> bool:
        row = self.rows[one]
        return 0 < row.crashes >= row.max_crashes - 1

    def report(self, one: UUID, owner: Owner, kind: str) -> tuple[str, str | None]:
        row = self.rows[one]
        if row.owner != owner:
            return ("known", row.state) if row.finished_by == owner else ("lost", None)
        if kind == "complete":
            row.leave("completed", owner)
            row.result = '"done"' if row.state == "completed" else None
        elif kind == "release":
            row.attempts -= 1
            row.leave("available", owner)
        elif kind == "retry" and row.attempts < row.max_attempts:
            row.leave("available", owner)
            row.due = self.now + (0 if row.finished else 1)
        else:
            row.leave("failed", owner)
        return "recorded", row.state

    def record_step(self, one: UUID, owner: Owner, key: str, result: str) -> str | None:
        row = self.rows[one]
        return row.steps.setdefault(key, result) if row.owner == owner else None

    def suspend(self, one: UUID, owner: Owner, seen: int) -> tuple[str, str | None]:
        row = self.rows[one]
        if row.owner != owner:
            return ("known", row.state) if row.finished_by == owner else ("lost", None)
        row.attempts -= 1
        row.leave("available" if row.wakes > seen else "waiting", owner)
        return "recorded", row.state

    def begin(self, one: UUID, owner: Owner, key: str, wait: ModelWait) -> ModelWait | None:
        """What is on record under the key; None if nothing may begin."""
        row = self.rows[one]
        if row.owner != owner:
            return None
        if key not in row.waits and wait.child is not None:
            if row.cancelling:
                return None
            made = ModelRow(0, self.now, 3, 3, None, parent=one, made_at=self.moments)
            self.rows[wait.child] = made
        return row.waits.setdefault(key, wait)

    def settle(self, one: UUID) -> bool:
        """End what has come to its end, the older waits first; whether it is available by that."""
        row = self.rows[one]
        waits = sorted(row.waits.items(), key=lambda item: (item[1].began, item[0]))
        ended = [wait for _, wait in waits if wait.pending and self._end(row, wait)]
        for wait in ended:
            wait.pending, wait.woke = False, row.wakes + 1
        row.wakes += bool(ended)
        if ended and row.state == "waiting":
            row.state, row.due = "available", self.now
            return True
        return False

    def _end(self, row: ModelRow, wait: ModelWait) -> bool:
        taken = {it.took for it in row.waits.values()}
        child = None if wait.child is None else self.rows[wait.child]
        if child is not None and child.finished:
            wait.result = child.result
            wait.error = None if child.state == "completed" else child.state
            return True
        for number, (moment, name, payload) in enumerate(self.events):
            hoped = wait.event in ((name, None), (name, payload))
            if hoped and moment >= row.made_at and number not in taken:
                wait.took, wait.result = number, payload
                return True
        if wait.due is None or wait.due > self.now:
            return False
        if wait.child is not None or wait.event is not None:
            wait.error = "timeout"
        return True

    def cancel(self, one: UUID) -> bool:
        row = self.rows[one]
        if row.finished:
            return False
        self._cancel(one)
        return True

    def _cancel(self, one: UUID) -> None:
        row = self.rows[one]
        row.cancelling = True
        if row.state != "running":
            row.leave("cancelled")
        for child, it in self.rows.items():
            if it.parent == one and not it.finished:
                self._cancel(child)

    def rivalled(self) -> list[UUID]:
        """Finished executions whose dedupe key an unfinished one has."""
        rows = {one: row for one, row in self.rows.items() if not row.own_key}
        taken = {row.key for row in rows.values() if not row.finished} - {None}
        return [one for one, row in rows.items() if row.finished and row.key in taken]

    def retry(self, one: UUID, *, from_scratch: bool) -> str:
        row = self.rows[one]
        if row.state not in {"failed", "cancelled"}:
            return "refused"
        if one in self.rivalled():
            return "conflict"
        row.cancelling, row.attempts, row.crashes = False, 0, 0
        row.due, row.fresh = self.now, False
        row.leave("available")
        if from_scratch:
            row.steps.clear()
            row.waits.clear()
        row.waits = {key: it for key, it in row.waits.items() if not self._in_vain(it)}
        return "retried"

    def _in_vain(self, wait: ModelWait) -> bool:
        gone = wait.child is not None and self.rows[wait.child].state in {"failed", "cancelled"}
        return wait.error is not None or (wait.pending and gone)

    def results(self, one: UUID) -> dict[str, str | None]:
        row = self.rows[one]
        return {**row.steps, **{key: wait.result for key, wait in row.waits.items()}}

    def heartbeat(self, orchestrator: UUID) -> tuple[int, bool, set[UUID]] | None:
        found = self.orchestrators.get(orchestrator)
        if found is None:
            return None
        found.beats += 1
        found.beat_at = self.now
        cancelling = {one for one in self.held(orchestrator) if self.rows[one].cancelling}
        return found.beats, found.asked_to_stop, cancelling

    def held(self, orchestrator: UUID) -> list[UUID]:
        return [one for one, row in self.rows.items() if row.owner and row.owner[0] == orchestrator]

    def take_back(self, orchestrator: UUID, *, crashed: bool) -> list[str]:
        """What becomes of the executions of an orchestrator that goes."""
        del self.orchestrators[orchestrator]
        held = self.held(orchestrator)
        for one in held:
            row = self.rows[one]
            row.attempts -= 1
            row.crashes += crashed
            row.leave("failed" if crashed and row.crashes >= row.max_crashes else "available")
        return [self.rows[one].state for one in held]

    def late(self) -> set[UUID]:
        return {one for one, it in self.orchestrators.items() if it.beat_at < self.now}

    def recover(self) -> tuple[set[UUID], list[str]]:
        late = self.late()
        return late, [state for one in late for state in self.take_back(one, crashed=True)]
