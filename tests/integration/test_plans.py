"""What the planner makes of each statement on a table that has lived: nothing reads all of it.

Plans are looked at both as a session's first executions get them (custom) and as its later ones do
(generic), for a prepared statement may go either way.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from pgconductor.domain.claims import Claim
from pgconductor.domain.invocations import DedupeScope, Invocation
from pgconductor.domain.outcomes import Completed
from pgconductor.domain.retention import Retention
from pgconductor.domain.snapshots import ExecutionFilter
from pgconductor.domain.steps import ChildSpec, Decision, StepKind, StepRecord, StepStart
from pgconductor.domain.waiting import WaitingPlace
from pgconductor.exceptions import OwnershipLost
from pgconductor.repositories import Repositories, SqlSchemaRepository
from pgconductor.repositories.health import SqlHealthRepository
from pgconductor.types import ExecutionState
from tests.integration.plan_reading import Call, Explainer
from tests.support.servers import Server, connect

OWNER = UUID("00000000-0000-7000-8000-000000000001")
PLACE = WaitingPlace(datetime(2020, 1, 1, tzinfo=UTC), OWNER)
NAMES = """
    ('00000000-0000-7000-8000-' || lpad(to_hex({number}), 12, '0'))::uuid
"""
# 50,000 finished, 20,000 due in three queues, 1,000 for next year, 500 held by twenty, 4,000 that
# wait, a quarter of them for a child; 20,000 events, 100 of which nobody has looked at.
SEED = f"""
    INSERT INTO pgconductor.orchestrators
        (id, version, schema_version, schema_required, hostname, pid)
    SELECT {NAMES.format(number="n")}, '1', 1, 1, 'here', n FROM generate_series(1, 20) n;

    INSERT INTO pgconductor.executions (
        id, task_key, queue, state, dedupe_key, finished_at, finished_by, finished_claim, result
    )
    SELECT pgconductor.uuidv7(), 'task' || n % 7, 'queue' || n % 3, 'completed',
           CASE WHEN n % 2 = 0 THEN 'key' || n END,
           now() - n * interval '1 s', {NAMES.format(number="n % 20 + 1")}, n, '{{}}'
    FROM generate_series(1, 50000) n;

    INSERT INTO pgconductor.executions (id, task_key, queue, run_at, priority, dedupe_key)
    SELECT pgconductor.uuidv7(), 'task' || n % 7, 'queue' || n % 3, now() - n * interval '1 ms',
           n % 5, CASE WHEN n % 3 = 0 THEN 'key' || n END
    FROM generate_series(1, 20000) n;

    INSERT INTO pgconductor.executions (id, task_key, queue, run_at)
    SELECT pgconductor.uuidv7(), 'task' || n % 7, 'queue' || n % 3, now() + interval '1 year'
    FROM generate_series(1, 1000) n;

    INSERT INTO pgconductor.executions (
        id, task_key, queue, state, locked_by, locked_at, claim_number, attempts,
        cancel_requested_at
    )
    SELECT pgconductor.uuidv7(), 'task' || n % 7, 'queue' || n % 3, 'running',
           {NAMES.format(number="n % 20 + 1")}, now(), n, 1,
           CASE WHEN n % 100 = 0 THEN now() END
    FROM generate_series(1, 500) n;

    INSERT INTO pgconductor.steps (execution_id, key, result)
    SELECT e.id, 'step' || n, '{{}}'
    FROM pgconductor.executions e, generate_series(1, 20) n WHERE e.state = 'running';

    INSERT INTO pgconductor.executions (id, task_key, queue, state)
    SELECT pgconductor.uuidv7(), 'task' || n % 7, 'queue' || n % 3, 'waiting'
    FROM generate_series(1, 4000) n;

    INSERT INTO pgconductor.steps (
        execution_id, key, kind, pending, detail, wake_at, child_id, created_at
    )
    SELECT w.id, 'wait', (ARRAY['sleep', 'event', 'event', 'child'])[w.n % 4 + 1], true,
           CASE w.n % 4 WHEN 3 THEN 'task1' WHEN 0 THEN NULL ELSE 'event' || w.n END,
           CASE WHEN w.n % 4 < 2 THEN now() + (w.n - 40) * interval '1 s' END,
           CASE w.n % 4 WHEN 3 THEN pgconductor.uuidv7() END,
           now() - w.n * interval '1 s'
    FROM (
        SELECT e.id, row_number() OVER (ORDER BY e.id) AS n
        FROM pgconductor.executions e WHERE e.state = 'waiting'
    ) AS w;

    INSERT INTO pgconductor.executions (
        id, task_key, parent_id, parent_key, awaited, state, finished_at, last_error
    )
    SELECT s.child_id, s.detail, s.execution_id, s.key, true,
           CASE WHEN s.n % 100 = 0 THEN 'failed' ELSE 'available' END,
           CASE WHEN s.n % 100 = 0 THEN now() END,
           CASE WHEN s.n % 100 = 0 THEN 'no' END
    FROM (
        SELECT s.*, row_number() OVER (ORDER BY s.execution_id) AS n
        FROM pgconductor.steps s WHERE s.kind = 'child'
    ) AS s;

    INSERT INTO pgconductor.events (id, name, matched, emitted_at)
    SELECT pgconductor.uuidv7(), 'event' || n % 5000, n > 100, now() - n * interval '1 s'
    FROM generate_series(1, 20000) n;
