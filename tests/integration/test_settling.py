"""One look settles all that is due, however it is spread over executions."""

from __future__ import annotations

import asyncio
import logging
import socket
from datetime import timedelta

import pytest
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from pgconductor.repositories.errors import StatementTimeout
from pgconductor.services.pinned import PinnedUnitOfWork, TimedUnitOfWork
from pgconductor.services.steps import StepService
from tests.support.servers import connect

# More of one execution than one look takes, before the only one of another.
TIMES = """
    INSERT INTO pgconductor.executions (id, task_key, state)
    SELECT ('00000000-0000-7000-8000-00000000000' || n)::uuid, 'a', 'waiting'
    FROM generate_series(1, 2) n;
    INSERT INTO pgconductor.steps (execution_id, key, kind, pending, wake_at)
    SELECT '00000000-0000-7000-8000-000000000001', 'nap ' || n, 'sleep', true,
           now() - interval '1 hour'
    FROM generate_series(1, 1100) n;
    INSERT INTO pgconductor.steps (execution_id, key, kind, pending, wake_at)
    VALUES ('00000000-0000-7000-8000-000000000002', 'nap', 'sleep', true, now());
"""
CHILDREN = """
    INSERT INTO pgconductor.executions (id, task_key, state)
    SELECT ('00000000-0000-7000-8000-00000000000' || n)::uuid, 'a', 'waiting'
    FROM generate_series(1, 2) n;
    INSERT INTO pgconductor.steps (execution_id, key, kind, pending, child_id)
    SELECT ('00000000-0000-7000-8000-00000000000' || 1 + n / 1100)::uuid, 'child ' || n, 'child',
           true, pgconductor.uuidv7()
    FROM generate_series(1, 1100) n;
    INSERT INTO pgconductor.executions (
        id, task_key, parent_id, parent_key, awaited, state, finished_at
    )
    SELECT s.child_id, 'b', s.execution_id, s.key, true, 'completed',
           now() + CASE WHEN s.key = 'child 1100' THEN interval '1 s' ELSE interval '0' END
    FROM pgconductor.steps s;
"""


@pytest.mark.parametrize("made", [TIMES, CHILDREN], ids=["times", "children"])
async def test_one_look_settles_all_that_is_due(
    engine: AsyncEngine, database_url: str, made: str
) -> None:
    with connect(database_url) as connection:
        connection.execute(made.encode())
    assert await StepService(engine).settle_due() is None
    with connect(database_url) as connection:
        left = "SELECT count(*) FROM pgconductor.steps WHERE pending"
        assert connection.execute(left).fetchone() == (0,)
        states = "SELECT DISTINCT state FROM pgconductor.executions WHERE parent_id IS NULL"
        assert connection.execute(states).fetchall() == [("available",)]
        untold = "SELECT count(*) FROM pgconductor.executions WHERE awaited"
        assert connection.execute(untold).fetchone() == (0,)


async def test_a_row_that_is_locked_does_not_hold_up_the_others(database_url: str) -> None:
    """I9: a frozen process between its proof of ownership and its commit holds the lock for long.

    One of its branches waits for a time that has come: so everybody looks at its execution.
    """
    impatient = create_async_engine(
        database_url, connect_args={"server_settings": {"lock_timeout": "300ms"}}
    )
    with connect(database_url) as connection, connect(database_url) as holder:
        connection.execute(TIMES.encode())
        with holder.transaction():
            first = "SELECT FROM pgconductor.executions ORDER BY id LIMIT 1 FOR SHARE"
            holder.execute(first)
            try:
                await StepService(impatient).settle_due()
            except DBAPIError:
                pass  # By the limit: what was settled is settled.
            finally:
                await impatient.dispose()
            left = "SELECT DISTINCT execution_id FROM pgconductor.steps WHERE pending"
            assert len(connection.execute(left).fetchall()) == 1


