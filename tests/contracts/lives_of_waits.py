"""Lives in which handlers wait as well: for hours, for children and for events."""

from __future__ import annotations

from datetime import timedelta
from typing import TypeVar
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from pgconductor.domain.claims import Fetched
from pgconductor.domain.outcomes import Suspended
from pgconductor.domain.steps import ChildSpec, Recorded, Settled, Started, StepKind, StepStart
from tests.contracts.lives import HOUR, INDEX, Lives, owner_of
from tests.contracts.model import ModelWait
from tests.contracts.waits import child, event, sleep

T = TypeVar("T")

#: Apart in time, so that the fake's clock, which stands still, knows an order.
MOMENT = timedelta(milliseconds=1)
#: Waits are begun by owners, hardly ever by others: those have lives enough without.
WHOSE = st.sampled_from(["current", "current", "current", "stale"])
KEY = st.sampled_from(["p", "q"])
HOURS = st.sampled_from([None, 1, 2])
PAYLOAD = st.sampled_from(["1", "2"])
#: How many at once: size is a dimension, and a pass over all pairs of the largest would be felt.
COUNT = st.sampled_from([1, 1, 1, 1, 1, 5, 30, 200])


def repeated(some: list[T], count: int) -> list[T]:
    """So many of them, over and over."""
    return [some[number % len(some)] for number in range(count)]


MATCHES = st.builds(repeated, st.lists(st.none() | PAYLOAD, min_size=1, max_size=4), COUNT)
PAYLOADS = st.builds(repeated, st.lists(PAYLOAD, min_size=1, max_size=4), COUNT)


