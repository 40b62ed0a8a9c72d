"""Task.invoke in the caller's transaction, with its options, and where it refuses."""

from __future__ import annotations

from datetime import timedelta
from itertools import product
from typing import Any

import pytest
from sqlalchemy import create_engine, make_url
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from pgconductor import Conductor, Task, TaskContext
from pgconductor.exceptions import InvalidInput, UnknownQueue, WrongSession
from tests.integration.runtime_world import SOON, World
from tests.support.servers import Server


@pytest.fixture
def task(conductor: Conductor) -> Task[int, int]:
    @conductor.task
    async def task(ctx: TaskContext, number: int) -> int:
        return number

    return task


@pytest.mark.parametrize(
    "options",
    [{"priority": False}, {"dedupe_scope": "ever"}, {"priority": 0.5}, {"priority": 0.0}],
    ids=str,
)
async def test_an_option_that_only_looks_like_its_default_is_refused(
    task: Task[int, int], options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInput):
        await task.invoke(1, **options)


@pytest.mark.parametrize(
    "how", list(product(("session", "connection", "sync"), ("commit", "rollback"))), ids="-".join
)
async def test_it_is_there_exactly_if_the_caller_commits(
    world: World,
    task: Task[int, int],
    session: AsyncSession,
    sync_session: Session,
    how: tuple[str, str],
) -> None:
    """Semantics 2 (invoke), I3: also where a part of the transaction is rolled back."""
    kind, end = how
    if kind == "sync":
        kept = task.invoke_sync(1, session=sync_session)
        with sync_session.begin_nested() as inner:
            task.invoke_sync(2, session=sync_session)
            inner.rollback()
        getattr(sync_session, end)()
    elif kind == "session":
        kept = await task.invoke(1, session=session)
        async with session.begin_nested() as nested:
            await task.invoke(2, session=session)
            await nested.rollback()
        assert world.count() == 0
        await getattr(session, end)()
    else:
        connection = await session.connection()
        kept = await task.invoke(1, session=connection)
        async with connection.begin_nested() as savepoint:
            await task.invoke(2, session=connection)
            await savepoint.rollback()
        await getattr(session, end)()
    found = [row["id"] for row in world.rows("SELECT id FROM pgconductor.executions")]
    assert found == ([kept.id] if end == "commit" else [])


async def test_sessions_of_the_wrong_kind(
    task: Task[int, int], session: AsyncSession, sync_session: Session
) -> None:
    """Semantics 6: a sync session where an async one is due, and the reverse."""
    invoke: Any = task.invoke
    invoke_sync: Any = task.invoke_sync
    with pytest.raises(WrongSession, match="invoke_sync"):
        await invoke(1, session=sync_session)
    with pytest.raises(WrongSession, match="await invoke"):
        invoke_sync(1, session=session)
    with pytest.raises(WrongSession):
        await invoke(1, session="nonsense")


async def test_a_session_of_another_database(
    server: Server, template: str, task: Task[int, int]
) -> None:
    """Semantics 6: refused, though it has the same tables and is on the same server."""
    with server.database(template) as name:
        engine = create_async_engine(server.url_for(name))
        async with AsyncSession(engine) as session:
            with pytest.raises(WrongSession, match="another database"):
                await task.invoke(1, session=session)
        async with engine.connect() as connection:
            with pytest.raises(WrongSession, match="another database"):
                await task.invoke(1, session=connection)
        await engine.dispose()
        sync = create_engine(server.url_for(name, driver="psycopg"))
        with Session(sync) as blocking, pytest.raises(WrongSession, match="bound to"):
            task.invoke_sync(1, session=blocking)
        sync.dispose()


async def test_the_same_database_by_another_name(world: World, task: Task[int, int]) -> None:
    """Semantics 6: what counts is the database, not how its URL is spelt."""
    spelt = make_url(world.url).update_query_dict({"application_name": "other"})
    host = spelt.host
    if host in {"127.0.0.1", "localhost"}:
        spelt = spelt.set(host="localhost" if host == "127.0.0.1" else "127.0.0.1")
    plain = spelt.set(query={k: v for k, v in spelt.query.items() if k != "application_name"})
    engine = create_async_engine(plain)
    async with AsyncSession(engine) as session:
        await task.invoke(1, session=session)
        await session.commit()
    await engine.dispose()
    assert world.count() == 1


