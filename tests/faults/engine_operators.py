"""The state machine over the whole engine, with operators: they cancel, retry and fork."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import rule

from pgconductor.exceptions import DedupeConflict
from tests.faults.engine_lives import INDEX, EngineLives, pick
from tests.faults.records import Found, Row, Step, copied_by_fork, kept_by_retry, read
from tests.faults.verdicts import FINISHED

__all__ = ["OperatedLives"]


class OperatedLives(EngineLives):
    def _executions(self, *states: str) -> list[UUID]:
        rows = self.fleet.rows("SELECT id, state FROM pgconductor.executions ORDER BY id")
        wanted = [row["id"] for row in rows if row["state"] in states]
        return wanted or [row["id"] for row in rows]

    @rule(
        index=INDEX,
        children=st.sampled_from([True, True, False]),
        states=st.sampled_from([("running",), ("waiting",), ("available",)]),
        at_work=st.booleans(),
    )
    def cancel(self, index: int, children: bool, states: tuple[str, ...], at_work: bool) -> None:
        """At work, it goes on just when it is cancelled, perhaps before it hears of that."""
        standing: list[UUID] = []
        if at_work:
            self.gate(False)
            self.do(self._proceed(5), "proceed by 5")
            standing = sorted(one for one, times in self.fleet.notes.standing.items() if times)
        self._cancel(pick(standing or self._executions(*states), index), children)
        if at_work:
            self.gate(True)
            self.do(self._proceed(5), "proceed by 5")

    def _cancel(self, one: UUID, children: bool) -> None:
        cancelling = self.fleet.control.executions.cancel(one, reason="a drill", children=children)
        done = self.do(cancelling, f"cancel {one} children={children}")
        (row,) = self.fleet.rows("SELECT * FROM pgconductor.executions WHERE id = %(id)s", id=one)
        assert done or row["state"] in FINISHED
        assert not done or row["cancel_requested_at"] is not None
        if not done:
            return
        self.ledger.cancelled.add(one)
        if not children:
            self.ledger.childless.add(one)
            return
        for left in self._family(one):
            assert left["cancel_requested_at"] is not None, (left, self.story)

    def _family(self, one: UUID) -> list[Row]:
        """Whom it waits for that has not finished, and whom they wait for."""
        return self.fleet.rows(
            "WITH RECURSIVE f AS (SELECT * FROM pgconductor.executions WHERE id = %(id)s UNION"
            " SELECT c.* FROM f JOIN pgconductor.executions c ON c.parent_id = f.id"
            " WHERE c.parent_key IS NOT NULL AND c.finished_at IS NULL) SELECT * FROM f",
            id=one,
        )

    @rule(index=INDEX, how=st.sampled_from(["keep", "keep", "scratch", "step"]), key=INDEX)
    def retry(self, index: int, how: str, key: int) -> None:
        before = read(self.fleet)
        finished = [one for one, row in before.executions.items() if row["state"] in FINISHED]
        wanted = [one for one in finished if before.executions[one]["state"] != "completed"]
        if not finished:
            return  # No precondition: what is drawn must not depend on what others have done.
        one = pick(sorted(wanted or finished), index)
        row = before.executions[one]
        steps = sorted(before.steps.get(one, {}))
        at = pick(steps, key) if how == "step" and steps else None
        now = self.fleet.value("SELECT pgconductor.clock()")
        # Whatever it is told from now on may be new.
        told = self.fleet.notes.forget(one)
        retrying = self._retry(one, how == "scratch", at)
        done = self.do(retrying, f"retry {one} {how} {at}")
        assert done is not None or row["dedupe_key"] is not None
        assert done is None or done is (row["state"] != "completed")
        kept = {
            step: it
            for step, it in read(self.fleet).steps.get(one, {}).items()
            if it["created_at"] < now
        }
        for step, value in told.items():
            if step in kept or not done:
                self.fleet.notes.tell(one, step, value)
        if done:
            self._note_retry(row, before.own(one), set(kept))
            wanted_steps = kept_by_retry(before, one, from_scratch=how == "scratch", from_step=at)
            self._assert_but_for_waits(set(kept), wanted_steps, before, one)

    async def _retry(self, one: UUID, from_scratch: bool, from_step: str | None) -> bool | None:
        try:
            return await self.fleet.control.executions.retry(
                one, from_scratch=from_scratch, from_step=from_step
            )
        except DedupeConflict:
            return None

    def _note_retry(self, row: Row, own: Mapping[str, Step], kept: set[str]) -> None:
        one: UUID = row["id"]
        ledger = self.ledger
        ledger.ends.setdefault(one, []).append(row)
        ledger.retried.add(one)
        ledger.cancelled.discard(one)
        del ledger.crashes[one]
        self.ended.pop(one, None)
        for key in set(own) - kept:
            ledger.dropped[one, key] += 1
            if own[key]["child_id"] is not None:
                ledger.former.add(own[key]["child_id"])

    @rule(index=INDEX, key=INDEX, whole=st.booleans())
    def fork(self, index: int, key: int, whole: bool) -> None:
        found = read(self.fleet)
        one = pick(sorted(found.executions), index)
        steps = sorted(found.steps.get(one, {}))
        at = None if whole or not steps else pick(steps, key)
        forking = self.fleet.control.executions.fork(one, from_step=at)
        made = self.do(forking, f"fork {one} from {at}")
        self.story.append(f"  it is {made}")
        self.ledger.roots.add(made)
        if found.executions[one]["state"] in FINISHED:
            now = read(self.fleet)
            copied = set(now.steps.get(made, {})) - set(now.own(made))
            wanted_steps = copied_by_fork(found, one, from_step=at)
            self._assert_but_for_waits(copied, wanted_steps, found, one)

    @staticmethod
    def _assert_but_for_waits(keys: set[str], wanted: set[str], found: Found, one: UUID) -> None:
        """What was pending may have ended since it was looked at."""
        pending = {key for key, it in found.steps.get(one, {}).items() if it["pending"]}
        assert keys - pending == wanted - pending, (keys, wanted)
