"""A state machine over the whole engine: real handlers, orchestrators and a database.

Rules start, crash and stop orchestrators, move the clock, and do what callers and operators do,
while handlers that were drawn at random go on. In the end everything is to have finished as the
model in ``programs_model.py`` allows, whatever the order was in which it happened.

Nothing happens between rules, for the event loop stands still: what others do, they do within a
rule, for as long as it waits for them.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.faults.fleet import RECOVERY, Fleet
from tests.faults.programs import BELL, PROGRAMS, Program
from tests.faults.records import Row, held_by_nobody
from tests.faults.verdicts import Ledger, judge
from tests.support.waiting import eventually

__all__ = ["INDEX", "EngineLives", "pick"]

T = TypeVar("T")
INDEX = st.integers(0, 7)
TASK = st.sampled_from(["sturdy", "sturdy", "frail", "once"])
#: How long to wait for something that may never come, and when it is over with a whole life.
PATIENCE, PATIENCE_AT_THE_END = 0.3, 90.0
#: What is never changed of an execution that has finished, but by an operator.
FINAL = ("state", "result", "attempts", "crashes", "last_error", "finished_at", "finished_by")

_FACTS = """
    SELECT
        (SELECT count(*) + count(*) FILTER (WHERE NOT pending) FROM pgconductor.steps)
        + (SELECT count(*) + count(e.finished_at) FROM pgconductor.executions e) AS facts,
        (SELECT count(*) FROM pgconductor.executions e
         WHERE e.state = 'available' AND e.run_at <= pgconductor.clock())
        + (SELECT count(*) FROM pgconductor.executions e
           WHERE e.state = 'running' AND e.id <> ALL (%(standing)s)
           AND e.locked_by = ANY (%(alive)s) AND NOT EXISTS (
               SELECT FROM pgconductor.steps s WHERE s.execution_id = e.id AND s.pending))
        + (SELECT count(*) FROM pgconductor.steps s
           WHERE s.pending AND s.wake_at <= pgconductor.clock())
        + (SELECT count(*) FROM pgconductor.executions c
           WHERE c.parent_key IS NOT NULL AND c.awaited AND c.finished_at IS NOT NULL)
        + (SELECT count(*) FROM pgconductor.events v WHERE NOT v.matched) AS due
