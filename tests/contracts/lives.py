"""A state machine: random lives of several orchestrators over one database, beside the model.

After every step the whole database is compared with the model, and the invariants are looked at
by themselves. In the end everything that was ever invoked is finished (I3).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from pgconductor.domain.claims import Fetched, Registration
from pgconductor.domain.invocations import DedupeScope, Invocation
from pgconductor.domain.orchestrators import Recovery, StaleObserver
from pgconductor.domain.outcomes import Completed, Failed, Outcome, Released
from pgconductor.domain.snapshots import ExecutionFilter, ExecutionSnapshot
from pgconductor.domain.steps import StepRecord
from pgconductor.exceptions import DedupeConflict, NotRegistered, OwnershipLost
from pgconductor.types import ExecutionState
from tests.contracts.harness import FAILURE, STALE_AFTER, Harness
from tests.contracts.model import Model, ModelOrchestrator, ModelRow, Owner

HOUR = timedelta(hours=1)
KINDS: dict[str, Callable[[Fetched], Outcome]] = {
    "complete": lambda one: Completed(one.id, one.claim, '"done"'),
    "fail": lambda one: Failed(one.id, one.claim, FAILURE),
    "retry": lambda one: Failed(one.id, one.claim, FAILURE, HOUR),
    "release": lambda one: Released(one.id, one.claim),
}


INDEX = st.integers(0, 7)
WHOSE = st.sampled_from(["current", "stale", "any"])
KIND = st.sampled_from(sorted(KINDS))
#: The key that is invoked in the retained scope, and never otherwise.
ONCE = "once"
#: The key that is invoked in the unstarted scope, and never otherwise.
NEXT = "next"
SCOPES = {ONCE: DedupeScope.RETAINED, NEXT: DedupeScope.UNSTARTED}
T = TypeVar("T")


def owner_of(fetched: Fetched) -> Owner:
    return fetched.claim.orchestrator_id, fetched.claim.number


def pick(items: Sequence[T], index: int) -> T:
    return items[index % len(items)]


def assert_recovered(found: Recovery, gone: set[UUID], states: list[str]) -> None:
    counts: dict[str, Any] = {
        name: states.count(name) for name in ("available", "failed", "cancelled")
    }
    assert found == Recovery(frozenset(gone), **counts)


class Lives(RuleBasedStateMachine):
    """Claims are never thrown away: whoever held an execution once may report at any time, as a
    process does that was frozen, cut off, or whose acknowledgement was lost.

    What a rule acts upon is chosen by an index into those that make a difference: chosen blindly,
    hardly any life would get as far as a stale owner whose execution somebody else holds.
    """

    def __init__(self, harness: Harness, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        super().__init__()
        self.db = harness
        self.do = run
        self.model = Model()
        self.born = self.do(self.db.now())
        self.made = 0
        self.owners: list[Registration] = []
        self.claims: list[Fetched] = []
        self.ended: dict[UUID, ExecutionSnapshot] = {}
        self.seen: dict[UUID, ExecutionSnapshot] = {}

    @initialize(number=st.integers(1, 3))
    def begin(self, number: int) -> None:
        self.register()
        self.register()
        self.invoke([None] * number, 0, 0, 3, 3)

    # --- callers and operators -------------------------------------------------------------------

    @rule(
        keys=st.lists(st.sampled_from([None, "a", "a", ONCE, NEXT, NEXT]), min_size=1, max_size=3),
        replaces=st.booleans(),
        priority=st.integers(-1, 1),
        delay=st.sampled_from([0, 0, 0, 2]),
        max_attempts=st.integers(1, 3),
        max_crashes=st.integers(1, 3),
    )
    def invoke(
        self,
        keys: list[str | None],
        priority: int,
        delay: int,
        max_attempts: int,
        max_crashes: int,
        *,
        replaces: bool = False,
    ) -> None:
        batch: list[Invocation] = []
        for key in keys:
            self.made += 1
            batch.append(
                Invocation(
                    task_key="greet",
                    id=UUID(int=self.made),
                    payload=str(self.made),
                    dedupe_key=key,
                    dedupe_scope=SCOPES.get(key or "", DedupeScope.UNFINISHED),
                    dedupe_replace=replaces and key == NEXT,
                    priority=priority,
                    delay=delay * HOUR,
                    max_attempts=max_attempts,
                    max_crashes=max_crashes,
                )
            )
        answers = self.do(self.db.executions.invoke_many(batch))
        due = self.model.now + delay
        for invocation, answer in zip(batch, answers, strict=True):
            key = invocation.dedupe_key
            row = ModelRow(priority, due, max_attempts, max_crashes, key, own_key=key == NEXT)
            row.payload = invocation.id.int
            expected = self.model.invoke(
                invocation.id,
                row,
                retained=key == ONCE,
                replaces=invocation.dedupe_replace,
            )
            assert (answer.id, answer.created) == (expected, expected == invocation.id)
        changed = {answer.id for answer in answers if answer.created or replaces}
        self._learn_run_at(*(one for one in changed if self.model.rows[one].fresh))
        for one in changed:
            assert self.do(self.db.get(one)).payload == self.model.rows[one].payload

    def _learn_run_at(self, *executions: UUID) -> None:
        for one in executions:
            row = self.model.rows[one]
            row.run_at = self.do(self.db.get(one)).run_at
            # To the hour: PostgreSQL's clock goes on while we watch.
            assert timedelta(0) <= row.run_at - self.born - row.due * HOUR < HOUR / 2

    def _execution(self, index: int, *states: str) -> UUID:
        rows = self.model.rows
        return pick([one for one in rows if rows[one].state in states] or list(rows), index)

    @rule(index=INDEX, states=st.sampled_from([("running",), ("available",), ()]))
    def cancel(self, index: int, states: tuple[str, ...]) -> None:
        execution = self._execution(index, *states)
        assert self.do(self.db.executions.cancel(execution)) is self.model.cancel(execution)

    @rule(index=INDEX, from_scratch=st.booleans(), rivalled=st.booleans())
    def retry(self, index: int, from_scratch: bool, rivalled: bool) -> None:
        execution = self._execution(index, "failed", "cancelled")
        if rivalled and (found := self.model.rivalled()):
            execution = pick(found, index)
        expected = self.model.retry(execution, from_scratch=from_scratch)
        try:
            done = self.do(self.db.executions.retry(execution, from_scratch=from_scratch))
        except DedupeConflict:
            assert expected == "conflict"
            return
        assert expected == ("retried" if done else "refused")
        if done:
            self.ended.pop(execution)
            self._learn_run_at(execution)

    # --- owners ----------------------------------------------------------------------------------

    @rule(index=INDEX, limit=st.integers(1, 4), active=st.sampled_from([True, True, False]))
    def fetch(self, index: int, limit: int, active: bool) -> None:
        if active and not self.active():
            self.register()
        owners = [one for one in self.owners if one.orchestrator_id in self.active()]
        self._fetch(pick(owners if active else self.owners, index), limit)

    def _fetch(self, owner: Registration, limit: int) -> list[Fetched]:
        claim = owner.next_claim()
        fetched: list[Fetched] = self.do(self.db.fetch(owner, limit, claim=claim))
        expected = self.model.fetch((owner.orchestrator_id, claim.number), limit)
        assert [one.id for one in fetched] == expected
        assert not any(one.alone for one in fetched) or len(fetched) == 1
        self.claims += fetched
        return fetched

    @rule(index=INDEX)
    def reconcile(self, index: int) -> None:
        """Give back what the database says one holds, as after a fetch whose answer was lost."""
        owner = pick(self.owners, index)
        held = self.do(self.db.executions.held(owner))
        assert sorted(held) == sorted(self.model.held(owner.orchestrator_id))
        outcomes = [Released(one, claim) for one, claim in held.items()]
        for verdict in self.do(self.db.executions.complete(outcomes)):
            claim = held[verdict.execution_id]
            one = (claim.orchestrator_id, claim.number)
            expected = self.model.report(verdict.execution_id, one, "release")
            assert (verdict.disposition, verdict.state) == expected

    def stale(self, *, own: bool = False) -> list[Fetched]:
        """Claims on what is held again: by somebody else, or by a later claim of their own."""
        held = {one: row.owner for one, row in self.model.rows.items() if row.owner}
        stale = [one for one in self.claims if held.get(one.id, owner_of(one)) != owner_of(one)]
        return [one for one in stale if not own or one.claim.orchestrator_id == held[one.id][0]]

    def _claim(self, index: int, whose: str) -> Fetched:
        current = [one for one in self.claims if self.model.rows[one.id].owner == owner_of(one)]
        wanted = {"current": current, "stale": self.stale(), "any": []}[whose]
        return pick(wanted or self.claims, index)

    @rule(reports=st.lists(st.tuples(INDEX, WHOSE, KIND), min_size=1, max_size=3))
    @precondition(lambda self: self.claims)
    def report(self, reports: list[tuple[int, str, str]]) -> None:
        self._report([(self._claim(index, whose), kind) for index, whose, kind in reports])

    @rule(index=INDEX, own=st.booleans(), kind=KIND)
    @precondition(lambda self: self.stale())
    def report_late(self, index: int, own: bool, kind: str) -> None:
        self._report([(pick(self.stale(own=own) or self.stale(), index), kind)])

    def _report(self, chosen: list[tuple[Fetched, str]]) -> None:
        distinct = {held.id: (held, kind) for held, kind in chosen}.values()
        verdicts = self.do(
            self.db.executions.complete([KINDS[kind](held) for held, kind in distinct])
        )
        for (held, kind), verdict in zip(distinct, verdicts, strict=True):
            expected = self.model.report(held.id, owner_of(held), kind)
            assert (verdict.disposition, verdict.state) == expected
            if kind == "retry" and expected == ("recorded", "available"):
                self._learn_run_at(held.id)

    @rule(index=INDEX, whose=WHOSE, key=st.sampled_from("xy"))
    @precondition(lambda self: self.claims)
    def record_step(self, index: int, whose: str, key: str) -> None:
        held = self._claim(index, whose)
        self.made += 1
        result = str(self.made)
        expected = self.model.record_step(held.id, owner_of(held), key, result)
        try:
            found = self.do(self._record(held, key, result))
        except OwnershipLost:
            found = None
        assert found == expected
        assert self.do(self.db.results(held.id)) == self.model.results(held.id)

    async def _record(self, held: Fetched, key: str, result: str) -> str | None:
        async with self.db.begin() as repositories:
            return await repositories.steps.record(StepRecord(held.id, held.claim, key, result))

    # --- orchestrators ---------------------------------------------------------------------------

    def active(self) -> list[UUID]:
        there = self.model.orchestrators
        return [one for one, it in there.items() if not it.asked_to_stop]

    @rule()
    @precondition(lambda self: len(self.active()) < 3)
    def register(self) -> None:
        owner: Registration = self.do(self.db.register())
        self.model.orchestrators[owner.orchestrator_id] = ModelOrchestrator(self.model.now)
        self.owners.append(owner)

    @rule(index=INDEX)
    def heartbeat(self, index: int) -> None:
        self._beat(pick(self.owners, index))

    def _beat(self, owner: Registration) -> None:
        expected = self.model.heartbeat(owner.orchestrator_id)
        try:
            beat = self.do(self.db.orchestrators.heartbeat(owner))
        except NotRegistered:
            assert expected is None
            return
        assert (beat.number, beat.shutdown_requested, set(beat.cancellations)) == expected

    @rule(index=INDEX)
    @precondition(lambda self: len(self.active()) > 1)
    def ask_to_stop(self, index: int) -> None:
        owner = pick(self.owners, index).orchestrator_id
        asked = self.do(self.db.orchestrators.request_shutdown(owner, reason="deploy"))
        there = self.model.orchestrators.get(owner)
        assert asked is (there is not None)
        if there is not None:
            there.asked_to_stop = True

    @rule(index=INDEX)
    @precondition(lambda self: len(self.active()) > 1)
    def leave(self, index: int) -> None:
        owner = pick(self.owners, index)
        recovery = self.do(self.db.orchestrators.leave(owner))
        if owner.orchestrator_id not in self.model.orchestrators:
            assert recovery == Recovery()
            return
        states = self.model.take_back(owner.orchestrator_id, crashed=False)
        assert_recovered(recovery, {owner.orchestrator_id}, states)

    @rule(
        hours=st.integers(1, 3),
        silent=st.lists(INDEX, max_size=2) | st.none(),
        recovered=st.sampled_from([True, True, False]),
    )
    def advance(self, hours: int, silent: list[int] | None, recovered: bool) -> None:
        """Who is silent is dead, frozen, or cut off; for None all of them are."""
        self.db.advance(hours * HOUR)
        self.model.now += hours
        there = [one for one in self.owners if one.orchestrator_id in self.model.orchestrators]
        for owner in there:
            if silent is not None and owner not in [pick(there, index) for index in silent]:
                self._beat(owner)
        if recovered:
            self.recover()

    @rule()
    @precondition(lambda self: self.model.late())
    def recover(self) -> None:
        young = StaleObserver(STALE_AFTER)
        assert self.do(self.db.orchestrators.recover_stale(young)) == Recovery()
        observer = self.do(self.db.watched_long_enough())
        recovery = self.do(self.db.orchestrators.recover_stale(observer))
        assert_recovered(recovery, *self.model.recover())

    # --- what always holds -----------------------------------------------------------------------

    @invariant()
    def the_database_is_as_the_model_says(self) -> None:
        there = self.do(self._look())
        assert set(self.seen) == set(self.model.rows)
        for one, found in self.seen.items():
            row = self.model.rows[one]
            owner = (found.locked_by, found.claim_number) if found.locked_by else None
            assert (found.state, found.attempts, found.crashes) == (
                row.state,
                row.attempts,
                row.crashes,
            )
            assert owner == row.owner
            assert found.finished_by == (row.finished_by[0] if row.finished_by else None)
            assert (found.cancel_requested_at is not None) is row.cancelling
            assert found.run_at == row.run_at
        assert there == set(self.model.orchestrators)
        for one, found in self.seen.items():
            assert found.locked_by is None or found.locked_by in there, f"I2: {one}"

    async def _look(self) -> set[UUID]:
        async with self.db.begin() as repositories:
            page = await repositories.executions.list(ExecutionFilter(), limit=1_000)
            listed = await repositories.orchestrators.list()
        self.seen = {one.id: one for one in page.items}
        return {one.id for one in listed}

    @invariant()
    def what_has_finished_stays(self) -> None:
        """I7: until an operator retries it."""
        for one, before in self.ended.items():
            assert self.seen[one] == before
        self.ended |= {one: it for one, it in self.seen.items() if it.state.finished}

    @invariant()
    def the_counts_stay_within_their_bounds(self) -> None:
        for one in self.seen.values():
            assert 0 <= one.attempts <= one.max_attempts
            assert 0 <= one.crashes <= one.max_crashes
            assert (one.finished_at is not None) is one.state.finished
            assert (one.state is ExecutionState.RUNNING) is (one.locked_by is not None)

    @invariant()
    def a_key_has_one_unfinished_execution(self) -> None:
        """I8."""
        keys = [
            one.dedupe_key
            for one in self.seen.values()
            if one.dedupe_key not in (None, NEXT) and not one.state.finished
        ]
        assert len(keys) == len(set(keys))

    def teardown(self) -> None:
        # After a failure, a second one would only hide it.
        if sys.exc_info()[0] is None:
            self.everything_ends()

    def everything_ends(self) -> None:
        """I3: whatever has died, as long as some orchestrator lives."""
        for _ in range(2 + len(self.model.rows)):
            if all(row.finished for row in self.model.rows.values()):
                break
            self.advance(3, None, recovered=True)
            self.everything_comes()
            self.register()
            for held in self._fetch(self.owners[-1], 100):
                self.do(self.db.complete(held))
                self.model.report(held.id, owner_of(held), "complete")
            self.the_database_is_as_the_model_says()
        counts = self.do(self.db.executions.count())
        assert not any(number for state, number in counts.items() if not state.finished)

    def everything_comes(self) -> None:
        """Whatever is waited for: nothing in these lives."""
