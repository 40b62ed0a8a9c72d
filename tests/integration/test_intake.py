"""Invokes in transactions of their own: one round trip, shared commits, nothing lost or doubled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from asyncpg.exceptions import PostgresError, UniqueViolationError
from sqlalchemy import NullPool, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from pgconductor import Conductor, Task, TaskContext
from pgconductor.domain.invocations import Invocation
from pgconductor.exceptions import InvalidInput, SchemaMissing
from pgconductor.repositories import DriverExecutor
from pgconductor.repositories.executions import SqlExecutionRepository
from pgconductor.services.crier import _BURST, _SPACING
from pgconductor.services.pinned import sibling_engine
from tests.support.servers import connect
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import eventually


def declared(conductor: Conductor) -> Task[int, int]:
    @conductor.task
    async def task(ctx: TaskContext, number: int) -> int:
        return number

    return task


@pytest.fixture
async def conductor(database_url: str) -> AsyncIterator[Conductor]:
    async with Conductor(database_url=database_url) as conductor:
        yield conductor


@pytest.fixture
def task(conductor: Conductor) -> Task[int, int]:
    return declared(conductor)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every statement that goes to a driver's own connection."""
    seen: list[str] = []
    rows = DriverExecutor.rows

    async def spy(self: DriverExecutor, statement: object, parameters: object) -> object:
        seen.append(str(statement))
        return await rows(self, statement, parameters)  # type: ignore[arg-type]

    monkeypatch.setattr(DriverExecutor, "rows", spy)
    return seen


def numbers(url: str) -> list[int]:
    with connect(url) as connection:
        return sorted(
            int(str(row[0]))
            for row in connection.execute("SELECT payload::int FROM pgconductor.executions")
        )


def backends(url: str, role: str = "invoke") -> list[int]:
    with connect(url) as connection:
        rows = connection.execute(
            "SELECT pid FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = %s",
            [f"pgconductor {role}"],
        )
        return [int(str(row[0])) for row in rows]


async def test_an_invoke_is_one_statement_and_one_round_trip(
    database_url: str, task: Task[int, int], sent: list[str]
) -> None:
    await task.invoke(0)
    sent.clear()
    proxy = TcpProxy.before(database_url)
    async with proxy, Conductor(database_url=proxy.url) as conductor:
        other = declared(conductor)
        await other.invoke(1)
        asked: list[bytes] = []
        proxy.watch(asked.append, "to_server")
        await other.invoke(2)
        assert len(asked) == 1
    assert len(sent) == 2
    assert all(one.count("INSERT") == 1 for one in sent)


async def test_callers_at_the_same_time_share_statements(
    database_url: str, task: Task[int, int], sent: list[str]
) -> None:
    """Fewer commits than calls; each call returns its own execution, committed."""
    handles = await asyncio.gather(*(task.invoke(number) for number in range(100)))
    assert len({handle.id for handle in handles}) == 100
    assert numbers(database_url) == list(range(100))
    inserts = [one for one in sent if "INSERT" in one]
    assert len(inserts) == 2, "the first one, and all that came meanwhile"
    assert len(backends(database_url)) == 1


async def test_different_tasks_do_not_mix(database_url: str, conductor: Conductor) -> None:
    one, other = conductor.task_ref("one"), conductor.task_ref("other", queue="elsewhere")
    await asyncio.gather(
        *(task.invoke(n, priority=n % 2) for n in range(10) for task in (one, other))
    )
    with connect(database_url) as connection:
        rows = connection.execute(
            "SELECT task_key, queue, priority, count(*) FROM pgconductor.executions"
            " GROUP BY 1, 2, 3 ORDER BY 1, 3"
        ).fetchall()
    assert rows == [
        ("one", "default", 0, 5),
        ("one", "default", 1, 5),
        ("other", "elsewhere", 0, 5),
        ("other", "elsewhere", 1, 5),
    ]


async def test_a_bad_one_fails_alone(database_url: str, task: Task[int, int]) -> None:
    """Who shares a statement with it is none the worse."""
    with connect(database_url) as connection:
        connection.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " IF NEW.payload = '7' THEN RAISE 'seven' USING ERRCODE = 'P0001'; END IF;"
            " RETURN NEW; END $$"
        )
        connection.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON pgconductor.executions"
            " FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
    answers = await asyncio.gather(*(task.invoke(n) for n in range(20)), return_exceptions=True)
    failed = [n for n, one in enumerate(answers) if isinstance(one, BaseException)]
    assert failed == [7]
    assert isinstance(answers[7], DBAPIError)
    assert "seven" in str(answers[7])
    assert numbers(database_url) == [n for n in range(20) if n != 7]


