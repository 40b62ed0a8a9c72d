"""The database refuses every half-finished row, whoever writes it."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from pgconductor.domain.steps import StepKind
from tests.support.servers import Server, connect

Row = tuple[object, ...]
ID = "00000000-0000-7000-8000-000000000001"
OWNER = f"locked_by = '{ID}', locked_at = now(), claim_number = 1"

# An execution of each state that is right, made from an available one.
STATES = {
    "available": "attempts = 0",
    "running": f"state = 'running', {OWNER}, attempts = 1",
    "waiting": "state = 'waiting', attempts = 1",
    "completed": (
        f"state = 'completed', finished_at = now(), finished_by = '{ID}', finished_claim = 1,"
        " result = '{}'"
    ),
    "failed": "state = 'failed', finished_at = now(), last_error = 'no'",
    "cancelled": "state = 'cancelled', finished_at = now(), cancel_requested_at = now()",
}

# Constraint, the state of the execution before, and the change that it must refuse.
EXECUTIONS = [
    ("state", "available", "state = 'done'"),
    ("state", "available", "state = ''"),
    ("state", "available", "state = 'AVAILABLE'"),
    ("state", "available", "state = 'running'"),
    ("state", "available", f"locked_by = '{ID}'"),
    ("state", "available", "locked_at = now()"),
    ("state", "available", "claim_number = 1"),
    ("state", "running", "locked_by = NULL"),
    ("state", "running", "locked_at = NULL"),
    ("state", "running", "claim_number = NULL"),
    ("state", "running", "state = 'available'"),
    ("state", "running", "state = 'waiting'"),
    ("state", "running", "state = 'completed', finished_at = now()"),
    ("state", "completed", OWNER),
    ("state", "available", "finished_at = now()"),
    ("state", "available", "state = 'completed'"),
    ("state", "available", f"finished_by = '{ID}', finished_claim = 1"),
    ("state", "running", f"finished_by = '{ID}', finished_claim = 1"),
    ("state", "completed", "finished_at = NULL"),
    ("state", "completed", "finished_claim = NULL"),
    ("state", "completed", "finished_by = NULL"),
    ("state", "completed", "state = 'available', result = NULL"),
    ("state", "failed", "state = 'available'"),
    ("state", "cancelled", "state = 'waiting'"),
    ("state", "available", "result = '1'"),
    ("state", "running", "result = 'null'"),
    ("state", "failed", "result = '1'"),
    ("state", "cancelled", "result = '1'"),
    ("state", "failed", "last_error = NULL"),
    ("state", "available", "state = 'failed', finished_at = now()"),
    ("state", "cancelled", "cancel_requested_at = NULL"),
    ("state", "available", "state = 'cancelled', finished_at = now()"),
    ("state", "available", "attempts = -1"),
    ("state", "available", "attempts = 4"),
    ("state", "available", "max_attempts = 0"),
    ("state", "running", "max_attempts = 0"),
    ("state", "available", "crashes = -1"),
    ("state", "available", "crashes = 4"),
    ("state", "available", "max_crashes = 0"),
    ("state", "waiting", OWNER),
    ("state", "waiting", "finished_at = now()"),
    ("state", "waiting", "result = '1'"),
    ("state", "available", "wakes = -1"),
    ("state", "available", "parent_key = 'child'"),
    ("state", "running", "claim_number = 0"),
    ("state", "running", "claim_number = -1"),
    ("input", "available", "priority = -32768"),
    ("input", "available", "run_at = 'infinity'"),
    ("input", "available", "run_at = '-infinity'"),
    ("input", "available", "queue = ''"),
    ("input", "available", "queue = 'Mail'"),
    ("input", "available", "queue = '1st'"),
    ("input", "available", "queue = 'a b'"),
    ("input", "available", "queue = E'a\\n'"),
    ("input", "available", "queue = 'ä'"),
    ("input", "available", "queue = repeat('a', 49)"),
    ("input", "available", "task_key = ''"),
    ("input", "available", "task_key = '1st'"),
    ("input", "available", "task_key = 'a b'"),
    ("input", "available", "task_key = E'a\\n'"),
    ("input", "available", "task_key = repeat('a', 129)"),
    ("input", "available", "dedupe_key = ''"),
    ("input", "available", "dedupe_key = repeat('a', 513)"),
    ("input", "available", "dedupe_key = repeat('ä', 257)"),
    ("input", "available", "payload = to_jsonb(repeat('a', 8388609))"),
]
NOT_NULL = [
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
]

ORCHESTRATOR = (
    "INSERT INTO pgconductor.orchestrators (id, version, schema_version, schema_required, hostname,"
    f" pid) VALUES ('{ID}', '1', 1, 1, 'here', 1)"
)
TASK = (
    "INSERT INTO pgconductor.tasks (key, queue, max_attempts, max_crashes)"
    " VALUES ('send', 'mail', 1, 1)"
)
STEP = (
    f"INSERT INTO pgconductor.executions (id, task_key) VALUES ('{ID}', 'send');"
    f"INSERT INTO pgconductor.steps (execution_id, key) VALUES ('{ID}', 'step')"
)
WAIT = f"{STEP}; UPDATE pgconductor.steps SET kind = 'event', pending = true, detail = 'paid'"
EVENT = f"INSERT INTO pgconductor.events (id, name) VALUES ('{ID}', 'paid')"
QUEUE = "INSERT INTO pgconductor.queues (name) VALUES ('mail')"
NOTHING = "SELECT 1"

# Constraint, what there is before, and the change that it must refuse.
OTHERS = [
    ("orchestrators_schema_version_check", ORCHESTRATOR, "orchestrators SET schema_version = 0"),
    ("orchestrators_heartbeat_number_check", ORCHESTRATOR, "orchestrators SET heartbeat_number=-1"),
    ("orchestrators_shutdown_check", ORCHESTRATOR, "orchestrators SET shutdown_reason = 'why'"),
    ("tasks_key_check", TASK, "tasks SET key = '1st'"),
    ("tasks_queue_check", TASK, "tasks SET queue = 'Mail'"),
    ("tasks_max_attempts_check", TASK, "tasks SET max_attempts = 0"),
    ("tasks_max_crashes_check", TASK, "tasks SET max_crashes = 0"),
    ("tasks_retain_check", TASK, "tasks SET retain_completed = '0'"),
    ("tasks_retain_check", TASK, "tasks SET retain_failed = '-1 s'"),
    ("retention_walk_singleton_check", NOTHING, "retention_walk SET singleton = false"),
    ("retention_walk_walks_check", NOTHING, "retention_walk SET walks = -1"),
    ("queues_name_check", QUEUE, "queues SET name = 'Mail'"),
    ("steps_life_check", STEP, "steps SET key = ''"),
    ("steps_life_check", STEP, "steps SET key = repeat('a', 513)"),
    ("steps_life_check", STEP, "steps SET kind = 'nap'"),
    *(
        ("steps_life_check", STEP, f"steps SET pending = true, kind = '{kind}'")
        for kind in StepKind
        if not kind.waits
    ),
    ("steps_life_check", WAIT, "steps SET result = '1'"),
    ("steps_life_check", WAIT, "steps SET ended_at = now()"),
    ("steps_life_check", WAIT, f"steps SET event_id = '{ID}'"),
    ("steps_life_check", STEP, "steps SET error = 'no'"),
    ("steps_life_check", STEP, "steps SET error_type = 'ValueError'"),
    ("steps_life_check", STEP, "steps SET error = 'no', error_type = 'E', result = '1'"),
    ("events_input_check", EVENT, "events SET name = ''"),
    ("events_input_check", EVENT, "events SET name = '1st'"),
    ("events_input_check", EVENT, "events SET name = repeat('a', 129)"),
    ("events_input_check", EVENT, "events SET payload = to_jsonb(repeat('a', 8388609))"),
    ("schema_gate_floor_check", NOTHING, "schema_gate SET floor = 2"),
    ("schema_gate_floor_check", NOTHING, "schema_gate SET floor = -1"),
    ("schema_gate_lease_check", NOTHING, "schema_gate SET lease_pid = 1"),
    ("schema_gate_lease_check", NOTHING, "schema_gate SET intent_floor = 1"),
    ("schema_gate_lease_check", NOTHING, "schema_gate SET intent_expires_at = now()"),
    ("schema_gate_singleton_check", NOTHING, "schema_gate SET singleton = false"),
    ("schema_migrations_version_check", NOTHING, "schema_migrations SET version = 0"),
]


@pytest.fixture(scope="module")
def database(server: Server, template: str) -> Iterator[psycopg.Connection[Row]]:
    """One database for all: nothing in here commits."""
    with server.database(template) as name, connect(server.url_for(name)) as connection:
        connection.autocommit = False
        yield connection


@pytest.fixture
def db(database: psycopg.Connection[Row]) -> Iterator[psycopg.Connection[Row]]:
    yield database
    database.rollback()


def execution_in(db: psycopg.Connection[Row], state: str) -> None:
    db.execute(
        f"INSERT INTO pgconductor.executions (id, task_key) VALUES ('{ID}', 'send');"
        f"UPDATE pgconductor.executions SET {STATES[state]}".encode()
    )


def refused(db: psycopg.Connection[Row], statement: str) -> str:
    with pytest.raises(psycopg.errors.CheckViolation) as caught:
        db.execute(statement.encode())
    assert caught.value.sqlstate == "23514"
    name = caught.value.diag.constraint_name
    assert name is not None
    return name


@pytest.mark.parametrize("state", STATES)
def test_a_right_row_is_accepted(db: psycopg.Connection[Row], state: str) -> None:
    execution_in(db, state)


@pytest.mark.parametrize(("constraint", "state", "change"), EXECUTIONS)
def test_a_half_finished_execution_is_refused(
    db: psycopg.Connection[Row], constraint: str, state: str, change: str
) -> None:
    execution_in(db, state)
    found = refused(db, f"UPDATE pgconductor.executions SET {change}")
    # Where a row breaks several rules, Postgres names the first by name.
    assert found == f"executions_{constraint}_check"


@pytest.mark.parametrize(("constraint", "before", "change"), OTHERS)
def test_a_wrong_row_of_another_table_is_refused(
    db: psycopg.Connection[Row], constraint: str, before: str, change: str
) -> None:
    db.execute(before.encode())
    assert refused(db, f"UPDATE pgconductor.{change}") == constraint


def test_every_constraint_is_tried(db: psycopg.Connection[Row]) -> None:
    found = db.execute(
        "SELECT conname::text FROM pg_constraint"
        " WHERE connamespace = 'pgconductor'::regnamespace AND contype = 'c'"
    )
    tried = {f"executions_{constraint}_check" for constraint, _, _ in EXECUTIONS}
    assert {row[0] for row in found} == tried | {constraint for constraint, _, _ in OTHERS}


@pytest.mark.parametrize("column", NOT_NULL)
def test_a_column_that_must_not_be_null(db: psycopg.Connection[Row], column: str) -> None:
    execution_in(db, "available")
    with pytest.raises(psycopg.errors.NotNullViolation):
        db.execute(
            sql.SQL("UPDATE pgconductor.executions SET {} = NULL").format(sql.Identifier(column))
        )


@pytest.mark.parametrize(
    "change",
    [
        "queue = repeat('a', 48)",
        "queue = 'a-b_9'",
        "task_key = repeat('a', 128)",
        "task_key = '_A.b:c/d-9'",
        "dedupe_key = repeat('a', 512)",
        "priority = -32767",
        "priority = 32767",
        "run_at = '8999-12-31'",
        "attempts = 3",
        "payload = to_jsonb(repeat('a', 8388000))",
    ],
)
def test_the_limits_themselves_are_accepted(db: psycopg.Connection[Row], change: str) -> None:
    execution_in(db, "available")
    db.execute(f"UPDATE pgconductor.executions SET {change}".encode())


def test_steps_belong_to_an_execution(db: psycopg.Connection[Row]) -> None:
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        db.execute(
            "INSERT INTO pgconductor.steps (execution_id, key) VALUES (gen_random_uuid(), 'step')"
        )


def test_steps_go_with_their_execution(db: psycopg.Connection[Row]) -> None:
    """I10, C: collected history never replays a stale step."""
    db.execute(STEP.encode())
    db.execute("DELETE FROM pgconductor.executions")
    assert db.execute("SELECT count(*) FROM pgconductor.steps").fetchone() == (0,)


def test_a_step_is_recorded_once(db: psycopg.Connection[Row]) -> None:
    """I4: at most one recorded result."""
    db.execute(STEP.encode())
    with pytest.raises(psycopg.errors.UniqueViolation):
        db.execute(f"INSERT INTO pgconductor.steps VALUES ('{ID}', 'step')".encode())


@pytest.mark.parametrize("state", STATES)
def test_one_unfinished_execution_of_a_dedupe_key(db: psycopg.Connection[Row], state: str) -> None:
    """I8: whatever the code does, the database holds it."""
    execution_in(db, state)
    db.execute("UPDATE pgconductor.executions SET dedupe_key = 'k'")
    second = (
        "INSERT INTO pgconductor.executions (id, task_key, dedupe_key)"
        " VALUES (gen_random_uuid(), 'send', 'k')"
    )
    if state in {"completed", "failed", "cancelled"}:
        db.execute(second.encode())
    else:
        with pytest.raises(psycopg.errors.UniqueViolation) as caught:
            db.execute(second.encode())
        assert caught.value.diag.constraint_name == "executions_dedupe_key"
