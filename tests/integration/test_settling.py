"""One look settles all that is due, however it is spread over executions."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

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