async def test_an_id_that_is_used_fails_alone(conductor: Conductor) -> None:
    twice = Invocation(task_key="send")
    await conductor.write([twice], None)
    answers = await asyncio.gather(
        *(conductor.write([one], None) for one in (Invocation(task_key="send"), twice)),
        return_exceptions=True,
    )
    assert [type(one) for one in answers] == [list, InvalidInput]
    with pytest.raises(InvalidInput, match="two of them"):
        await conductor.write([twice, twice], None)


async def test_a_connection_that_died_while_idle_is_no_trouble(
    database_url: str, task: Task[int, int]
) -> None:
    for number in range(3):
        await task.invoke(number)
        (pid,) = backends(database_url)
        with connect(database_url) as connection:
            connection.execute("SELECT pg_terminate_backend(%s)", [pid])
        await eventually(lambda: backends(database_url) == [])
    await asyncio.gather(*(task.invoke(number) for number in range(3, 6)))
    assert numbers(database_url) == list(range(6))


@pytest.mark.parametrize("number", [1, 5])
async def test_a_lost_answer_neither_loses_nor_doubles(database_url: str, number: int) -> None:
    """I3, I8: the ids, made by the client, tell what was written."""
    proxy = TcpProxy.before(database_url)
    async with proxy, Conductor(database_url=proxy.url) as conductor:
        task = declared(conductor)
        await task.invoke(0)
        invocations = [task.invocation(n + 1) for n in range(number)]
        proxy.lose_reply_to(invocations[0].id.bytes)
        handles = await task.invoke_many(invocations)
    assert proxy.cuts == 1
    assert [one.id for one in handles] == [one.id for one in invocations]
    assert all(one.created for one in handles)
    assert numbers(database_url) == list(range(number + 1))


