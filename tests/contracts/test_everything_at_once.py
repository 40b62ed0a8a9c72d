"""Callers, owners, the dead, late reporters, operators and recoverers on PostgreSQL, all at once.

No order is prescribed, so this finds what nobody thought of: a deadlock, a constraint that some
interleaving violates, an execution that ends twice or never.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from pgconductor.domain.claims import Fetched, Registration
from pgconductor.domain.ids import new_id
from pgconductor.domain.invocations import DedupeScope, Invocation
from pgconductor.domain.orchestrators import StaleObserver
from pgconductor.domain.outcomes import Completed, Disposition, Failed, Outcome, Released, Suspended
from pgconductor.domain.snapshots import ExecutionSnapshot
from pgconductor.domain.steps import ChildSpec, StepRecord
from pgconductor.exceptions import DedupeConflict, NotRegistered, OwnershipLost
from pgconductor.types import ExecutionState
from tests.contracts.harness import FAILURE, PostgresHarness
from tests.contracts.waits import child, emit, event, sleep

ROUNDS = 150
COMPLETED = ExecutionState.COMPLETED


class Crowd:
    def __init__(self, db: PostgresHarness) -> None:
        self.db = db
        self.random = random.Random(7)
        self.invoked: list[UUID] = []
        self.claims: list[Fetched] = []
        self.completions: Counter[UUID] = Counter()

    async def caller(self) -> None:
        batch = [
            Invocation(
                task_key="greet",
                dedupe_key=self.random.choice([None, "a", "b", "c"]),
                dedupe_scope=self.random.choice(list(DedupeScope)),
                priority=self.random.randint(-1, 1),
                max_attempts=self.random.randint(1, 3),
                max_crashes=self.random.randint(1, 3),
            )
            for _ in range(self.random.randint(1, 3))
        ]
        self.invoked += [one.id for one in await self.db.executions.invoke_many(batch)]

    def owner(self) -> Callable[[], Awaitable[None]]:
        """One that now and then leaves in good order, or vanishes with what it holds."""
        identity: Registration | None = None

        async def once() -> None:
            nonlocal identity
            if identity is None:
                identity = await self.db.register()
            fetched = await self.db.fetch(identity, self.random.randint(1, 5))
            self.claims += fetched
            chance = self.random.random()
            if chance < 0.1:
                identity = None
            elif chance < 0.2:
                await self.db.orchestrators.leave(identity)
                identity = None
            elif chance < 0.4:
                await self.db.orchestrators.heartbeat(identity)
            await self.record_steps(fetched)
            await self.begin_waits(fetched)
            # Twice, as if the first acknowledgement had been lost.
            outcomes = [self.outcome(one) for one in fetched if self.random.random() < 0.8]
            await self.report(outcomes)
            await self.report(outcomes)

        return once

    def outcome(self, one: Fetched) -> Outcome:
        delay = self.random.choice([None, timedelta(0)])
        outcomes: list[Outcome] = [
            Completed(one.id, one.claim, "1"),
            Failed(one.id, one.claim, FAILURE, delay),
            Released(one.id, one.claim),
            # It has begun a nap, which ends, or has ended already: it comes back in any case.
            Suspended(one.id, one.claim, 0),
        ]
        return self.random.choice(outcomes)

    async def record_steps(self, fetched: list[Fetched]) -> None:
        for one in fetched[:2]:
            async with self.db.begin() as repositories:
                await repositories.steps.record(StepRecord(one.id, one.claim, "step", "1"))

    async def begin_waits(self, fetched: list[Fetched]) -> None:
        starts = [sleep(one, "nap", timedelta(0)) for one in fetched]
        for one in fetched:
            if self.random.random() < 0.1:
                starts.append(child(one, child=ChildSpec(new_id(), "default")))
            if self.random.random() < 0.1:
                starts.append(event(one, delay=timedelta(0)))
        self.random.shuffle(starts)
        for started in await self.db.steps.start_many(starts):
            if started.recorded is not None and started.recorded.child_id is not None:
                self.invoked.append(started.recorded.child_id)
        if self.random.random() < 0.5:
            await self.db.steps.settle({one.id: 0 for one in fetched})

    async def lookout(self) -> None:
        await self.db.steps.settle_due()

    async def emitter(self) -> None:
        await emit(self.db)

    async def report(self, outcomes: list[Outcome]) -> None:
        for verdict in await self.db.executions.complete(outcomes):
            if verdict.disposition is Disposition.RECORDED and verdict.state is COMPLETED:
                self.completions[verdict.execution_id] += 1

    async def late_reporter(self) -> None:
        """What was frozen or cut off thaws, and reports."""
        recent = self.claims[-40:]
        late = {one.id: one for one in self.random.sample(recent, min(4, len(recent)))}
        await self.report([Completed(one.id, one.claim) for one in late.values()])

    async def operator(self) -> None:
        # Those that are in somebody's hands right now, most likely.
        recent = self.invoked[-30:]
        for execution in self.random.sample(recent, min(3, len(recent))):
            await self.db.executions.cancel(execution, reason="operator")
            await self.db.executions.mark_awaited(execution)
            await self.db.executions.retry(execution, from_scratch=self.random.random() < 0.5)

    def recoverer(self) -> Callable[[], Awaitable[None]]:
        observer = StaleObserver(timedelta(milliseconds=20))

        async def once() -> None:
            await self.db.orchestrators.recover_stale(observer)

        return once

    async def act(self, one: Callable[[], Awaitable[None]]) -> None:
        for _ in range(ROUNDS):
            try:
                await one()
            except (DedupeConflict, NotRegistered, OwnershipLost):
                # Right answers, to those who come too late.
                continue

    async def drain(self) -> None:
        self.db.advance(timedelta(hours=1))
        while any(
            number
            for state, number in (await self.db.executions.count()).items()
            if not state.finished
        ):
            await self.db.orchestrators.recover_stale(await self.db.watched_long_enough())
            await self.db.steps.settle_due()
            owner = await self.db.register()
            fetched = await self.db.fetch(owner, 10_000)
            await self.report([Completed(one.id, one.claim) for one in fetched])
            await self.db.orchestrators.leave(owner)
            self.db.advance(timedelta(hours=1))


async def everything(db: PostgresHarness) -> list[ExecutionSnapshot]:
    found: list[ExecutionSnapshot] = []
    after: UUID | None = None
    while True:
        page = await db.executions.list(limit=1_000, after=after)
        found += page.items
        if (after := page.next) is None:
            return found


@pytest.mark.slow
async def test_a_crowd(
    postgres: PostgresHarness, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I1, I3, I7, I8, I9: no error but those that are meant; every execution ends, once."""
    monkeypatch.setattr("pgconductor.services.orchestrators.RECOVERY_BATCH", 2)
    engine = create_async_engine(database_url, pool_size=20)
    crowd = Crowd(PostgresHarness(engine))
    members = [
        *[crowd.caller] * 2,
        *[crowd.owner() for _ in range(5)],
        *[crowd.late_reporter] * 2,
        *[crowd.operator] * 2,
        *[crowd.lookout] * 2,
        crowd.emitter,
        *[crowd.recoverer() for _ in range(2)],
    ]
    async with asyncio.TaskGroup() as group:
        for member in members:
            group.create_task(crowd.act(member))
    await crowd.drain()
    await engine.dispose()

    found = {one.id: one for one in await everything(postgres)}
    assert set(crowd.invoked) <= set(found)
    completed = {one for one, it in found.items() if it.state is COMPLETED}
    assert dict(crowd.completions) == dict.fromkeys(completed, 1)
    assert all(it.state.finished for it in found.values())
