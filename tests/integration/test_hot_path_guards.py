"""What holds the speed without a clock: statements counted, plans read, rows counted."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from pgconductor import Conductor, Task, TaskContext, sql
from pgconductor.domain.claims import Position
from pgconductor.repositories import DriverExecutor
from pgconductor.repositories.driver import _compiled
from pgconductor.runtime.frontier import Frontier
from pgconductor.services import ExecutionService, OrchestratorService
from pgconductor.services.pinned import PinnedUnitOfWork, sibling_engine
from tests.integration.plan_reading import literal
from tests.support.servers import Server, connect
from tests.support.waiting import eventually

OWNER = uuid4()
#: Finished executions, a backlog far in the future, thousands of queues, and something to do.
SEED = f"""
INSERT INTO pgconductor.orchestrators (id, version, schema_version, schema_required, hostname, pid)
VALUES ('{OWNER}', '1', 1, 1, 'here', 1);
INSERT INTO pgconductor.executions (id, task_key, queue, state, finished_at)
SELECT pgconductor.uuidv7(), 'task', 'busy', 'completed', now() FROM generate_series(1, 20000);
INSERT INTO pgconductor.executions (id, task_key, queue, run_at, priority)
SELECT pgconductor.uuidv7(), 'task', 'busy', now() + interval '30 days', 0
FROM generate_series(1, 20000);
INSERT INTO pgconductor.executions (id, task_key, queue)
SELECT pgconductor.uuidv7(), 'task', 'queue-' || n % 5000 FROM generate_series(1, 10000) n;
INSERT INTO pgconductor.executions (id, task_key, queue, run_at)
SELECT pgconductor.uuidv7(), 'task', 'busy', now() - n * interval '1 s'
FROM generate_series(1, 1000) n;
"""


@pytest.fixture(scope="module")
def seeded(server: Server, template: str) -> Iterator[str]:
    with server.database(template) as name:
        url = server.url_for(name)
        with connect(url) as connection:
            connection.execute(SEED.encode())
            connection.execute("VACUUM ANALYZE")
        yield url


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each statement of ours went to a driver's own connection."""
    names = {getattr(sql, name): name for name in sql.__all__}
    seen: Counter[str] = Counter()
    rows = DriverExecutor.rows

    async def spy(self: DriverExecutor, statement: Any, parameters: Any) -> Any:
        seen[names.get(statement, "other")] += 1
        return await rows(self, statement, parameters)

    monkeypatch.setattr(DriverExecutor, "rows", spy)
    return seen


def declared(conductor: Conductor) -> Task[int, None]:
    @conductor.task
    async def task(ctx: TaskContext, number: int) -> None:
        return

    return task


async def test_a_drain_takes_few_statements(database_url: str, statements: Counter[str]) -> None:
    """Both ends are batched: a statement for each execution would be thousands."""
    async with Conductor(database_url=database_url) as conductor:
        task = declared(conductor)
        await task.invoke_many(range(2_000))
        statements.clear()
        await conductor.orchestrator(concurrency=100).drain()
    assert statements["FETCH"] + statements["FETCH_AFTER"] <= 40
    assert 1 <= statements["COMPLETE_RESULTS"] <= 100
    assert statements["COMPLETE"] == 0, "results are written by their own statement"


@pytest.mark.parametrize(
    ("number", "expected"),
    [(1, {"INVOKE_ONE": 1}), (2, {"INVOKE_ALIKE": 1}), (10_000, {"INVOKE_ALIKE": 1})],
)
async def test_an_invoke_of_any_size_is_one_statement(
    database_url: str, statements: Counter[str], number: int, expected: dict[str, int]
) -> None:
    async with Conductor(database_url=database_url) as conductor:
        task = declared(conductor)
        await task.invoke(0)
        statements.clear()
        await task.invoke_many(range(number))
        assert statements == expected