async def test_a_statement_that_still_commits_is_waited_for(
    database_url: str, conductor: Conductor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look for the ids may come too early: then the second insert finds them."""
    task = declared(conductor)
    await task.invoke(0)
    looks: list[int] = []
    look = SqlExecutionRepository.which_exist

    async def too_early(self: SqlExecutionRepository, ids: list[object]) -> set[object]:
        looks.append(len(ids))
        return set() if len(looks) == 1 else await look(self, ids)  # type: ignore[arg-type,return-value]

    monkeypatch.setattr(SqlExecutionRepository, "which_exist", too_early)
    add = SqlExecutionRepository.add_many

    async def add_and_fail(self: SqlExecutionRepository, given: object, **options: bool) -> object:
        monkeypatch.setattr(SqlExecutionRepository, "add_many", add)
        await add(self, given, **options)  # type: ignore[arg-type]
        raise ConnectionResetError("after the commit")

    monkeypatch.setattr(SqlExecutionRepository, "add_many", add_and_fail)
    handle = await task.invoke(1)
    assert handle.created
    assert looks == [1, 1]
    assert numbers(database_url) == [0, 1]


async def test_a_caller_that_is_cancelled_takes_nobody_along(
    database_url: str, task: Task[int, int]
) -> None:
    await task.invoke(0)
    with connect(database_url) as holder:
        holder.autocommit = False
        holder.execute("LOCK TABLE pgconductor.executions IN SHARE MODE")
        first = asyncio.create_task(task.invoke(1))
        await asyncio.sleep(0)
        others = [asyncio.create_task(task.invoke(n)) for n in (2, 3, 4)]
        await asyncio.sleep(0)
        first.cancel()
        others[1].cancel()
        holder.rollback()
    answers = await asyncio.gather(first, *others, return_exceptions=True)
    assert [isinstance(one, asyncio.CancelledError) for one in answers] == [
        True, False, True, False,
    ]  # fmt: skip
    assert {2, 4} <= set(numbers(database_url)) <= {0, 1, 2, 4}


async def test_large_calls_do_not_hold_up_small_ones(
    database_url: str, task: Task[int, int]
) -> None:
    await asyncio.gather(task.invoke_many(range(2_000)), task.invoke(-1))
    assert len(numbers(database_url)) == 2_001
    assert len(backends(database_url)) == 2


async def test_a_key_that_somebody_holds_does_not_hold_up_others(
    database_url: str, task: Task[int, int]
) -> None:
    """I9: an invoke that waits for another transaction waits by itself."""
    with connect(database_url) as holder:
        holder.autocommit = False
        holder.execute("SELECT pgconductor.invoke('task', 'default', '1', NULL, 'key')")
        waiting = asyncio.create_task(task.invoke(2, dedupe_key="key"))
        await task.invoke(3)
        assert not waiting.done()
        holder.rollback()
        await waiting
    assert numbers(database_url) == [2, 3]


async def test_what_lies_in_the_future_wakes_nobody(
    database_url: str, task: Task[int, int]
) -> None:
    heard: list[str] = []
    engine = sibling_engine(create_async_engine(database_url))
    async with engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
        await driver.add_listener("pgconductor_available", lambda *args: heard.append(args[-1]))
        await task.invoke(1, delay=timedelta(hours=1))
        await task.invoke_many([task.invocation(n, delay=timedelta(hours=1)) for n in range(50)])
        await task.invoke(2, queue="now")
        await eventually(lambda: heard == ["now"])
    await engine.dispose()


async def test_a_flood_is_heard_to_its_end(database_url: str, task: Task[int, int]) -> None:
    """Most of them are silent; after the last one there is another notification."""
    heard: list[int] = []
    engine = sibling_engine(create_async_engine(database_url))
    async with engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
        done = 0
        began = time.monotonic()
        await driver.add_listener("pgconductor_available", lambda *_: heard.append(done))
        for done in range(1, 301):
            await task.invoke(done)
        took = time.monotonic() - began
        await eventually(lambda: bool(heard) and heard[-1] == 300)
        # Those that statements carry, and those that follow them.
        assert len(heard) <= 2 * (_BURST + took / _SPACING) + 2
    await engine.dispose()


async def test_who_keeps_no_pool_gets_no_kept_connection(database_url: str) -> None:
    engine = create_async_engine(database_url, poolclass=NullPool)
    async with Conductor(engine=engine) as conductor:
        await declared(conductor).invoke(1)
    assert backends(database_url) == []
    await engine.dispose()


async def test_the_users_pool_is_left_alone(database_url: str) -> None:
    """Reliability 8: invoking works while every connection of the pool is taken."""
    engine = create_async_engine(database_url, pool_size=1, max_overflow=0, pool_timeout=1)
    async with Conductor(engine=engine) as conductor, engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
        await declared(conductor).invoke(1)
    assert numbers(database_url) == [1]
    await engine.dispose()


async def test_an_error_names_its_cause_and_not_itself(
    empty_database_url: str, conductor: Conductor
) -> None:
    twice = Invocation(task_key="send")
    await conductor.write([twice], None)
    with pytest.raises(InvalidInput) as caught:
        await conductor.write([twice], None)
    assert isinstance(caught.value.__cause__, UniqueViolationError)
    async with Conductor(database_url=empty_database_url) as other:
        with pytest.raises(SchemaMissing) as missing:
            await other.write([Invocation(task_key="send")], None)
    assert isinstance(missing.value.__cause__, PostgresError)


async def test_what_cannot_be_written_does_not_cost_the_connection(
    database_url: str, conductor: Conductor
) -> None:
    twice = Invocation(task_key="send")
    await conductor.write([twice], None)
    before = backends(database_url)
    with pytest.raises(InvalidInput):
        await conductor.write([twice], None)
    await conductor.write([Invocation(task_key="send")], None)
    assert backends(database_url) == before


async def test_closing_waits_for_what_is_being_written(
    database_url: str, task: Task[int, int], conductor: Conductor
) -> None:
    calls = [asyncio.create_task(task.invoke(number)) for number in range(30)]
    await asyncio.sleep(0)
    await conductor.close()
    await asyncio.gather(*calls)
    assert numbers(database_url) == list(range(30))
    await conductor.close()
    await eventually(lambda: backends(database_url) == [])


async def test_a_writer_that_is_cancelled_leaves_nobody_waiting(
    database_url: str, conductor: Conductor
) -> None:
    """As a framework's clean-up may do; then the callers are cancelled too."""
    tasks = [conductor.task_ref(name) for name in "abcd"]
    await tasks[0].invoke()
    with connect(database_url) as holder:
        holder.autocommit = False
        holder.execute("LOCK TABLE pgconductor.executions IN SHARE MODE")
        calls = [asyncio.create_task(one.invoke()) for one in tasks]
        await asyncio.sleep(0)
        calls[0].cancel()
        await asyncio.sleep(0)
        await eventually(
            lambda: any(one.get_name() == "pgconductor-invoke" for one in asyncio.all_tasks())
        )
        for one in asyncio.all_tasks():
            if one.get_name() == "pgconductor-invoke":
                one.cancel()
        done, pending = await asyncio.wait(calls, timeout=20)
        holder.rollback()
    assert not pending
    assert all(one.cancelled() for one in done)
    await tasks[0].invoke()


async def test_a_database_without_our_schema_is_told(empty_database_url: str) -> None:
    async with Conductor(database_url=empty_database_url) as conductor:
        task = declared(conductor)
        with pytest.raises(SchemaMissing):
            await task.invoke(1)
        with pytest.raises(SchemaMissing):
            await task.invoke_many([1, 2])


def test_each_event_loop_has_its_own(database_url: str) -> None:
    """A service may call asyncio.run() again and again."""
    conductor = Conductor(database_url=database_url)
    task = declared(conductor)

    async def once(number: int) -> None:
        await task.invoke(number)
        await conductor.close()

    for number in range(3):
        asyncio.run(once(number))
    assert numbers(database_url) == [0, 1, 2]