"""


def pick(items: Sequence[T], index: int) -> T:
    return items[index % len(items)]


class EngineLives(RuleBasedStateMachine):
    def __init__(self, fleet: Fleet, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        super().__init__()
        self.fleet = fleet
        self._run = run
        self.ledger = Ledger()
        self.ended: dict[UUID, Row] = {}
        self.story: list[str] = []
        self.broken = False

    def do(self, what: Coroutine[Any, Any, T], told: str) -> T:
        """Do something, and have it told if anything goes wrong then."""
        self.story.append(told)
        try:
            done: T = self._run(what)
        except BaseException as error:
            self._tell(error)
            raise
        return done

    def _tell(self, error: BaseException) -> None:
        self.broken = True
        error.add_note("\n".join(["the life:", *self.story]))

    # --- callers ---------------------------------------------------------------------------------

    @initialize(
        programs=st.lists(st.tuples(PROGRAMS, TASK), min_size=2, max_size=3),
        modes=st.lists(st.booleans(), min_size=2, max_size=2),
    )
    def begin(self, programs: list[tuple[Program, str]], modes: list[bool]) -> None:
        for mode in modes:
            self._start(mode, deaf=not mode)
        for program, task in programs:
            self._invoke(program, task, None, 0)

    @rule(
        program=PROGRAMS,
        task=TASK,
        key=st.sampled_from([None, None, "a", "b"]),
        delay=st.sampled_from([0, 0, 0, 60]),
        rolled_back=st.sampled_from([False, False, False, True]),
    )
    def invoke(
        self, program: Program, task: str, key: str | None, delay: int, rolled_back: bool
    ) -> None:
        if rolled_back:
            self.do(self._invoke_in_vain(program, task, key), f"invoke {task} {key}, rolled back")
        else:
            self._invoke(program, task, key, delay)

    async def _invoke_in_vain(self, program: Program, task: str, key: str | None) -> None:
        async with self.fleet.control.sessionmaker() as session:
            await self.fleet.tasks[task].invoke(program, session=session, dedupe_key=key)
            await session.rollback()

    def _invoke(self, program: Program, task: str, key: str | None, delay: int) -> None:
        invoking = self.fleet.tasks[task].invoke(
            program, dedupe_key=key, delay=timedelta(seconds=delay)
        )
        handle = self.do(invoking, f"invoke {task} {key} {delay} {program!r}")
        self.story.append(f"  it is {handle.id}")
        assert handle.created is (handle.id not in self.ledger.roots)
        assert handle.created or key is not None
        self.ledger.roots.add(handle.id)

    @rule(number=st.integers(0, 1), rolled_back=st.sampled_from([False, False, False, True]))
    def emit(self, number: int, rolled_back: bool) -> None:
        if rolled_back:
            self.do(self._emit_in_vain(number), f"emit {number}, rolled back")
            return
        emitted = self.do(self.fleet.control.emit(BELL, {"number": number}), f"emit {number}").id
        self.ledger.emitted.append(emitted)

    async def _emit_in_vain(self, number: int) -> None:
        async with self.fleet.control.sessionmaker() as session:
            await self.fleet.control.emit(BELL, {"number": number}, session=session)
            await session.rollback()

    # --- the fleet -------------------------------------------------------------------------------

    @rule(hasty=st.booleans(), concurrency=st.sampled_from([1, 4, 4]), deaf=st.booleans())
    @precondition(lambda self: len(self.fleet.living) < 3)
    def start(self, hasty: bool, concurrency: int, deaf: bool) -> None:
        self._start(hasty, concurrency, deaf)

    def _start(self, hasty: bool, concurrency: int = 4, deaf: bool = False) -> None:
        starting = self.fleet.start(
            suspend_after=0.001 if hasty else 0.3, concurrency=concurrency, deaf=deaf
        )
        self.do(starting, f"start hasty={hasty} concurrency={concurrency} deaf={deaf}")

    @rule(index=INDEX, by_database=st.booleans())
    @precondition(lambda self: self.fleet.living)
    def stop(self, index: int, by_database: bool) -> None:
        member = pick(self.fleet.living, index)
        stopping = self.fleet.stop(member, by_database=by_database)
        self.do(stopping, f"stop {member.id} by_database={by_database}")

    @rule(index=INDEX, facts=st.sampled_from([0, 1, 2, 3, 5]))
    @precondition(lambda self: self.fleet.living)
    def crash(self, index: int, facts: int) -> None:
        """After something more has happened, so that it is in the middle of something else."""
        member = pick(self.fleet.living, index)
        self.do(self._proceed(facts), f"proceed by {facts}")
        self.do(self.fleet.crash(member), f"crash {member.id}")

    @rule(index=INDEX, facts=st.sampled_from([0, 1, 2, 3, 5]))
    @precondition(lambda self: self.fleet.living)
    def sever(self, index: int, facts: int) -> None:
        """Its own connections end, whatever they were at; no handler is to notice."""
        member = pick(self.fleet.living, index)
        self.do(self._proceed(facts), f"proceed by {facts}")
        self.story.append(f"sever {member.id}")
        self.fleet.sever(member)

    @rule(index=INDEX)
    @precondition(lambda self: self.fleet.living)
    def evict(self, index: int) -> None:
        """Its handlers go on, while others take on what it held: nothing they write is to count."""
        member = pick(self.fleet.living, index)
        taken = self.do(self.fleet.evict(member), f"evict {member.id}")
        self._count_crashes(taken)

    @rule(index=INDEX)
    @precondition(lambda self: self.fleet.evicted)
    def hear(self, index: int) -> None:
        member = pick(self.fleet.evicted, index)
        self.do(self.fleet.hear(member), f"hear {member.id}")

    def _count_crashes(self, taken: int) -> None:
        """Each of those that were taken back has a crash more; only that tells which they were."""
        rows = self.fleet.rows("SELECT id, crashes FROM pgconductor.executions")
        known = self.ledger.crashes
        more = Counter({row["id"]: row["crashes"] - known[row["id"]] for row in rows})
        assert min(more.values(), default=0) >= 0, more
        assert more.total() == taken, (more, taken)
        self.ledger.crashes += more

    @rule()
    @precondition(lambda self: self.fleet.crashed)
    def recover(self) -> None:
        self._recover()

    def _recover(self) -> None:
        recovery, held = self.do(self.fleet.recover(), "recover")
        self.story.append(f"  they held {[str(one) for one in held]}")
        self.ledger.crashes.update(held)
        assert recovery.executions == len(held), (recovery, held)

    # --- time ------------------------------------------------------------------------------------

    @rule(facts=st.sampled_from([1, 1, 2, 4, 8, 100]))
    def proceed(self, facts: int) -> None:
        self.do(self._proceed(facts), f"proceed by {facts}")

    @rule(seconds=st.sampled_from([61, 1_801, 3_601, 86_400]))
    def jump(self, seconds: int) -> None:
        self.story.append(f"jump {seconds}")
        self.fleet.jump(timedelta(seconds=seconds))

    @rule(is_open=st.booleans())
    def gate(self, is_open: bool) -> None:
        """While it is closed, functions of steps stand where they are."""
        self.story.append(f"gate open={is_open}")
        gate = self.fleet.notes.gate
        gate.set() if is_open else gate.clear()

    def _facts(self) -> tuple[int, bool]:
        """How much has happened, and whether more is to happen by itself."""
        notes = self.fleet.notes
        standing = [one for one, times in notes.standing.items() if times]
        alive = [one.id for one in self.fleet.living]
        (row,) = self.fleet.rows(_FACTS, standing=standing, alive=alive)
        return row["facts"] + notes.calls, bool(row["due"] and alive)

    async def _proceed(self, facts: int) -> None:
        """Until so much has happened, or nothing more does."""
        before, _ = self._facts()
        seen, since = before, time.monotonic()
        while time.monotonic() - since < PATIENCE:
            now, more = self._facts()
            if now - before >= facts or not more:
                return
            if now != seen:
                seen, since = now, time.monotonic()
            await asyncio.sleep(0.005)

    # --- what always holds -----------------------------------------------------------------------

    @invariant()
    def nothing_is_held_by_nobody(self) -> None:
        held = held_by_nobody(self.fleet)
        self._check(not held, f"held by nobody: {held}")

    @invariant()
    def finished_is_final(self) -> None:
        found = {
            row["id"]: row
            for row in self.fleet.rows(
                "SELECT * FROM pgconductor.executions WHERE finished_at IS NOT NULL"
            )
        }
        for one, row in self.ended.items():
            now = found.get(one, {})
            changed = [it for it in FINAL if now.get(it, "gone") != row[it]]
            self._check(not changed, f"{changed} of {row} have become {now}")
        self.ended.update(found)
        self._check(not self.fleet.notes.faults, f"{self.fleet.notes.faults}")

    def _check(self, holds: bool, message: str) -> None:
        if not holds:
            error = AssertionError(message)
            self._tell(error)
            raise error

    # --- the end ---------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            if not self.broken and self.story:
                self._end()
        finally:
            self._run(self.fleet.close())

    def _end(self) -> None:
        """I3: everything comes to its end, whatever it waits for."""
        self.gate(True)
        if not self.fleet.living:
            self._start(True)
        if self.fleet.crashed:
            self._recover()
        self.do(self._everything_comes(), "everything comes")
        for member in list(self.fleet.evicted):
            self.do(self.fleet.hear(member), f"hear {member.id}")
        self.finished_is_final()
        self.do(self._judged(), "judge")
        # What is waited for no more wakes nobody.
        self.do(self._comes(), "once more")
        self.finished_is_final()
        self.nothing_is_held_by_nobody()
        self.do(self._nothing_due(), "nothing is due")
        for member in list(self.fleet.living):
            self.do(self.fleet.stop(member), f"stop {member.id}")
        self.finished_is_final()
        self.do(self._judged(), "judge again")

    async def _judged(self) -> None:
        judge(self.fleet, self.ledger)

    async def _everything_comes(self) -> None:
        deadline = time.monotonic() + PATIENCE_AT_THE_END
        while left := self._unfinished():
            assert time.monotonic() < deadline, f"these do not finish: {left}"
            await self._proceed(10_000)
            await self._comes()

    def _unfinished(self) -> list[Row]:
        return self.fleet.rows("SELECT * FROM pgconductor.executions WHERE finished_at IS NULL")

    async def _comes(self) -> None:
        for number in (0, 1):
            emitted = await self.fleet.control.emit(BELL, {"number": number})
            self.ledger.emitted.append(emitted.id)
        self.fleet.jump(timedelta(hours=2))
        await self._proceed(10_000)

    async def _nothing_due(self) -> None:
        await eventually(
            lambda: not self._facts()[1], timeout=RECOVERY, message="nothing is left to be done"
        )
        assert (
            self.fleet.rows(
                "SELECT * FROM pgconductor.orchestrators WHERE id <> ALL (%(a)s)",
                a=[one.id for one in self.fleet.living],
            )
            == []
        )
