"""Settles many waits with the build that is on the path, and says how long it took.

Called by ``benchmarks.waits``, once for each measurement: ``waits_probe.py install URL``,
``waits_probe.py settle URL MATCH WAITS`` or ``waits_probe.py busy URL EVENTS DELIVERIES``. It
prints seconds as JSON; ``null`` for what was not over in time. Only what older builds have as well
is used of pgconductor.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from datetime import timedelta
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import create_async_engine

from pgconductor.services.pinned import PinnedUnitOfWork
from pgconductor.services.steps import StepService

_TIMEOUT = timedelta(seconds=60)
_ORDERS = 400
_MATCHES = {
    "none": "NULL",
    "same": """'{"kind": "vote"}'""",
    "each": "jsonb_build_object('order', n)",
    "mixed": """
        CASE n % 3
            WHEN 0 THEN NULL
            WHEN 1 THEN '{"kind": "vote"}'
            ELSE jsonb_build_object('kind', 'vote', 'order', n)
        END
    """,
}
_EXECUTIONS = """
    INSERT INTO pgconductor.executions (id, task_key, state)
    SELECT pgconductor.uuidv7(), 'a', 'waiting' FROM generate_series(1, $1::integer)
"""
_WAITS = """
    INSERT INTO pgconductor.steps (execution_id, key, kind, pending, detail, match)
    SELECT e.id, 'wait ' || n, 'event', true, 'paid', {match}
    FROM pgconductor.executions e, generate_series(1, $1::integer) n
"""
_ORDER_WAITS = """
    INSERT INTO pgconductor.steps (execution_id, key, kind, pending, detail, match)
    SELECT e.id, 'wait', 'event', true, 'paid', jsonb_build_object('order', e.n)
    FROM (SELECT id, row_number() OVER (ORDER BY id) AS n FROM pgconductor.executions) AS e
"""
_EMIT = """
    SELECT count(*)
    FROM generate_series($1::integer, $2::integer) n,
        LATERAL pgconductor.emit_event('paid', jsonb_build_object('order', n, 'kind', 'vote')) e
"""
# Payments of other orders, which everybody has looked at.
_OTHERS = """
    INSERT INTO pgconductor.events (id, name, payload, matched)
    SELECT pgconductor.uuidv7(), 'paid', jsonb_build_object('order', -n), true
    FROM generate_series(1, $1::integer) n
"""
_LEFT = "SELECT count(*) FROM pgconductor.steps WHERE pending"


async def _emptied(connection: asyncpg.Connection[Any]) -> None:
    await connection.execute(
        "TRUNCATE pgconductor.executions, pgconductor.steps, pgconductor.events CASCADE"
    )


async def _warm(connection: asyncpg.Connection[Any], steps: StepService) -> None:
    """A few calls go before those that are timed."""
    for _ in range(3):
        await _emptied(connection)
        await connection.execute(_EXECUTIONS, 1)
        await connection.execute(_WAITS.format(match=_MATCHES["each"]), 10)
        await connection.execute(_EMIT, 1, 10)
        one = await connection.fetchval("SELECT id FROM pgconductor.executions")
        await steps.settle({one: None})


async def settle(
    connection: asyncpg.Connection[Any], steps: StepService, match: str, waits: int
) -> float | None:
    """Seconds for one call that ends all the waits of an execution, for events that are there."""
    await _warm(connection, steps)
    await _emptied(connection)
    await connection.execute(_EXECUTIONS, 1)
    await connection.execute(_WAITS.format(match=_MATCHES[match]), waits)
    # Those that take anything have taken theirs before those come that only one wait asks for.
    await connection.execute(_EMIT, 1 - waits, waits)
    await connection.execute("VACUUM ANALYZE pgconductor.steps, pgconductor.events")
    one = await connection.fetchval("SELECT id FROM pgconductor.executions")
    started = time.perf_counter()
    try:
        await steps.settle({one: None})
    except TimeoutError:
        return None
    seconds = time.perf_counter() - started
    left = await connection.fetchval(_LEFT)
    if left:
        raise RuntimeError(f"{left} waits of {waits} were not settled")
    return seconds


async def busy(
    connection: asyncpg.Connection[Any], steps: StepService, events: int, deliveries: int
) -> float | None:
    """Seconds, in the middle, from the call that emits an event until its wait has ended.

    400 executions wait with a match of their own, beside events of that name for others.
    """
    await _emptied(connection)
    await connection.execute(_EXECUTIONS, _ORDERS)
    await connection.execute(_ORDER_WAITS)
    rows = await connection.fetch("SELECT id FROM pgconductor.executions")
    await steps.settle(dict.fromkeys(row["id"] for row in rows))
    await connection.execute(_OTHERS, events, timeout=300)
    await connection.execute(
        "VACUUM ANALYZE pgconductor.executions, pgconductor.steps, pgconductor.events"
    )
    delays: list[float] = []
    for number in range(1, deliveries + 1):
        started = time.perf_counter()
        await connection.execute(_EMIT, number, number)
        try:
            await steps.settle_due()
        except TimeoutError:
            return None
        delays.append(time.perf_counter() - started)
        if await connection.fetchval(_LEFT) != _ORDERS - number:
            raise RuntimeError(f"the wait for order {number} was not settled")
    return statistics.median(delays)


def install(url: str) -> None:
    """Bring the database to this build's newest revision."""
    from alembic import command

    from pgconductor.schema import alembic_config

    command.upgrade(alembic_config(url.replace("://", "+asyncpg://", 1)), "head")


async def main(what: str, url: str, *arguments: str) -> None:
    """Measure once."""
    engine = create_async_engine(url.replace("://", "+asyncpg://", 1))
    # As an orchestrator settles.
    work = PinnedUnitOfWork(engine, timeout=_TIMEOUT, role="steps")
    connection = await asyncpg.connect(url)
    steps = StepService(work)
    if what == "settle":
        seconds = await settle(connection, steps, arguments[0], int(arguments[1]))
    else:
        seconds = await busy(connection, steps, int(arguments[0]), int(arguments[1]))
    sys.stdout.write(json.dumps(seconds) + "\n")
    await connection.close()
    await work.aclose()
    await engine.dispose()


if __name__ == "__main__":
    if sys.argv[1] == "install":
        install(sys.argv[2])
    else:
        asyncio.run(main(*sys.argv[1:]))