async def test_an_idle_worker_sends_next_to_nothing(
    database_url: str, statements: Counter[str]
) -> None:
    async with Conductor(database_url=database_url) as conductor:
        task = declared(conductor)
        orchestrator = conductor.orchestrator()
        await orchestrator.start()
        try:
            statements.clear()
            handle = await task.invoke(1)
            await handle.result(timedelta(seconds=20))
            assert statements["INVOKE_ONE"] == 1
            assert statements["COMPLETE_RESULTS"] == 1
            assert statements["FETCH"] <= 4
        finally:
            await orchestrator.stop()


async def explained(
    connection: Any, statement: Any, parameters: dict[str, Any], *, analyse: bool
) -> dict[str, Any]:
    query, names, _ = _compiled(statement)
    given = ", ".join(literal(parameters[name]) for name in names)
    options = "FORMAT JSON, ANALYZE, BUFFERS, TIMING OFF" if analyse else "FORMAT JSON"
    transaction = connection.transaction()
    await transaction.start()
    try:
        # As a loop has it: prepared once, with a plan that knows no values.
        await connection.execute(f"PREPARE explained AS {query}")
        found = await connection.fetchval(f"EXPLAIN ({options}) EXECUTE explained ({given})")
        await connection.execute("DEALLOCATE explained")
    finally:
        await transaction.rollback()
    plan: dict[str, Any] = (found if isinstance(found, list) else json.loads(found))[0]["Plan"]
    return plan


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", []):
        yield from nodes(inner)


def fetching(limit: int, after: Position | None = None, queue: str = "busy") -> dict[str, Any]:
    place = zip(("after_rank", "after_run_at", "after_id"), after or (), strict=False)
    return {
        "orchestrator_id": OWNER,
        "claim_number": 1,
        "queue": queue,
        "limit": limit,
        "task_keys": ["task"],
        **dict(place),
    }


@pytest.fixture
async def kept(seeded: str) -> AsyncIterator[Any]:
    """The driver's connection of a loop, prepared as the loops have it."""
    engine = create_async_engine(seeded)
    work = PinnedUnitOfWork(sibling_engine(engine), timeout=timedelta(seconds=30), role="test")
    async with work.begin():
        assert work._connection is not None
        raw = await work._connection.get_raw_connection()
        yield raw.driver_connection
    await work.aclose()
    await engine.dispose()


@pytest.mark.parametrize("limit", [1, 10, 200])
async def test_a_fetch_touches_no_more_rows_than_it_takes(kept: Any, limit: int) -> None:
    """Neither what has finished, nor next month's, nor other queues cost a look."""
    plan = await explained(kept, sql.FETCH, fetching(limit), analyse=True)
    (scan,) = [one for one in nodes(plan) if one.get("Index Name") == "executions_ready_idx"]
    assert scan["Actual Rows"] == limit
    assert scan.get("Rows Removed by Filter", 0) == 0
    assert scan.get("Rows Removed by Index Recheck", 0) == 0
    touched = sum(
        one["Actual Rows"] * one["Actual Loops"]
        for one in nodes(plan)
        if one.get("Relation Name") == "executions" and "Scan" in one["Node Type"]
    )
    assert touched <= 3 * limit


async def test_a_queue_without_anything_due_is_one_look(kept: Any) -> None:
    plan = await explained(kept, sql.FETCH, fetching(200, queue="nothing"), analyse=True)
    (scan,) = [one for one in nodes(plan) if one.get("Index Name") == "executions_ready_idx"]
    assert scan["Actual Rows"] == 0