"""

EXECUTIONS = "executions"


@pytest.fixture(scope="module")
def seeded(server: Server, template: str) -> Iterator[str]:
    with server.database(template) as name:
        url = server.url_for(name)
        with connect(url) as connection:
            connection.execute(SEED.encode())
            connection.execute("VACUUM ANALYZE")
        yield url


@pytest.fixture
async def seeded_engine(seeded: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(seeded)
    yield engine
    await engine.dispose()


@pytest.fixture
def running(seeded: str) -> list[UUID]:
    """A hundred executions that are held, not all by one owner."""
    with connect(seeded) as connection:
        rows = connection.execute(
            "SELECT id FROM pgconductor.executions WHERE state = 'running' ORDER BY id LIMIT 100"
        )
        return [row[0] for row in rows if isinstance(row[0], UUID)]


@pytest.fixture
def waiting(seeded: str) -> list[UUID]:
    """Twenty executions that wait, for this and that."""
    with connect(seeded) as connection:
        rows = connection.execute(
            "SELECT id FROM pgconductor.executions WHERE state = 'waiting' ORDER BY id LIMIT 20"
        )
        return [row[0] for row in rows if isinstance(row[0], UUID)]


@pytest.fixture(params=["force_custom_plan", "force_generic_plan"])
def explainer(
    request: pytest.FixtureRequest, seeded_engine: AsyncEngine, seeded: str, running: list[UUID]
) -> Explainer:
    return Explainer(seeded_engine, seeded, request.param, running)


# --- the hot path --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "task_keys"), [(1, None), (10, None), (100, None), (10, ["task1", "task2"])]
)
async def test_fetch_reads_its_index_in_order(
    explainer: Explainer, limit: int, task_keys: list[str] | None
) -> None:
    plan = await explainer.plan(
        lambda all_, _: all_.executions.fetch(
            Claim(OWNER, 1), "queue1", limit=limit, task_keys=task_keys
        )
    )
    assert not plan.whole_reads(EXECUTIONS)
    assert plan.indexes() == {"executions_ready_idx", "executions_pkey"}
    picked = plan.part("CTE picked")
    # In order, so that a long backlog is not sorted to take ten of it.
    assert not {"Sort", "Incremental Sort", "Bitmap Heap Scan"} & picked.types()
    (scan,) = [node for node in picked.nodes() if node.get("Index Name") == "executions_ready_idx"]
    assert scan["Node Type"] == "Index Scan"
    assert scan["Scan Direction"] == "Forward"
    condition = scan["Index Cond"]
    assert "(queue = " in condition
    # The clock is inlined and compared in the index: the far future costs no visit to the table.
    assert re.search(r"run_at <= \(now\(\) \+ COALESCE\(", condition)
    assert "pgconductor.clock(" not in condition


async def test_complete_goes_through_the_primary_key(explainer: Explainer) -> None:
    plans = await explainer.plans(
        lambda all_, running: all_.executions.complete(
            [Completed(one, Claim(OWNER, 1), "{}") for one in running]
        )
    )
    # The results, and those that are not the caller's, to be judged one by one.
    assert len(plans) == 2
    for plan in plans:
        assert not plan.whole_reads(EXECUTIONS)
        assert plan.indexes() == {"executions_pkey"}


async def test_which_was_first_is_recorded_by_keys(explainer: Explainer) -> None:
    def decide(all_: Repositories, running: list[UUID]) -> Awaitable[Any]:
        step = StepRecord(running[0], Claim(OWNER, 1), "first", "{}", kind=StepKind.FIRST)
        return ignore_ownership(all_.steps.decide(Decision(step, ("step", "b"))))

    plans = await explainer.plans(decide)
    assert plans
    for plan in plans:
        assert not plan.whole_reads(EXECUTIONS, "steps")
        assert plan.indexes() == {"executions_pkey"}
        assert plan.indexes("steps") == {"steps_pkey"}


async def test_a_step_is_recorded_by_keys(explainer: Explainer) -> None:
    plans = await explainer.plans(
        lambda all_, running: ignore_ownership(
            all_.steps.record(StepRecord(running[0], Claim(OWNER, 1), "step", "{}"))
        )
    )
    assert plans
    for plan in plans:
        assert not plan.whole_reads(EXECUTIONS, "steps")
        assert plan.indexes() == {"executions_pkey"}
        assert plan.indexes("steps") == {"steps_pkey"}


def starts(running: list[UUID]) -> list[StepStart]:
    return [
        StepStart(
            execution_id=one,
            claim=Claim(OWNER, 1),
            key="child",
            kind=StepKind.CHILD,
            detail="task1",
            child=ChildSpec(uuid4(), "queue1"),
        )
        for one in running
    ]


BY_KEYS: dict[str, Call] = {
    "record": lambda all_, running: all_.steps.record_many(
        [StepRecord(one, Claim(OWNER, 1), "new", "{}") for one in running[:10]]
    ),
    "start": lambda all_, running: all_.steps.start_many(starts(running[:10])),
    "histories": lambda all_, running: all_.steps.histories(running[:10]),
}


@pytest.mark.parametrize("call", BY_KEYS.values(), ids=list(BY_KEYS))
async def test_steps_of_many_executions_go_by_keys(explainer: Explainer, call: Call) -> None:
    for plan in await explainer.plans(call):
        assert not plan.whole_reads(EXECUTIONS, "steps")
        assert plan.indexes() <= {"executions_pkey"}
        assert plan.indexes("steps") <= {"steps_pkey"}


# --- waits ---------------------------------------------------------------------------------------


async def test_what_is_due_is_found_by_indexes_of_what_waits(explainer: Explainer) -> None:
    plan = await explainer.plan(lambda all_, _: all_.steps.due(limit=500))
    assert not plan.whole_reads(EXECUTIONS, "steps", "events")
    assert plan.indexes() == {"executions_untold_idx", "executions_pkey"}
    assert plan.indexes("steps") == {"steps_wake_idx", "steps_event_idx"}
    assert plan.indexes("events") == {"events_unmatched_idx"}


async def test_settling_looks_at_its_executions_only(
    explainer: Explainer, waiting: list[UUID]
) -> None:
    plans = await explainer.nested(lambda all_, _: all_.steps.settle(dict.fromkeys(waiting)))
    executions, steps, events = (set[str](), set[str](), set[str]())
    for query, found in plans.items():
        for plan in found:
            assert not plan.whole_reads(EXECUTIONS, "steps", "events"), query
            executions |= plan.indexes()
            steps |= plan.indexes("steps")
            events |= plan.indexes("events")
    assert executions == {"executions_pkey", "executions_untold_idx"}
    assert steps == {"steps_pkey"}
    # What nobody has looked at, what there is since the invocation, and what was taken.
    assert events == {"events_unmatched_idx", "events_name_idx", "events_pkey"}


async def test_old_events_are_found_by_their_age(explainer: Explainer) -> None:
    plan = await explainer.plan(
        lambda all_, _: all_.retention.remove_events(timedelta(hours=5), limit=100)
    )
    assert not plan.whole_reads("events")
    assert plan.indexes("events") == {"events_emitted_idx", "events_pkey"}
    assert plan.part("CTE doomed").indexes("events") == {"events_emitted_idx"}
    assert "Sort" not in plan.part("CTE doomed").types()


async def test_events_are_marked_by_key(explainer: Explainer) -> None:
    plan = await explainer.plan(
        lambda all_, _: all_.steps.mark_matched([uuid4(), uuid4()], left=[uuid4()])
    )
    assert plan.indexes("events") == {"events_pkey"}
    assert plan.indexes("steps") == {"steps_pkey"}
    assert not plan.whole_reads(EXECUTIONS, "steps", "events")


async def ignore_ownership(record: Awaitable[Any]) -> None:
    with pytest.raises(OwnershipLost):
        await record


async def test_a_heartbeat_reads_only_cancellations(explainer: Explainer) -> None:
    plan = await explainer.plan(lambda all_, _: all_.orchestrators.heartbeat(OWNER))
    assert plan.indexes() == {"executions_cancelling_idx"}
    assert not plan.whole_reads(EXECUTIONS)


# --- recovery ------------------------------------------------------------------------------------


@pytest.mark.parametrize("crashed", [True, False])
async def test_what_is_held_is_found_by_its_index(explainer: Explainer, crashed: bool) -> None:
    plan = await explainer.plan(
        lambda all_, _: all_.executions.take_back(OWNER, limit=500, crashed=crashed)
    )
    assert not plan.whole_reads(EXECUTIONS)
    assert plan.part("CTE held").indexes() == {"executions_held_idx"}
    assert plan.part("CTE changed").indexes() == {"executions_pkey"}


RECOVERY: dict[str, Call] = {
    "orphans": lambda all_, _: all_.executions.orphan_owners(),
    "held": lambda all_, _: all_.executions.held(OWNER),
    "remove": lambda all_, _: all_.orchestrators.remove(uuid4()),
}


@pytest.mark.parametrize("call", RECOVERY.values(), ids=list(RECOVERY))
async def test_recovery_looks_only_at_what_is_held(explainer: Explainer, call: Call) -> None:
    plan = await explainer.plan(call)
    assert not plan.whole_reads(EXECUTIONS)
    assert plan.indexes() == {"executions_held_idx"}


async def test_retention_walks_along_the_primary_key(explainer: Explainer) -> None:
    plan = await explainer.plan(
        lambda all_, _: all_.retention.remove_expired(Retention(), limit=1_000)
    )
    assert not plan.whole_reads(EXECUTIONS)
    assert plan.indexes() == {"executions_pkey"}
    seen = plan.part("CTE seen")
    # In order, and from where the last piece ended: the rest is not looked at.
    assert not {"Sort", "Incremental Sort", "Bitmap Heap Scan"} & seen.types()
    (scan,) = [node for node in seen.nodes() if node.get("Index Name") == "executions_pkey"]
    assert "id > " in scan["Index Cond"]
    assert "id <= " in scan["Index Cond"]


# --- operators -----------------------------------------------------------------------------------


async def test_one_execution_is_read_by_its_key(explainer: Explainer) -> None:
    plan = await explainer.plan(lambda all_, running: all_.executions.get_one_or_none(running[0]))
    assert plan.root["Node Type"] == "Index Scan"
    assert plan.indexes() == {"executions_pkey"}


@pytest.mark.parametrize("after", [False, True])
async def test_a_page_is_read_backwards_by_key(explainer: Explainer, after: bool) -> None:
    plan = await explainer.plan(
        lambda all_, running: all_.executions.list(
            ExecutionFilter(), limit=50, after=running[0] if after else None
        )
    )
    assert plan.types() == {"Limit", "Index Scan"}
    assert plan.indexes() == {"executions_pkey"}


FILTERS = {
    "state": ExecutionFilter(states=(ExecutionState.COMPLETED,)),
    "task": ExecutionFilter(task_key="task1"),
    "queue": ExecutionFilter(queue="queue1", states=(ExecutionState.AVAILABLE,)),
    "time": ExecutionFilter(created_after=datetime(2020, 1, 1, tzinfo=UTC)),
}


@pytest.mark.parametrize("where", FILTERS.values(), ids=list(FILTERS))
async def test_a_filtered_page_stops_when_it_is_full(
    explainer: Explainer, where: ExecutionFilter
) -> None:
    plan = await explainer.plan(lambda all_, _: all_.executions.list(where, limit=50))
    assert not plan.whole_reads(EXECUTIONS)


async def test_a_retry_goes_by_keys(explainer: Explainer) -> None:
    lock, plan, again = await explainer.plans(
        lambda all_, running: all_.executions.retry(running[0], from_scratch=True)
    )
    assert lock.indexes() == {"executions_pkey"}
    assert again.indexes("steps") == {"steps_pkey"}
    assert not plan.whole_reads(EXECUTIONS, "steps")
    assert plan.part("CTE target").indexes() == {"executions_pkey"}
    assert plan.part("CTE rival").indexes() == {"executions_dedupe_key"}


OPERATING: dict[str, tuple[Call, set[str], set[str]]] = {
    "retry": (
        lambda all_, running: all_.executions.retry(running[0], from_step="step7"),
        {"executions_pkey", "executions_dedupe_key"},
        {"steps_pkey"},
    ),
    "fork": (
        lambda all_, running: all_.executions.fork(running[0], from_step="step7"),
        {"executions_pkey"},
        {"steps_pkey"},
    ),
    "family": (
        lambda all_, running: all_.executions.family(running[0], depth=3),
        {"executions_pkey", "executions_parent_idx"},
        set(),
    ),
    "steps": (
        lambda all_, running: all_.executions.steps_of(running[:1], limit=100),
        set(),
        {"steps_pkey"},
    ),
    "waiting": (
        lambda all_, _: all_.executions.waiting(limit=50, waits=3),
        {"executions_pkey"},
        {"steps_pending_idx", "steps_pkey"},
    ),
    "waiting in a queue": (
        lambda all_, _: all_.executions.waiting(queue="queue1", limit=50, waits=3),
        {"executions_pkey"},
        {"steps_pending_idx", "steps_pkey"},
    ),
    "the next page of what waits": (
        lambda all_, _: all_.executions.waiting(limit=50, waits=3, after=PLACE),
        {"executions_pkey"},
        {"steps_pending_idx", "steps_pkey"},
    ),
}


@pytest.mark.parametrize(("call", "executions", "steps"), OPERATING.values(), ids=list(OPERATING))
async def test_operators_go_by_indexes(
    explainer: Explainer, call: Call, executions: set[str], steps: set[str]
) -> None:
    # A retry locks first, and has waits look again afterwards.
    *before, plan = [one for one in await explainer.plans(call) if one.indexes() or not executions]
    assert all(one.indexes() == {"executions_pkey"} for one in before)
    assert not plan.whole_reads(EXECUTIONS, "steps")
    assert plan.indexes() == executions
    assert plan.indexes("steps") == steps


async def test_marking_goes_by_key(explainer: Explainer) -> None:
    plan = await explainer.plan(lambda all_, running: all_.executions.mark_awaited(running[0]))
    assert plan.indexes() == {"executions_pkey"}


async def test_the_fleet_counts_what_is_held(explainer: Explainer) -> None:
    plan = await explainer.plan(lambda all_, _: all_.orchestrators.members())
    assert not plan.whole_reads(EXECUTIONS)
    assert plan.indexes() == {"executions_held_idx"}


@pytest.mark.parametrize("name", ["stuck", "overdue"])
async def test_the_doctor_does_not_read_the_table(explainer: Explainer, name: str) -> None:
    patience = timedelta(minutes=5)

    async def look(all_: Repositories, _: list[UUID]) -> None:
        session = cast("SqlSchemaRepository", all_.schema)._session
        health = SqlHealthRepository(cast("AsyncConnection", session))
        if name == "stuck":
            await health.stuck(stale_after=patience, patience=patience)
        else:
            await health.overdue(patience=patience)

    plan = await explainer.plan(look)
    assert not plan.whole_reads(EXECUTIONS)
    expected = {"executions_held_idx", *(["executions_ready_idx"] if name == "overdue" else [])}
    assert plan.indexes() == expected


# --- inside the functions ------------------------------------------------------------------------


def invocations(number: int, scope: DedupeScope) -> list[Invocation]:
    """Half of them new, the other half of keys that are there, unfinished or finished."""
    return [
        Invocation(
            task_key=f"task{n % 7}", queue=f"queue{n % 3}", dedupe_key=f"key{n}", dedupe_scope=scope
        )
        for n in range(4_990 - number // 2, 4_990 + number // 2)
    ]


@pytest.mark.parametrize("scope", list(DedupeScope))
@pytest.mark.parametrize("number", [2, 100])
async def test_an_invoke_looks_only_for_its_keys(
    explainer: Explainer, number: int, scope: DedupeScope
) -> None:
    async def invoke(all_: Repositories, _: list[UUID]) -> None:
        # Of the scope that has keys of its own, half are there already, too.
        if scope is DedupeScope.UNSTARTED:
            await all_.executions.add_many(invocations(number, scope)[::2])
        await all_.executions.add_many(invocations(number, scope))

    plans = await explainer.nested(invoke)
    indexes: set[str] = set()
    for query, found in plans.items():
        for plan in found:
            assert not plan.whole_reads(EXECUTIONS), query
            indexes |= plan.indexes()
    expected = {"executions_dedupe_key"}
    if scope is DedupeScope.RETAINED:
        expected |= {"executions_dedupe_finished_idx"}
    assert expected <= indexes
    assert any("INSERT INTO pgconductor.executions" in query for query in plans)


async def test_a_cancellation_goes_by_key(explainer: Explainer) -> None:
    plans = await explainer.nested(lambda all_, running: all_.executions.cancel(running[0], "why"))
    children = [found for query, found in plans.items() if "c.parent_id = ANY" in query]
    for (plan,) in children:
        assert plan.indexes() == {"executions_parent_idx"}
    (changed,) = [found for query, found in plans.items() if "UPDATE pgconductor" in query]
    assert changed[0].indexes() == {"executions_pkey"}
    assert not changed[0].whole_reads(EXECUTIONS)
