"""Invoking from SQL: what other languages, triggers and psql do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg
import pytest

from tests.integration.raw_sql import Ear, connected, count, row_of

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

FIELDS = (
    "task_key",
    "queue",
    "payload",
    "run_at",
    "dedupe_key",
    "dedupe_seconds",
    "dedupe_next_slot",
    "cron_expression",
    "priority",
)
UNBUILT = {
    "dedupe_seconds": "60",
    "dedupe_next_slot": "true",
    "cron_expression": "'* * * * *'",
}
NOW = datetime.now(UTC).replace(microsecond=0)


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


def spec(**fields: str) -> str:
    """A spec as SQL, each field as it would be written there."""
    values = ", ".join(fields.get(name, "NULL") for name in FIELDS)
    return f"ROW({values})::pgconductor.execution_spec"


async def batch(db: Connection, *specs: str) -> list[UUID]:
    rows = await db.fetch(
        f"SELECT id FROM pgconductor.invoke_batch(ARRAY[{', '.join(specs)}]"
        "::pgconductor.execution_spec[])"
    )
    return [row["id"] for row in rows]


# --- invoke --------------------------------------------------------------------------------------


async def test_invoke_with_defaults(db: Connection) -> None:
    made = await db.fetchval("SELECT id FROM pgconductor.invoke('mail.send')")
    row = await row_of(db, made)
    assert {name for name, value in row.items() if value is not None} == {
        "id",
        "task_key",
        "queue",
        "state",
        "priority",
        "run_at",
        "attempts",
        "max_attempts",
        "crashes",
        "max_crashes",
        "awaited",
        "wakes",
        "created_at",
    }
    assert (row["task_key"], row["queue"], row["state"]) == ("mail.send", "default", "available")
    assert (row["priority"], row["attempts"], row["max_attempts"]) == (0, 0, 3)
    assert (row["crashes"], row["max_crashes"], row["awaited"]) == (0, 3, False)
    assert row["run_at"] == row["created_at"]
    assert made.version == 7


async def test_invoke_with_everything(db: Connection) -> None:
    made = await db.fetchval(
        "SELECT id FROM pgconductor.invoke('send', 'mail', '{\"to\": [1]}', $1, 'k', NULL, false,"
        " NULL, 7)",
        NOW + timedelta(days=1),
    )
    row = await row_of(db, made)
    assert (row["queue"], row["payload"], row["dedupe_key"]) == ("mail", '{"to": [1]}', "k")
    assert (row["run_at"], row["priority"]) == (NOW + timedelta(days=1), 7)


async def test_invoke_by_names(db: Connection) -> None:
    made = await db.fetchval(
        "SELECT id FROM pgconductor.invoke('send', p_priority => -1, p_payload => 'null')"
    )
    row = await row_of(db, made)
    assert (row["priority"], row["payload"]) == (-1, "null")


async def test_null_means_the_default(db: Connection) -> None:
    made = await db.fetchval(
        "SELECT id FROM pgconductor.invoke('send', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)"
    )
    row = await row_of(db, made)
    assert (row["queue"], row["priority"]) == ("default", 0)


async def test_limits_come_from_what_the_task_declares(db: Connection) -> None:
    await db.execute(
        "INSERT INTO pgconductor.tasks (key, queue, max_attempts, max_crashes)"
        " VALUES ('send', 'mail', 9, 1)"
    )
    row = await row_of(db, await db.fetchval("SELECT id FROM pgconductor.invoke('send')"))
    assert (row["max_attempts"], row["max_crashes"]) == (9, 1)
    # The queue does not: SQL says where it goes.
    assert row["queue"] == "default"


@pytest.mark.parametrize(("name", "value"), UNBUILT.items())
async def test_what_is_not_built_is_refused(db: Connection, name: str, value: str) -> None:
    with pytest.raises(asyncpg.FeatureNotSupportedError, match=f"{name} is not supported"):
        await db.fetch(f"SELECT id FROM pgconductor.invoke('send', p_{name} => {value})")
    with pytest.raises(asyncpg.FeatureNotSupportedError, match=f"{name} is not supported"):
        await batch(db, spec(task_key="'send'"), spec(task_key="'send'", **{name: value}))
    assert await count(db) == 0


async def test_invoke_commits_and_rolls_back_with_its_caller(
    db: Connection, other: Connection
) -> None:
    transaction = db.transaction()
    await transaction.start()
    await db.fetch("SELECT id FROM pgconductor.invoke('send')")
    assert await count(other) == 0
    await transaction.rollback()
    assert await count(other) == 0
    await db.fetch("SELECT id FROM pgconductor.invoke('send')")
    assert await count(other) == 1


# --- invoke_batch --------------------------------------------------------------------------------


async def test_ids_come_in_the_order_of_the_specs(db: Connection) -> None:
    # Names descend, so that neither keys nor places happen to be in order.
    specs = [
        spec(task_key=f"'task{99 - n}'", queue=f"'queue{n % 3}'", payload=f"'{n}'")
        for n in range(100)
    ]
    made = await batch(db, *specs)
    assert len(set(made)) == 100
    for n, execution_id in enumerate(made):
        row = await row_of(db, execution_id)
        assert (row["task_key"], row["payload"]) == (f"task{99 - n}", str(n))
    assert made == sorted(made, key=lambda one: one.int >> 80)


async def test_duplicates_in_a_batch_lead_to_the_first(db: Connection) -> None:
    """I8."""
    made = await batch(
        db,
        spec(task_key="'send'", dedupe_key="'b'", payload="'1'"),
        spec(task_key="'send'", dedupe_key="'a'", payload="'2'"),
        spec(task_key="'send'", dedupe_key="'b'", payload="'3'"),
        spec(task_key="'send'", payload="'4'"),
        spec(task_key="'other'", dedupe_key="'b'", payload="'5'"),
        spec(task_key="'send'", queue="'mail'", dedupe_key="'b'", payload="'6'"),
        spec(task_key="'send'", dedupe_key="'a'", payload="'7'"),
        spec(task_key="'send'", payload="'8'"),
    )
    payloads = [(await row_of(db, one))["payload"] for one in made]
    assert payloads == ["1", "2", "1", "4", "5", "6", "2", "8"]
    assert await count(db) == 6
    again = await batch(db, spec(task_key="'send'", dedupe_key="'a'"))
    assert again == [made[1]]


@pytest.mark.parametrize("specs", ["'{}'", "NULL", "ARRAY[]"])
async def test_no_specs_make_nothing(db: Connection, specs: str) -> None:
    rows = await db.fetch(
        f"SELECT id FROM pgconductor.invoke_batch({specs}::pgconductor.execution_spec[])"
    )
    assert rows == []


async def test_a_spec_that_is_null_has_no_task(db: Connection) -> None:
    with pytest.raises(asyncpg.NotNullViolationError, match="task_key"):
        await batch(db, spec(task_key="'send'"), "NULL")
    assert await count(db) == 0


async def test_a_batch_is_taken_or_refused_as_one(db: Connection) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await batch(db, spec(task_key="'send'"), spec(task_key="'send'", queue="'No'"))
    assert await count(db) == 0


async def test_an_array_of_two_dimensions_is_read_through(db: Connection) -> None:
    one = spec(task_key="'send'")
    made = await db.fetch(
        f"SELECT id FROM pgconductor.invoke_batch(ARRAY[ARRAY[{one}, {one}], ARRAY[{one}, {one}]])"
    )
    assert len(made) == await count(db) == 4


# --- notifications -------------------------------------------------------------------------------


async def test_workers_are_told_once_a_queue_and_at_the_commit(db: Connection, ear: Ear) -> None:
    async with db.transaction():
        for queue in ("a", "b", "a"):
            await db.fetch("SELECT id FROM pgconductor.invoke('send', $1)", queue)
        await batch(db, *(spec(task_key="'send'", queue=f"'q{n % 2}'") for n in range(10)))
        assert await ear.all() == []
    assert sorted(await ear.all()) == [
        ("pgconductor_available", queue) for queue in ("a", "b", "q0", "q1")
    ]


async def test_nobody_is_told_of_what_is_not_due(db: Connection, ear: Ear) -> None:
    later = NOW + timedelta(hours=1)
    await db.fetch("SELECT id FROM pgconductor.invoke('send', 'later', p_run_at => $1)", later)
    await batch(
        db,
        spec(task_key="'send'", queue="'later'", run_at="now() + interval '1 hour'"),
        spec(task_key="'send'", queue="'past'", run_at="now() - interval '1 hour'"),
    )
    assert await ear.all() == [("pgconductor_available", "past")]


async def test_nobody_is_told_of_a_rollback(db: Connection, ear: Ear) -> None:
    transaction = db.transaction()
    await transaction.start()
    await db.fetch("SELECT id FROM pgconductor.invoke('send')")
    await transaction.rollback()
    async with db.transaction():
        savepoint = db.transaction()
        await savepoint.start()
        await db.fetch("SELECT id FROM pgconductor.invoke('send', 'inner')")
        await savepoint.rollback()
        await db.fetch("SELECT id FROM pgconductor.invoke('send', 'outer')")
    assert await ear.all() == [("pgconductor_available", "outer")]


async def test_nobody_is_told_of_a_duplicate(db: Connection, ear: Ear) -> None:
    await db.fetch("SELECT id FROM pgconductor.invoke('send', p_dedupe_key => 'k')")
    assert len(await ear.all()) == 1
    await db.fetch("SELECT id FROM pgconductor.invoke('send', p_dedupe_key => 'k')")
    assert await ear.all() == []


# --- dedupe scopes -------------------------------------------------------------------------------


async def test_the_scope_unstarted_and_a_replacement(db: Connection, ear: Ear) -> None:
    async def invoke(payload: str, replace: bool) -> UUID:
        row = await db.fetchrow(
            "SELECT id FROM pgconductor.invoke('send', p_payload => $1, p_dedupe_key => 'k',"
            " p_dedupe_scope => 'unstarted', p_dedupe_replace => $2)",
            payload,
            replace,
        )
        assert row is not None
        made: UUID = row["id"]
        return made

    first = await invoke("1", False)
    assert await invoke("2", False) == first
    assert (await row_of(db, first))["payload"] == "1"
    assert await invoke("3", True) == first
    assert (await row_of(db, first))["payload"] == "3"
    # As its fetch does.
    await db.execute("UPDATE pgconductor.executions SET dedupe_scope = 'started'")
    successor = await invoke("4", True)
    assert successor != first
    assert (await row_of(db, first))["payload"] == "3"


async def test_the_scope_retained_counts_finished_ones(db: Connection) -> None:
    query = "SELECT id FROM pgconductor.invoke('send', p_dedupe_key => 'k', p_dedupe_scope => $1)"
    first = await db.fetchval(query, "retained")
    await db.execute("UPDATE pgconductor.executions SET state = 'completed', finished_at = now()")
    assert await db.fetchval(query, "retained") == first
    assert await db.fetchval(query, "unfinished") != first


async def test_a_scope_is_for_a_whole_batch(db: Connection) -> None:
    specs = ", ".join(
        spec(task_key="'send'", dedupe_key=key, payload=payload)
        for key, payload in (("'a'", "'1'"), ("'b'", "'2'"), ("'a'", "'3'"), ("NULL", "'4'"))
    )
    rows = await db.fetch(
        f"SELECT id FROM pgconductor.invoke_batch(ARRAY[{specs}], 'unstarted', true)"
    )
    a, b, again, other = (row["id"] for row in rows)
    assert a == again
    assert len({a, b, other}) == 3
    assert (await row_of(db, a))["payload"] == "3"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("p_dedupe_scope => 'for ever'", "is no dedupe scope"),
        ("p_dedupe_scope => NULL", "is no dedupe scope"),
        ("p_dedupe_replace => true", "only what nobody has started can be replaced"),
        ("p_dedupe_scope => 'retained', p_dedupe_replace => true", "nobody has started"),
    ],
)
async def test_a_scope_that_there_is_not(db: Connection, arguments: str, why: str) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError, match=why):
        await db.fetch(
            f"SELECT * FROM pgconductor.invoke('send', p_dedupe_key => 'k', {arguments})"
        )
    assert await count(db) == 0


# --- from a user's own SQL -----------------------------------------------------------------------


async def test_from_a_trigger(db: Connection, ear: Ear) -> None:
    await db.execute(
        """
        CREATE TABLE orders (id bigint PRIMARY KEY, total numeric CHECK (total > 0));
        CREATE FUNCTION order_placed() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM pgconductor.invoke(
                'orders.confirm', 'mail', jsonb_build_object('order', NEW.id, 'total', NEW.total),
                p_dedupe_key => 'order-' || NEW.id
            );
            RETURN NEW;
        END $$;
        CREATE TRIGGER order_placed AFTER INSERT OR UPDATE ON orders
            FOR EACH ROW EXECUTE FUNCTION order_placed();
        """
    )
    await db.execute("INSERT INTO orders VALUES (1, 9.50), (2, 3)")
    await db.execute("UPDATE orders SET total = 4 WHERE id = 2")
    rows = await db.fetch("SELECT * FROM pgconductor.executions ORDER BY dedupe_key")
    assert [(row["dedupe_key"], row["payload"]) for row in rows] == [
        ("order-1", '{"order": 1, "total": 9.50}'),
        ("order-2", '{"order": 2, "total": 3}'),
    ]
    assert await ear.all() == [("pgconductor_available", "mail")]
    # What the order's own rules refuse is not confirmed.
    with pytest.raises(asyncpg.CheckViolationError):
        await db.execute("INSERT INTO orders VALUES (3, 1), (4, -1)")
    assert await count(db) == 2
    assert await ear.all() == []


async def test_for_many_rows_in_one_statement(db: Connection) -> None:
    await db.execute("CREATE TABLE customers AS SELECT n AS id FROM generate_series(1, 500) n")
    made = await db.fetch(
        """
        SELECT i.id FROM pgconductor.invoke_batch((
            SELECT array_agg(ROW('greet', 'mail', to_jsonb(c.id), NULL, 'c' || c.id, NULL, NULL,
                                 NULL, NULL)::pgconductor.execution_spec ORDER BY c.id)
            FROM customers c
        )) AS i
        """
    )
    assert len(made) == await count(db) == 500
    one_by_one = await db.fetch(
        "SELECT i.id FROM customers c CROSS JOIN LATERAL"
        " pgconductor.invoke('greet', 'mail', to_jsonb(c.id), p_dedupe_key => 'c' || c.id) AS i"
        " ORDER BY c.id"
    )
    assert one_by_one == made


async def test_a_read_only_transaction_is_refused_as_such(db: Connection) -> None:
    async with db.transaction(readonly=True):
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await db.fetch("SELECT id FROM pgconductor.invoke('send')")
