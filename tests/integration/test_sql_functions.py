"""The functions that other languages call: their signatures, cancel_execution, ids, the clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.integration.raw_sql import Ear, connected, row_of

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

SIGNATURES = {
    "invoke": (
        ", ".join(
            (
                "p_task_key text",
                "p_queue text DEFAULT 'default'::text",
                "p_payload jsonb DEFAULT NULL::jsonb",
                "p_run_at timestamp with time zone DEFAULT NULL::timestamp with time zone",
                "p_dedupe_key text DEFAULT NULL::text",
                "p_dedupe_seconds integer DEFAULT NULL::integer",
                "p_dedupe_next_slot boolean DEFAULT false",
                "p_cron_expression text DEFAULT NULL::text",
                "p_priority integer DEFAULT NULL::integer",
                "p_dedupe_scope text DEFAULT 'unfinished'::text",
                "p_dedupe_replace boolean DEFAULT false",
            )
        ),
        "TABLE(id uuid)",
    ),
    "invoke_batch": (
        ", ".join(
            (
                "specs pgconductor.execution_spec[]",
                "p_dedupe_scope text DEFAULT 'unfinished'::text",
                "p_dedupe_replace boolean DEFAULT false",
            )
        ),
        "TABLE(id uuid)",
    ),
    "cancel_execution": (
        "p_execution_id uuid, p_reason text DEFAULT NULL::text, p_children boolean DEFAULT true",
        "boolean",
    ),
    "emit_event": (
        (
            "p_name text, p_payload jsonb DEFAULT NULL::jsonb, "
            "p_dedupe_key text DEFAULT NULL::text, OUT id uuid, OUT created boolean"
        ),
        "record",
    ),
}
SPEC = [
    ("task_key", "text"),
    ("queue", "text"),
    ("payload", "jsonb"),
    ("run_at", "timestamp with time zone"),
    ("dedupe_key", "text"),
    ("dedupe_seconds", "integer"),
    ("dedupe_next_slot", "boolean"),
    ("cron_expression", "text"),
    ("priority", "integer"),
]


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Connection]:
    async with connected(database_url) as connection:
        yield connection


@pytest.fixture
async def other(database_url: str) -> AsyncIterator[Connection]:
    """A second session."""
    async with connected(database_url) as connection:
        yield connection


@pytest.fixture
async def ear(other: Connection) -> Ear:
    ear = Ear(other)
    await ear.listen()
    return ear


# --- signatures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SIGNATURES)
async def test_signature(db: Connection, name: str) -> None:
    rows = await db.fetch(
        "SELECT pg_get_function_arguments(oid), pg_get_function_result(oid) FROM pg_proc"
        " WHERE pronamespace = 'pgconductor'::regnamespace AND proname = $1",
        name,
    )
    # One of each name: an overload would make calls with unknown literals ambiguous.
    assert [tuple(row) for row in rows] == [SIGNATURES[name]]


async def test_fields_of_a_spec(db: Connection) -> None:
    rows = await db.fetch(
        "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = 'pgconductor.execution_spec'::regclass AND attnum > 0 ORDER BY attnum"
    )
    assert [tuple(row) for row in rows] == SPEC


# --- cancel_execution ----------------------------------------------------------------------------


async def hold(db: Connection, execution_id: UUID) -> UUID:
    owner = uuid4()
    await db.execute(
        "UPDATE pgconductor.executions SET state = 'running', locked_by = $2, locked_at = now(),"
        " claim_number = 1, attempts = 1 WHERE id = $1",
        execution_id,
        owner,
    )
    return owner


async def test_what_is_available_is_cancelled_at_once(db: Connection, ear: Ear) -> None:
    made = await db.fetchval("SELECT id FROM pgconductor.invoke('send')")
    await ear.all()
    assert await db.fetchval("SELECT pgconductor.cancel_execution($1, 'changed my mind')", made)
    row = await row_of(db, made)
    assert (row["state"], row["cancel_reason"]) == ("cancelled", "changed my mind")
    assert row["finished_at"] >= row["created_at"]
    assert row["finished_by"] is None
    # Nobody waits for it, so nobody is told.
    assert await ear.all() == []
    # I7: finished is final.
    assert not await db.fetchval("SELECT pgconductor.cancel_execution($1, 'again')", made)
    assert await row_of(db, made) == row


@pytest.mark.orphans_expected
async def test_what_is_running_is_asked_to_stop(db: Connection, ear: Ear) -> None:
    made = await db.fetchval("SELECT id FROM pgconductor.invoke('send')")
    owner = await hold(db, made)
    await ear.all()
    assert await db.fetchval("SELECT pgconductor.cancel_execution($1, 'why')", made)
    first = await row_of(db, made)
    assert (first["state"], first["locked_by"], first["finished_at"]) == ("running", owner, None)
    assert await ear.all() == [("pgconductor_control", str(owner))]
    # Asked again, the first reason and time stay.
    assert await db.fetchval("SELECT pgconductor.cancel_execution($1, 'other')", made)
    assert await row_of(db, made) == first


async def test_who_waits_is_told(db: Connection, ear: Ear) -> None:
    made = await db.fetchval("SELECT id FROM pgconductor.invoke('send')")
    await db.execute("UPDATE pgconductor.executions SET awaited = true, state = 'waiting'")
    await ear.all()
    assert await db.fetchval("SELECT pgconductor.cancel_execution(p_execution_id => $1)", made)
    assert await ear.all() == [("pgconductor_finished", str(made))]
    assert (await row_of(db, made))["cancel_reason"] is None


async def test_there_is_nothing_to_cancel(db: Connection) -> None:
    assert await db.fetchval("SELECT pgconductor.cancel_execution($1, 'why')", uuid4()) is False
    assert await db.fetchval("SELECT pgconductor.cancel_execution(NULL, 'why')") is False


# --- emit_event ----------------------------------------------------------------------------------


async def test_emit_event(db: Connection) -> None:
    calls = ("'payment/paid', '{\"a\": 1}'", "p_name => 'paid'", "'paid', 'null'")
    made = [await db.fetchval(f"SELECT id FROM pgconductor.emit_event({given})") for given in calls]
    rows = await db.fetch("SELECT id, name, payload::text FROM pgconductor.events")
    assert {row["id"]: (row["name"], row["payload"]) for row in rows} == dict(
        zip(made, [("payment/paid", '{"a": 1}'), ("paid", None), ("paid", None)], strict=True)
    )


async def test_many_events_by_one_statement(db: Connection) -> None:
    """It gives one row and no set of them, so that it may stand wherever a value may."""
    many = "SELECT count(pgconductor.emit_event('paid', to_jsonb(n))) FROM generate_series(1, 30) n"
    assert await db.fetchval(many) == 30
    taken = "SELECT (pgconductor.emit_event('paid', NULL, 'once')).created"
    assert [await db.fetchval(taken) for _ in range(2)] == [True, False]
    assert await db.fetchval("SELECT count(*) FROM pgconductor.events") == 31


@pytest.mark.parametrize("name", [None, "", "1st", "a b", "a\n", "a" * 129, "ä"])
async def test_what_cannot_name_an_event(db: Connection, name: str | None) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError, match="cannot name an event"):
        await db.fetchval("SELECT pgconductor.emit_event($1)", name)


async def test_an_event_that_comes_twice(db: Connection) -> None:
    """A webhook is delivered until it is acknowledged."""
    query = "SELECT id, created FROM pgconductor.emit_event($1, $2, $3)"
    first = await db.fetchrow(query, "paid", "1", "evt_1")
    again = await db.fetchrow(query, "paid", "2", "evt_1")
    assert first is not None
    assert again is not None
    assert (first["created"], again["created"]) == (True, False)
    assert first["id"] == again["id"]
    for name, key in (("paid", "evt_2"), ("refunded", "evt_1"), ("paid", None), ("paid", None)):
        other = await db.fetchrow(query, name, None, key)
        assert other is not None
        assert other["created"]
    assert await db.fetchval("SELECT count(*) FROM pgconductor.events") == 5
    for wrong in ("", "k" * 513):
        with pytest.raises(asyncpg.CheckViolationError):
            await db.fetchrow(query, "paid", None, wrong)


# --- uuidv7 --------------------------------------------------------------------------------------


async def test_ids_are_of_version_7(db: Connection) -> None:
    rows = await db.fetch("SELECT pgconductor.uuidv7() AS id FROM generate_series(1, 2000)")
    made = [row["id"] for row in rows]
    assert {(one.version, one.variant) for one in made} == {(7, "specified in RFC 4122")}
    assert len(set(made)) == 2000
    # The random part is random throughout: no bit of it is the same in all.
    ones, zeros = 0, 0
    for one in made:
        ones |= one.int
        zeros |= ~one.int
    fixed = ~(ones & zeros) & ((1 << 80) - 1)
    assert fixed == (0xF << 76) | (0b11 << 62)


async def test_ids_hold_the_real_time(db: Connection) -> None:
    """Whatever a test's clock says: ids made by the client and by the server are to mix."""
    await db.execute("SET pgconductor.clock_offset = '10 years'")
    before = await db.fetchval("SELECT clock_timestamp()")
    made = [await db.fetchval("SELECT pgconductor.uuidv7()") for _ in range(3)]
    after = await db.fetchval("SELECT clock_timestamp()")
    stamps = [one.int >> 80 for one in made]
    assert stamps == sorted(stamps)
    assert int(before.timestamp() * 1000) <= stamps[0]
    assert stamps[-1] <= int(after.timestamp() * 1000)