async def test_one_more_after_the_one_at_work(
    world: World, conductor: Conductor, task: Task[int, int], sync_session: Session
) -> None:
    """By every way in: alone, many at once, in a sync session."""
    options: dict[str, Any] = {"dedupe_key": "k", "dedupe_scope": "unstarted"}
    first = await task.invoke(1, **options)
    assert not (await task.invoke(2, **options)).created
    with sync_session.begin():
        third = task.invoke_sync(3, session=sync_session, dedupe_replace=True, **options)
    assert (third.id, third.created) == (first.id, False)
    (fourth,) = await task.invoke_many([task.invocation(4, **options)])
    assert (fourth.id, fourth.created) == (first.id, False)
    await conductor.orchestrator().drain()
    assert await first.result(SOON) == await third.result(SOON)
    assert world.rows("SELECT payload FROM pgconductor.executions") == [{"payload": 3}]
    assert (await task.invoke(5, **options)).created
    wrong: list[dict[str, Any]] = [{"dedupe_key": "k"}, {"dedupe_scope": "unstarted"}]
    for one in wrong:
        with pytest.raises(InvalidInput, match="dedupe_replace"):
            await task.invoke(6, dedupe_replace=True, **one)


async def test_dedupe_keys(world: World, conductor: Conductor, task: Task[int, int]) -> None:
    """I8, B9: one unfinished execution of a key; a finished one makes way for another."""
    first = await task.invoke(1, dedupe_key="k")
    again = await task.invoke(2, dedupe_key="k")
    assert (first.created, again.created) == (True, False)
    assert again.id == first.id
    batch = await task.invoke_many(
        [task.invocation(number, dedupe_key=key) for number, key in enumerate(["k", "new"] * 2)]
    )
    assert [one.created for one in batch] == [False, True, False, False]
    assert batch[3].id == batch[1].id
    await conductor.orchestrator().drain()
    assert await again.result(SOON) == 1
    after = await task.invoke(5, dedupe_key="k")
    assert after.created
    retained = await task.invoke(6, dedupe_key="new", dedupe_scope="retained")
    assert not retained.created
    assert retained.id == batch[1].id


async def test_a_reference_to_another_service(world: World, task: Task[int, int]) -> None:
    """By name and type; the limits are those that the other service has declared."""
    caller = world.conductor()
    ref = caller.task_ref("task", payload=int, result=int)
    with pytest.raises(InvalidInput):
        await ref.invoke("x")  # type: ignore[arg-type] # wrong on purpose
    handle = await ref.invoke(4)
    conductor = world.conductor()

    @conductor.task("task", max_attempts=7)
    async def handler(ctx: TaskContext, number: int) -> int:
        return number + ctx.max_attempts

    await conductor.orchestrator().drain()
    assert await handle.result(SOON) == 7
    later = await ref.invoke(4)
    await conductor.orchestrator().drain()
    assert await later.result(SOON) == 11


async def test_strict_queues(world: World) -> None:
    """Semantics 6: unknown queues are refused where they are strict."""
    conductor = world.conductor(strict_queues=True)

    @conductor.task(queue="known")
    async def task(ctx: TaskContext) -> None:
        return

    await task.invoke()
    for call in (task.invoke(queue="typo"), conductor.task_ref("x", queue="typo").invoke()):
        with pytest.raises(UnknownQueue, match="known"):
            await call
    assert world.count() == 1


async def test_options_are_kept(world: World, task: Task[int, int]) -> None:
    handle = await task.invoke(
        1, delay=timedelta(hours=1), priority=7, queue="elsewhere", max_attempts=9, dedupe_key="k"
    )
    row = world.execution(handle.id)
    assert (row["priority"], row["queue"], row["max_attempts"]) == (7, "elsewhere", 9)
    assert row["dedupe_key"] == "k"
    (due,) = world.rows("SELECT run_at - created_at AS due FROM pgconductor.executions")
    assert due["due"] == timedelta(hours=1)


async def test_an_invocation_within_a_handler(world: World, conductor: Conductor) -> None:
    """Semantics 2: in the handler's own session, it commits with the handler's writes."""

    @conductor.task
    async def child(ctx: TaskContext, number: int) -> int:
        return number

    @conductor.task
    async def parent(ctx: TaskContext) -> list[str]:
        ids = []
        for end in ("commit", "rollback"):
            async with conductor.sessionmaker() as session:
                handle = await child.invoke(1, session=session)
                await getattr(session, end)()
                ids.append(str(handle.id))
        return ids

    handle = await parent.invoke()
    await conductor.orchestrator().drain()
    kept, dropped = await handle.result(SOON)
    found = {str(row["id"]) for row in world.rows("SELECT id FROM pgconductor.executions")}
    assert kept in found
    assert dropped not in found
