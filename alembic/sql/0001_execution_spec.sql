CREATE TYPE pgconductor.execution_spec AS (
    task_key text,
    queue text,
    payload jsonb,
    run_at timestamptz,
    dedupe_key text,
    dedupe_seconds integer,
    dedupe_next_slot boolean,
    cron_expression text,
    priority integer
)