async def test_ids_of_later_milliseconds_sort_later(db: Connection) -> None:
    earlier = await db.fetchval("SELECT pgconductor.uuidv7()")
    # The next millisecond, by the server's clock.
    await db.execute(
        "DO $$ DECLARE t timestamptz := clock_timestamp(); BEGIN"
        " WHILE clock_timestamp() < t + interval '2 ms' LOOP NULL; END LOOP; END $$"
    )
    assert await db.fetchval("SELECT pgconductor.uuidv7() > $1", earlier)


# --- the clock -----------------------------------------------------------------------------------


async def test_the_clock_is_the_transactions(db: Connection) -> None:
    async with db.transaction():
        first = await db.fetchval("SELECT pgconductor.clock()")
        assert first == await db.fetchval("SELECT now()")
        assert first == await db.fetchval("SELECT pgconductor.clock()")
        walls = [await db.fetchval("SELECT pgconductor.wall_clock()") for _ in range(2)]
        assert first < walls[0] < walls[1]


async def test_the_clock_can_be_moved_for_one_session(db: Connection, other: Connection) -> None:
    offset = "SELECT pgconductor.clock() - now(), pgconductor.wall_clock() > now() + interval '1 d'"
    await db.execute("SET pgconductor.clock_offset = '1 day 2 hours'")
    assert tuple(await db.fetchrow(offset) or ()) == (timedelta(hours=26), True)
    assert tuple(await other.fetchrow(offset) or ()) == (timedelta(0), False)
    made = await db.fetchval("SELECT id FROM pgconductor.invoke('send')")
    created = (await row_of(other, made))["created_at"]
    assert created > await other.fetchval("SELECT now() + interval '25 hours'")
    await db.execute("RESET pgconductor.clock_offset")
    assert tuple(await db.fetchrow(offset) or ()) == (timedelta(0), False)


async def test_the_clock_can_be_moved_for_one_transaction(db: Connection) -> None:
    async with db.transaction():
        await db.execute("SET LOCAL pgconductor.clock_offset = '-1 hour'")
        assert await db.fetchval("SELECT pgconductor.clock() < now()")
    # What a SET LOCAL leaves behind is an empty setting, not none.
    assert await db.fetchval("SELECT current_setting('pgconductor.clock_offset', true)") == ""
    assert await db.fetchval("SELECT pgconductor.clock() = now()")


async def test_an_offset_that_is_none_is_an_error(db: Connection) -> None:
    await db.execute("SET pgconductor.clock_offset = 'yesterday'")
    with pytest.raises(asyncpg.InvalidDatetimeFormatError):
        await db.fetch("SELECT id FROM pgconductor.invoke('send')")
