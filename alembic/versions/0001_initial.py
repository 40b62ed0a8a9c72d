"""executions, steps, tasks, queues, orchestrators, the gate and the ledger

Revision ID: 0001
Revises:
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from pgconductor.schema import applying, reverting, sql_file

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

name = "initial"
# Nothing older can be at work on a database without this revision.
breaking = False

TABLES = (
    "steps",
    "events",
    "executions",
    "orchestrators",
    "tasks",
    "queues",
    "schema_gate",
    "schema_migrations",
    "retention_walk",
)
BEFORE_TABLES = ("notify", "clock", "wall_clock", "uuidv7", "execution_spec")
AFTER_TABLES = (
    "retained_execution",
    "join_unstarted",
    "invoke_executions",
    "invoke_batch",
    "invoke",
    "match_events",
    "settle",
    "cancel_execution",
    "emit_event",
)


# A copy of what the models say: a revision does not change when they do.
OFTEN_VACUUMED = {
    "autovacuum_vacuum_threshold": "10000",
    "autovacuum_vacuum_scale_factor": "0.01",
    "autovacuum_vacuum_cost_delay": "2",
    "autovacuum_vacuum_cost_limit": "2000",
    "autovacuum_analyze_threshold": "10000",
    "autovacuum_analyze_scale_factor": "0.02",
}


# Names are final (op.f): a naming convention, ours or an application's, must not lengthen them.


def upgrade() -> None:
    with applying(op, revision, name=name, breaking=breaking):
        for part in BEFORE_TABLES:
            op.execute(sql_file(f"{revision}_{part}.sql"))
        create_executions()
        create_the_rest()
        create_steps()
        create_events()
        create_gate()
        for part in AFTER_TABLES:
            op.execute(sql_file(f"{revision}_{part}.sql"))


def downgrade() -> None:
    with reverting(op, revision, name=name, breaking=breaking):
        for function in reversed(AFTER_TABLES):
            op.execute(f"DROP FUNCTION pgconductor.{function}")
        for table in TABLES:
            op.drop_table(table, schema="pgconductor")
        op.execute("DROP TYPE pgconductor.execution_spec")
        for function in ("uuidv7", "wall_clock", "clock", "notify"):
            op.execute(f"DROP FUNCTION pgconductor.{function}")


def instant(column: str, *, default: str | None = None) -> sa.Column[datetime]:
    """A column of instants; one that has a default is never null."""
    return sa.Column(
        column,
        sa.DateTime(timezone=True),
        server_default=None if default is None else sa.text(default),
        nullable=default is None,
    )


def index(
    title: str, table: str, columns: list[Any], *, where: str | None = None, unique: bool = False
) -> None:
    predicate = None if where is None else sa.text(where)
    op.create_index(
        title, table, columns, unique=unique, schema="pgconductor", postgresql_where=predicate
    )


def create_executions() -> None:
    op.create_table(
        "executions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("task_key", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), server_default=sa.text("'default'"), nullable=False),
        sa.Column("state", sa.Text(), server_default=sa.text("'available'"), nullable=False),
        sa.Column("priority", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        instant("run_at", default="pgconductor.clock()"),
        sa.Column("payload", postgresql.JSONB(none_as_null=True), nullable=True),
        sa.Column("result", postgresql.JSONB(none_as_null=True), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("last_error_type", sa.Text(), nullable=True),
        sa.Column("last_error_traceback", sa.Text(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("max_attempts", sa.Integer(), server_default=sa.text("3"), nullable=False),
        sa.Column("crashes", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("max_crashes", sa.Integer(), server_default=sa.text("3"), nullable=False),
        sa.Column("dedupe_key", sa.Text(), nullable=True),
        sa.Column("dedupe_scope", sa.Text(), nullable=True),
        sa.Column("locked_by", sa.Uuid(), nullable=True),
        instant("locked_at"),
        sa.Column("claim_number", sa.BigInteger(), nullable=True),
        sa.Column("finished_by", sa.Uuid(), nullable=True),
        sa.Column("finished_claim", sa.BigInteger(), nullable=True),
        instant("cancel_requested_at"),
        sa.Column("cancel_reason", sa.Text(), nullable=True),
        sa.Column("awaited", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("parent_id", sa.Uuid(), nullable=True),
        sa.Column("parent_key", sa.Text(), nullable=True),
        sa.Column("wakes", sa.Integer(), server_default=sa.text("0"), nullable=False),
        instant("created_at", default="pgconductor.clock()"),
        instant("finished_at"),
        sa.CheckConstraint(
            "state IN ('available', 'running', 'waiting', 'completed', 'failed', 'cancelled')"
            " AND (state = 'running') = (locked_by IS NOT NULL)"
            " AND (state = 'running') = (locked_at IS NOT NULL)"
            " AND (state = 'running') = (claim_number IS NOT NULL)"
            " AND (claim_number IS NULL OR claim_number > 0)"
            " AND (state IN ('completed', 'failed', 'cancelled')) = (finished_at IS NOT NULL)"
            " AND (finished_by IS NULL OR finished_at IS NOT NULL)"
            " AND (finished_by IS NULL) = (finished_claim IS NULL)"
            " AND (result IS NULL OR state = 'completed')"
            " AND (state <> 'failed' OR last_error IS NOT NULL)"
            " AND (state <> 'cancelled' OR cancel_requested_at IS NOT NULL)"
            " AND max_attempts >= 1 AND attempts BETWEEN 0 AND max_attempts"
            " AND max_crashes >= 1 AND crashes BETWEEN 0 AND max_crashes"
            " AND wakes >= 0 AND (parent_key IS NULL OR parent_id IS NOT NULL)",
            name=op.f("executions_state_check"),
        ),
        sa.CheckConstraint(
            "queue ~ '^[a-z][a-z0-9_-]*$' AND octet_length(queue) <= 48"
            " AND task_key ~ '^[A-Za-z_][A-Za-z0-9_.:/-]*$' AND octet_length(task_key) <= 128"
            " AND priority BETWEEN -32767 AND 32767"
            " AND isfinite(run_at)"
            " AND (dedupe_key IS NULL OR octet_length(dedupe_key) BETWEEN 1 AND 512)"
            " AND (dedupe_scope IS NULL"
            " OR dedupe_key IS NOT NULL AND dedupe_scope IN ('unstarted', 'started'))"
            " AND (payload IS NULL OR pg_column_size(payload) <= 8388608)",
            name=op.f("executions_input_check"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("executions_pkey")),
        schema="pgconductor",
        postgresql_with=OFTEN_VACUUMED,
    )
    index(
        "executions_cancelling_idx",
        "executions",
        ["locked_by"],
        where="cancel_requested_at IS NOT NULL AND state = 'running'",
    )
    index(
        "executions_dedupe_finished_idx",
        "executions",
        ["task_key", "queue", "dedupe_key", "finished_at"],
        where="dedupe_key IS NOT NULL AND finished_at IS NOT NULL",
    )
    index(
        "executions_dedupe_key",
        "executions",
        [
            *("task_key", "queue", "dedupe_key"),
            sa.text("NULLIF(COALESCE(dedupe_scope, ''::text), 'started'::text)"),
        ],
        where="dedupe_key IS NOT NULL AND finished_at IS NULL",
        unique=True,
    )
    index(
        "executions_held_idx", "executions", ["locked_by", "claim_number"], where="claim_number > 0"
    )
    index("executions_parent_idx", "executions", ["parent_id"], where="parent_id IS NOT NULL")
    index(
        "executions_untold_idx",
        "executions",
        ["parent_id"],
        where="parent_key IS NOT NULL AND awaited AND finished_at IS NOT NULL",
    )
    index(
        "executions_ready_idx",
        "executions",
        ["queue", sa.text("(-priority)"), "run_at", "id"],
        where="state = 'available'",
    )


def create_the_rest() -> None:
    op.create_table(
        "orchestrators",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("schema_version", sa.Integer(), nullable=False),
        sa.Column("schema_required", sa.Integer(), nullable=False),
        sa.Column("hostname", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column(
            "queues", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False
        ),
        instant("started_at", default="pgconductor.wall_clock()"),
        instant("last_heartbeat_at", default="pgconductor.wall_clock()"),
        sa.Column("heartbeat_number", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        instant("shutdown_requested_at"),
        sa.Column("shutdown_reason", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "heartbeat_number >= 0", name=op.f("orchestrators_heartbeat_number_check")
        ),
        sa.CheckConstraint(
            "schema_required BETWEEN 1 AND schema_version",
            name=op.f("orchestrators_schema_version_check"),
        ),
        sa.CheckConstraint(
            "shutdown_reason IS NULL OR shutdown_requested_at IS NOT NULL",
            name=op.f("orchestrators_shutdown_check"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("orchestrators_pkey")),
        schema="pgconductor",
        postgresql_with={
            "fillfactor": "50",
            "autovacuum_vacuum_threshold": "500",
            "autovacuum_vacuum_scale_factor": "0",
        },
    )
    op.create_table(
        "queues",
        sa.Column("name", sa.Text(), nullable=False),
        instant("created_at", default="pgconductor.clock()"),
        sa.CheckConstraint("name ~ '^[a-z][a-z0-9_-]{0,47}$'", name=op.f("queues_name_check")),
        sa.PrimaryKeyConstraint("name", name=op.f("queues_pkey")),
        schema="pgconductor",
    )
    op.create_table(
        "retention_walk",
        sa.Column("singleton", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("walks", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("walked_to", sa.Uuid(), nullable=True),
        instant("started_at"),
        instant("next_walk_at", default="pgconductor.clock()"),
        sa.CheckConstraint("singleton", name=op.f("retention_walk_singleton_check")),
        sa.CheckConstraint("walks >= 0", name=op.f("retention_walk_walks_check")),
        sa.PrimaryKeyConstraint("singleton", name=op.f("retention_walk_pkey")),
        schema="pgconductor",
    )
    op.execute("INSERT INTO pgconductor.retention_walk DEFAULT VALUES")
    op.create_table(
        "tasks",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("max_crashes", sa.Integer(), nullable=False),
        sa.Column("timeout", sa.Interval(), nullable=True),
        sa.Column("retain_completed", sa.Interval(), nullable=True),
        sa.Column("retain_failed", sa.Interval(), nullable=True),
        instant("created_at", default="pgconductor.clock()"),
        instant("updated_at", default="pgconductor.clock()"),
        sa.CheckConstraint(
            "key ~ '^[A-Za-z_][A-Za-z0-9_.:/-]{0,127}$'", name=op.f("tasks_key_check")
        ),
        sa.CheckConstraint("queue ~ '^[a-z][a-z0-9_-]{0,47}$'", name=op.f("tasks_queue_check")),
        sa.CheckConstraint("max_attempts >= 1", name=op.f("tasks_max_attempts_check")),
        sa.CheckConstraint("max_crashes >= 1", name=op.f("tasks_max_crashes_check")),
        sa.CheckConstraint(
            "retain_completed > interval '0' AND retain_failed > interval '0'",
            name=op.f("tasks_retain_check"),
        ),
        sa.PrimaryKeyConstraint("key", name=op.f("tasks_pkey")),
        schema="pgconductor",
    )


def create_steps() -> None:
    op.create_table(
        "steps",
        sa.Column("execution_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), server_default=sa.text("'step'"), nullable=False),
        sa.Column("place", sa.Integer(), nullable=True),
        sa.Column("pending", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("result", postgresql.JSONB(none_as_null=True), nullable=True),
        sa.Column("error_type", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        instant("wake_at"),
        sa.Column("match", postgresql.JSONB(none_as_null=True), nullable=True),
        sa.Column("child_id", sa.Uuid(), nullable=True),
        sa.Column("event_id", sa.Uuid(), nullable=True),
        sa.Column("woke", sa.Integer(), nullable=True),
        sa.Column("looked", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=True),
        sa.Column("turn", sa.Integer(), nullable=True),
        instant("created_at", default="pgconductor.clock()"),
        instant("ended_at"),
        sa.CheckConstraint(
            "octet_length(key) >= 1 AND octet_length(key) <= 512"
            " AND kind IN ('step', 'try', 'sleep', 'child', 'spawn', 'event', 'emit', 'patch',"
            " 'first')"
            " AND (NOT pending OR kind IN ('try', 'sleep', 'child', 'event'))"
            " AND (NOT pending OR (result IS NULL AND ended_at IS NULL AND event_id IS NULL))"
            " AND (error IS NULL) = (error_type IS NULL)"
            " AND (error IS NULL OR result IS NULL)",
            name=op.f("steps_life_check"),
        ),
        sa.ForeignKeyConstraint(
            ["execution_id"],
            ["pgconductor.executions.id"],
            name=op.f("steps_execution_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("execution_id", "key", name=op.f("steps_pkey")),
        schema="pgconductor",
        postgresql_with=OFTEN_VACUUMED,
    )
    index("steps_event_idx", "steps", ["detail"], where="pending AND kind = 'event'")
    index("steps_pending_idx", "steps", ["created_at"], where="pending AND kind <> 'step'")
    index("steps_wake_idx", "steps", ["wake_at"], where="pending AND wake_at IS NOT NULL")


def create_events() -> None:
    op.create_table(
        "events",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("payload", postgresql.JSONB(none_as_null=True), nullable=True),
        sa.Column("matched", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("dedupe_key", sa.Text(), nullable=True),
        instant("emitted_at", default="pgconductor.wall_clock()"),
        sa.CheckConstraint(
            "name ~ '^[A-Za-z_][A-Za-z0-9_.:/-]*$' AND octet_length(name) <= 128"
            " AND (dedupe_key IS NULL OR octet_length(dedupe_key) BETWEEN 1 AND 512)"
            " AND (payload IS NULL OR pg_column_size(payload) <= 8388608)",
            name=op.f("events_input_check"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("events_pkey")),
        schema="pgconductor",
        postgresql_with=OFTEN_VACUUMED,
    )
    index(
        "events_dedupe_key",
        "events",
        ["name", "dedupe_key"],
        where="dedupe_key IS NOT NULL",
        unique=True,
    )
    index("events_emitted_idx", "events", ["emitted_at"])
    index("events_name_idx", "events", ["name", "emitted_at", "id"])
    index("events_unmatched_idx", "events", ["name", "emitted_at", "id"], where="NOT matched")


def create_gate() -> None:
    op.create_table(
        "schema_gate",
        sa.Column("singleton", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("installed", sa.Integer(), nullable=False),
        sa.Column("floor", sa.Integer(), nullable=False),
        sa.Column("lease_id", sa.Uuid(), nullable=True),
        sa.Column("lease_holder", sa.Text(), nullable=True),
        sa.Column("lease_pid", sa.Integer(), nullable=True),
        instant("lease_since"),
        sa.Column("lease_note", sa.Text(), nullable=True),
        sa.Column("intent_floor", sa.Integer(), nullable=True),
        sa.Column("intent_ceiling", sa.Integer(), nullable=True),
        instant("intent_expires_at"),
        sa.CheckConstraint("floor BETWEEN 0 AND installed", name=op.f("schema_gate_floor_check")),
        sa.CheckConstraint(
            "(lease_id IS NULL) = (lease_holder IS NULL)"
            " AND (lease_id IS NULL) = (lease_pid IS NULL)"
            " AND (lease_id IS NULL) = (lease_since IS NULL)"
            " AND (intent_expires_at IS NULL)"
            " = (intent_floor IS NULL AND intent_ceiling IS NULL)",
            name=op.f("schema_gate_lease_check"),
        ),
        sa.CheckConstraint("singleton", name=op.f("schema_gate_singleton_check")),
        sa.PrimaryKeyConstraint("singleton", name=op.f("schema_gate_pkey")),
        schema="pgconductor",
    )
    op.create_table(
        "schema_migrations",
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        instant("applied_at", default="clock_timestamp()"),
        sa.Column("breaking", sa.Boolean(), nullable=False),
        sa.CheckConstraint("version > 0", name=op.f("schema_migrations_version_check")),
        sa.PrimaryKeyConstraint("version", name=op.f("schema_migrations_pkey")),
        schema="pgconductor",
    )