class WaitingLives(Lives):
    def _moment(self) -> None:
        self.db.advance(MOMENT)
        self.model.moments += 1

    @rule(index=INDEX, whose=WHOSE, key=KEY, hours=st.integers(0, 2))
    @precondition(lambda self: self.claims)
    def begin_sleep(self, index: int, whose: str, key: str, hours: int) -> None:
        held = self._claim(index, whose)
        wait = ModelWait(self.model.moments, due=self.model.now + hours)
        self._begin(held, f"s{key}", sleep(held, f"s{key}", hours * HOUR), wait)

    @rule(index=INDEX, whose=WHOSE, key=KEY, hours=HOURS)
    @precondition(lambda self: self.claims)
    def begin_child(self, index: int, whose: str, key: str, hours: int | None) -> None:
        held = self._claim(index, whose)
        self.made += 1
        made = UUID(int=self.made)
        begun = child(
            held, f"c{key}", child=ChildSpec(made, "default", 0, 3, 3), delay=_delay(hours)
        )
        self._begin(held, f"c{key}", begun, ModelWait(*self._until(hours), child=made))
        if made in self.model.rows:
            self._learn_run_at(made)

    @rule(index=INDEX, whose=WHOSE, key=KEY, hours=HOURS, matches=MATCHES)
    @precondition(lambda self: self.claims)
    def begin_event(
        self, index: int, whose: str, key: str, hours: int | None, matches: list[str | None]
    ) -> None:
        held = self._claim(index, whose)
        if len(matches) > 1:
            self._begin_many(held, hours, matches)
            return
        (match,) = matches
        begun = event(held, f"e{key}", match, delay=_delay(hours))
        self._begin(held, f"e{key}", begun, ModelWait(*self._until(hours), event=("paid", match)))

    def _begin_many(self, held: Fetched, hours: int | None, matches: list[str | None]) -> None:
        """Of one name, in the order of a list and not of their keys."""
        owner = self.model.rows[held.id].owner
        self.made += 1
        asked: list[tuple[StepStart, ModelWait | None]] = []
        for number, match in enumerate(matches):
            key = f"m{(number * 7919) % 1009} {self.made}"
            wait = ModelWait(*self._until(hours), event=("paid", match))
            self.model.moments += 1
            begun = event(held, key, match, delay=_delay(hours))
            asked.append((begun, self.model.begin(held.id, owner_of(held), key, wait)))
        answers = self.do(self.db.steps.start_many([begun for begun, _ in asked]))
        for answer, (_, expected) in zip(answers, asked, strict=True):
            assert answer.held is (owner == owner_of(held))
            self._compare(answer, expected)
        self._moment()
        self._settle(held.id)

    async def _emit_many(self, payloads: list[str]) -> None:
        async with self.db.begin() as repositories:
            for payload in payloads:
                await repositories.steps.emit("paid", payload)

    def _until(self, hours: int | None) -> tuple[int, int | None]:
        return self.model.moments, None if hours is None else self.model.now + hours

    def _begin(self, held: Fetched, key: str, begun: StepStart, wait: ModelWait) -> None:
        owner = self.model.rows[held.id].owner
        expected = self.model.begin(held.id, owner_of(held), key, wait)
        (answer,) = self.do(self.db.steps.start_many([begun]))
        assert answer.held is (owner == owner_of(held))
        self._compare(answer, expected)
        self._moment()
        # As an owner does once its wait is on record: it may have come before.
        self._settle(held.id)

    def _compare(self, answer: Started, expected: ModelWait | None) -> None:
        recorded: Recorded | None = answer.recorded
        assert (recorded is None) is (expected is None)
        if recorded is not None and expected is not None:
            assert (recorded.pending, recorded.child_id) == (expected.pending, expected.child)

    @rule(payloads=PAYLOADS, settled=st.booleans())
    def emit(self, payloads: list[str], settled: bool) -> None:
        self._moment()
        self.do(self._emit_many(payloads))
        self.model.events += [(self.model.moments, "paid", payload) for payload in payloads]
        self._moment()
        if settled:
            self.settle_due()

    @rule(index=INDEX, whose=WHOSE, seen=st.booleans())
    @precondition(lambda self: self.claims)
    def suspend(self, index: int, whose: str, seen: bool) -> None:
        held = self._claim(index, whose)
        wakes = self.model.rows[held.id].wakes if seen else 0
        expected = self.model.suspend(held.id, owner_of(held), wakes)
        verdict = self.do(self.db.report(Suspended(held.id, held.claim, wakes)))
        assert (verdict.disposition, verdict.state) == expected

    @rule(index=INDEX, waiting=st.booleans(), seen=st.none() | st.integers(0, 2))
    def settle(self, index: int, waiting: bool, seen: int | None) -> None:
        self._settle(self._execution(index, *(["waiting"] if waiting else [])), seen)

    def _settle(self, execution: UUID, seen: int | None = 0) -> None:
        found = self.do(self.db.steps.settle({execution: seen}))
        if self.model.settle(execution):
            self._learn_run_at(execution)
        row = self.model.rows[execution]
        (answer,) = found
        if seen is None:
            assert answer == Settled(execution, None)
            return
        assert (answer.execution_id, answer.wakes) == (execution, row.wakes)
        expected = {key for key, wait in row.waits.items() if wait.woke > seen}
        assert {one.key for one in answer.ended} == expected

    @rule()
    def settle_due(self) -> None:
        self.do(self.db.steps.settle_due())
        woken = [one for one in self.model.rows if self.model.settle(one)]
        self._learn_run_at(*woken)

    @rule(index=INDEX, from_scratch=st.booleans(), rivalled=st.booleans())
    def retry(self, index: int, from_scratch: bool, rivalled: bool) -> None:
        """The next attempt looks again for all that it waits for: waits may have been dropped."""
        before = {one for one, row in self.model.rows.items() if row.finished}
        super().retry(index, from_scratch, rivalled)
        for one in before:
            if not self.model.rows[one].finished:
                self._settle(one)

    @invariant()
    def waits_are_as_the_model_says(self) -> None:
        histories = self.do(self.db.steps.histories(list(self.model.rows)))
        for one, row in self.model.rows.items():
            found = histories[one]
            assert found.wakes == row.wakes
            waits = {key: it for key, it in found.records.items() if it.kind is not StepKind.STEP}
            assert set(waits) == set(row.waits)
            for key, wait in row.waits.items():
                assert (waits[key].pending, waits[key].result) == (wait.pending, wait.result)
                assert (waits[key].error is None) is (wait.error is None)

    def everything_comes(self) -> None:
        """I3: whatever is waited for."""
        waiting = [row for row in self.model.rows.values() if row.state == "waiting"]
        for payload in ("1", "2"):
            for _ in range(3 * len(waiting)):
                self.emit([payload], settled=False)
        self.settle_due()
        for one, row in list(self.model.rows.items()):
            if row.state == "waiting" and not any(it.pending for it in row.waits.values()):
                # A handler that waits for nothing never comes back: only these lives have one.
                self.do(self.db.executions.cancel(one))
                self.model.cancel(one)


def _delay(hours: int | None) -> timedelta | None:
    return None if hours is None else hours * HOUR