MANY = """
    INSERT INTO pgconductor.executions (id, task_key, state)
    SELECT ('00000000-0000-7000-8000-0000000000' || lpad(n::text, 2, '0'))::uuid, 'a', 'waiting'
    FROM generate_series(1, 20) n;
    INSERT INTO pgconductor.steps (execution_id, key, kind, pending, wake_at)
    SELECT e.id, 'nap', 'sleep', true, now() - interval '1 hour' FROM pgconductor.executions e;
    CREATE FUNCTION public.trouble() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.execution_id = '00000000-0000-7000-8000-000000000007' THEN
            {trouble};
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER trouble BEFORE UPDATE ON pgconductor.steps
    FOR EACH ROW EXECUTE FUNCTION public.trouble();
"""
SEVENTH = "00000000-0000-7000-8000-000000000007"
TROUBLE = {
    "command_timeout": ("PERFORM pg_sleep(60)", {}, "longer than command_timeout"),
    "statement_timeout": (
        "PERFORM pg_sleep(60)",
        {"statement_timeout": "200ms"},
        "a statement was cancelled",
    ),
    "lock_timeout": (
        "LOCK TABLE pgconductor.queues IN EXCLUSIVE MODE",
        {"lock_timeout": "100ms"},
        "a lock was not free",
    ),
    "an error": ("RAISE 'not this one'", {}, "a statement failed"),
}


@pytest.mark.parametrize("kind", TROUBLE)
async def test_one_that_cannot_be_settled_is_named_and_the_others_go_on(
    database_url: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is wrong with it: here a trigger on our table is."""
    trouble, settings, said = TROUBLE[kind]
    engine = create_async_engine(database_url, connect_args={"server_settings": settings})
    timeout = timedelta(seconds=0.5 if kind == "command_timeout" else 30)
    work = PinnedUnitOfWork(engine, timeout=timeout, role="steps")
    steps = StepService(work)
    with connect(database_url) as connection, connect(database_url) as holder:
        connection.execute(MANY.format(trouble=trouble).encode())
        with caplog.at_level(logging.WARNING), holder.transaction():
            holder.execute("LOCK TABLE pgconductor.queues IN EXCLUSIVE MODE")
            next_in = await steps.settle_due()
            assert next_in is not None
            assert next_in <= timedelta(seconds=1)
            assert {str(one) for one in steps.aside} == {SEVENTH}
        left = b"SELECT execution_id::text FROM pgconductor.steps WHERE pending"
        assert connection.execute(left).fetchall() == [(SEVENTH,)]
        messages = [record.getMessage() for record in caplog.records]
        assert len(messages) == 1, messages
        assert SEVENTH in messages[0]
        assert said in messages[0]
        assert "no database" not in messages[0]
        connection.execute("DROP TRIGGER trouble ON pgconductor.steps")
        # Somebody else has had no trouble with it, and does not leave it alone.
        assert await StepService(work).settle_due() is None
        assert connection.execute(left).fetchall() == []
    await work.aclose()
    await engine.dispose()


async def until_it_times_out(work: PinnedUnitOfWork | TimedUnitOfWork) -> BaseException:
    with pytest.raises(TimeoutError) as caught:
        async with work.begin():
            await asyncio.Event().wait()
    return caught.value


@pytest.mark.parametrize("pinned", [True, False])
async def test_a_time_out_with_a_connection_is_told_from_one_without(
    database_url: str, pinned: bool
) -> None:
    """The first is a statement's, the second means that there is no database."""
    # It accepts connections, and never answers.
    silent = socket.create_server(("127.0.0.1", 0))
    port = silent.getsockname()[1]
    errors = []
    for url in (database_url, f"postgresql+asyncpg://me@127.0.0.1:{port}/x"):
        engine = create_async_engine(url)
        timeout = timedelta(seconds=2)
        if pinned:
            work = PinnedUnitOfWork(engine, timeout=timeout, role="steps")
            errors.append(await until_it_times_out(work))
            await work.aclose()
        else:
            errors.append(await until_it_times_out(TimedUnitOfWork(engine, timeout=timeout)))
        await engine.dispose()
    silent.close()
    assert [type(error) for error in errors] == [StatementTimeout, TimeoutError]
    assert str(errors[0]) == "no answer within 2 s"