async def test_a_place_is_a_boundary_of_the_scan(kept: Any, seeded: str) -> None:
    """No filter over what was taken before: the scan starts behind it."""
    with connect(seeded) as connection:
        row = connection.execute(
            "SELECT -priority, run_at, id FROM pgconductor.executions"
            " WHERE queue = 'busy' AND state = 'available' AND run_at <= now()"
            " ORDER BY -priority, run_at, id OFFSET 900 LIMIT 1"
        ).fetchone()
    assert row is not None
    rank, run_at, execution_id = row
    assert isinstance(execution_id, UUID)
    place = Position(rank, run_at, execution_id)  # type: ignore[arg-type]
    plan = await explained(kept, sql.FETCH_AFTER, fetching(200, place), analyse=True)
    (scan,) = [one for one in nodes(plan) if one.get("Index Name") == "executions_ready_idx"]
    # An equality would be what the scan starts at, and the place a filter on what it reads.
    assert "ROW(queue, (- priority), run_at, id) >=" in scan["Index Cond"]
    assert "(queue = " not in scan["Index Cond"]
    assert scan["Actual Rows"] == 100
    assert scan.get("Rows Removed by Filter", 0) == 0


async def pages(connection: Any, after: Position | None) -> int:
    """How many pages a fetch of five reads to find them."""
    statement = sql.FETCH if after is None else sql.FETCH_AFTER
    plan = await explained(connection, statement, fetching(5, after), analyse=True)
    (scan,) = [one for one in nodes(plan) if one.get("Index Name") == "executions_ready_idx"]
    assert scan["Actual Rows"] == 5
    return int(scan["Shared Hit Blocks"] + scan["Shared Read Blocks"])


async def test_what_was_taken_is_not_read_again(server: Server, template: str) -> None:
    """While a transaction is open that keeps its index entries: counted in pages, not in time."""
    with server.database(template) as name:
        url = server.url_for(name)
        engine = create_async_engine(url)
        work = PinnedUnitOfWork(sibling_engine(engine), timeout=timedelta(seconds=30), role="test")
        with connect(url) as holder, connect(url) as connection:
            connection.execute(SEED.encode())
            holder.autocommit = False
            holder.execute("SELECT count(*) FROM pgconductor.executions")
            take = (
                "UPDATE pgconductor.executions"
                f" SET state = 'running', locked_by = '{OWNER}', locked_at = now(),"
                " claim_number = 1, attempts = 1"
                " WHERE queue = 'busy' AND state = 'available' AND run_at < now() - interval '60 s'"
                " RETURNING -priority, run_at, id"
            )
            taken = connection.execute(take.encode()).fetchall()
            place = Position(*max(taken))  # type: ignore[arg-type]
            connection.execute("ANALYZE")
            async with work.begin():
                assert work._connection is not None
                raw = await work._connection.get_raw_connection()
                whole = await pages(raw.driver_connection, None)
                after = await pages(raw.driver_connection, place)
            holder.rollback()
        await work.aclose()
        await engine.dispose()
    assert after < 30 < whole


HOT = {
    "FETCH": fetching(200),
    "FETCH_AFTER": fetching(200, Position(0, datetime(2020, 1, 1, tzinfo=UTC), uuid4())),
    "COMPLETE_RESULTS": {
        "orchestrator_id": OWNER,
        "ids": [uuid4() for _ in range(200)],
        "claim_numbers": [1] * 200,
        "results": [None] * 200,
    },
}


@pytest.mark.parametrize("name", HOT)
@pytest.mark.parametrize("full", [False, True], ids=["empty tables", "full tables"])
async def test_the_loops_read_no_table_from_end_to_end(
    database_url: str, seeded: str, name: str, full: bool
) -> None:
    """A plan made while a table was empty is kept: it must suit a full one."""
    engine = create_async_engine(seeded if full else database_url)
    work = PinnedUnitOfWork(sibling_engine(engine), timeout=timedelta(seconds=30), role="test")
    async with work.begin():
        assert work._connection is not None
        raw = await work._connection.get_raw_connection()
        plan = await explained(raw.driver_connection, getattr(sql, name), HOT[name], analyse=False)
    await work.aclose()
    await engine.dispose()
    read = [one for one in nodes(plan) if one.get("Relation Name") == "executions"]
    assert {one["Node Type"] for one in read} <= {"Index Scan", "ModifyTable"}
    sorts = [one for one in nodes(plan) if one["Node Type"] == "Sort"]
    assert all("priority" in str(one["Sort Key"]) for one in sorts), "only what was taken is sorted"


async def test_durable_is_what_must_be(engine: AsyncEngine) -> None:
    """Fetches and heartbeats may be lost by a crash of the server; nothing else may."""
    sibling = sibling_engine(engine)
    found: dict[bool, str] = {}
    for durable in (True, False):
        work = PinnedUnitOfWork(
            sibling, timeout=timedelta(seconds=30), role="test", durable=durable
        )
        async with work.begin():
            assert work._connection is not None
            raw = await work._connection.get_raw_connection()
            driver: Any = raw.driver_connection
            found[durable] = await driver.fetchval("SHOW synchronous_commit")
        await work.aclose()
    async with engine.connect() as connection:
        usual = await connection.scalar(text("SHOW synchronous_commit"))
    assert found == {True: usual, False: "off"}


@pytest.mark.parametrize(("max_crashes", "durable"), [(1, True), (2, False), (3, False)])
async def test_a_fetch_of_what_must_not_be_repeated_is_durable(
    engine: AsyncEngine, max_crashes: int, durable: bool
) -> None:
    """Semantics 2 (recover): a crash of the server must not undo the fetch of an at-most-once."""
    registration = await OrchestratorService(engine).register()
    await ExecutionService(engine).invoke("task", max_crashes=max_crashes)
    await ExecutionService(engine).invoke("task")
    async with engine.connect() as connection:
        usual = await connection.scalar(
            text("SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit'")
        )
        # Another value than the usual one, whatever that is on this server.
        other = "local" if usual == "off" else "off"
        await connection.execute(text(f"SET LOCAL synchronous_commit = {other}"))
        assert len(await ExecutionService(connection).fetch(registration, limit=10)) == 2
        found = await connection.scalar(text("SHOW synchronous_commit"))
        await connection.rollback()
    assert found == (usual if durable else other)


async def test_short_handlers_pass_long_ones(database_url: str) -> None:
    """No hoarding and no head-of-line blocking: long handlers take their slots, nothing more."""
    let_go = asyncio.Event()
    at_work: set[int] = set()
    done: set[int] = set()
    conductors = [Conductor(database_url=database_url) for _ in range(2)]
    for conductor in conductors:

        @conductor.task
        async def mixed(ctx: TaskContext, number: int) -> None:
            if number % 100 == 0:
                at_work.add(number)
                await let_go.wait()
            done.add(number)

    await conductors[0].tasks["mixed"].invoke_many(range(600))
    orchestrators = [one.orchestrator(concurrency=4) for one in conductors]
    for one in orchestrators:
        await one.start()
    try:
        await eventually(lambda: len(done) == 594)
        assert at_work == {0, 100, 200, 300, 400, 500}
    finally:
        let_go.set()
        for one in orchestrators:
            await one.stop()
        for conductor in conductors:
            await conductor.close()
    assert len(done) == 600


async def test_a_drain_by_way_of_the_frontier_leaves_nothing(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where every look counts as slow, what comes in ahead is still found before the end."""
    monkeypatch.setattr("pgconductor.runtime.frontier._SLOW", -1.0)
    monkeypatch.setattr("pgconductor.runtime.frontier._SHARE", 1_000_000)
    places: list[Position | None] = []
    place = Frontier.place

    def spy(self: Frontier, now: float, *, hasty: bool = False) -> Position | None:
        places.append(place(self, now, hasty=hasty))
        return places[-1]

    monkeypatch.setattr(Frontier, "place", spy)
    order: list[int] = []
    async with Conductor(database_url=database_url) as conductor:

        @conductor.task
        async def task(ctx: TaskContext, number: int) -> None:
            order.append(number)
            if number == 0:
                await urgent.invoke(1_000, priority=9)

        urgent = conductor.tasks["task"]
        await task.invoke_many(range(500))
        await conductor.orchestrator(concurrency=10).drain()
    assert sorted(order) == [*range(500), 1_000]
    assert any(one is not None for one in places)
    assert places[-1] is None
