"""The statements that lock or decide, one file each, readable as they are.

Every parameter is bound and cast in the text, so that asyncpg and psycopg send the same types.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from sqlalchemy import TextClause, text

__all__ = [
    "ANNOUNCE",
    "BEATS",
    "COMPLETE",
    "COMPLETE_RESULTS",
    "DECIDE_FIRST",
    "DECLARE_QUEUES",
    "DECLARE_TASKS",
    "DUE_WAITS",
    "EMIT",
    "FAMILY",
    "FETCH",
    "FETCH_AFTER",
    "FLEET",
    "FORK",
    "HEALTH_CATALOG",
    "HEALTH_HIDDEN",
    "HEALTH_HOLDERS",
    "HEALTH_INDEXES",
    "HEALTH_NOTIFICATIONS",
    "HEALTH_OVERDUE",
    "HEALTH_SEARCH_PATH",
    "HEALTH_SERVER",
    "HEALTH_STUCK",
    "HEALTH_TABLES",
    "HEALTH_WALK",
    "HEARTBEAT",
    "INSTALL_LOCK",
    "INVOKE",
    "INVOKE_ALIKE",
    "INVOKE_ONE",
    "LEASE_END_HOLDER",
    "LEASE_HOLDER",
    "LEASE_NOTE",
    "LEASE_RELEASE",
    "LEASE_TAKE",
    "LOCK_HOLDERS",
    "LOCK_ORCHESTRATOR",
    "LOCK_RUNNING",
    "LOCK_STALE",
    "LOOK_AGAIN",
    "MARK_AWAITED",
    "MARK_MATCHED",
    "ORPHANS",
    "PREFLIGHT",
    "RECORD_STEP",
    "RECORD_STEPS",
    "REGISTER",
    "REGISTERED",
    "REMOVE_EVENTS",
    "REMOVE_EXPIRED",
    "REMOVE_ORCHESTRATOR",
    "REQUEST_SHUTDOWN",
    "RETRY",
    "SCHEMA_HISTORY",
    "SCHEMA_STATUS",
    "SETTLE",
    "SHARE_GATE",
    "START_STEPS",
    "TAKE_BACK",
    "VERSION_HEADS",
    "WAITED_FOR",
    "WAITING",
]


def _read(name: str) -> str:
    return (files(__name__) / f"{name}.sql").read_text(encoding="utf-8")


def _load(name: str) -> TextClause:
    return text(_read(name))


def _load_fetch_after() -> TextClause:
    whole, condition = "e.queue = CAST(:queue AS text)", _read("fetch_after").strip()
    return text(_read("fetch").replace(whole, condition))


ANNOUNCE: Final = _load("announce")
BEATS: Final = _load("beats")
COMPLETE: Final = _load("complete")
COMPLETE_RESULTS: Final = _load("complete_results")
DECIDE_FIRST: Final = _load("decide_first")
DECLARE_QUEUES: Final = _load("declare_queues")
DECLARE_TASKS: Final = _load("declare_tasks")
DUE_WAITS: Final = _load("due_waits")
EMIT: Final = _load("emit")
FAMILY: Final = _load("family")
FETCH: Final = _load("fetch")
FETCH_AFTER: Final = _load_fetch_after()
FLEET: Final = _load("fleet")
FORK: Final = _load("fork")
HEALTH_CATALOG: Final = _load("health_catalog")
HEALTH_HIDDEN: Final = _load("health_hidden")
HEALTH_HOLDERS: Final = _load("health_holders")
HEALTH_INDEXES: Final = _load("health_indexes")
HEALTH_NOTIFICATIONS: Final = _load("health_notifications")
HEALTH_OVERDUE: Final = _load("health_overdue")
HEALTH_SEARCH_PATH: Final = _load("health_search_path")
HEALTH_SERVER: Final = _load("health_server")
HEALTH_STUCK: Final = _load("health_stuck")
HEALTH_TABLES: Final = _load("health_tables")
HEALTH_WALK: Final = _load("health_walk")
HEARTBEAT: Final = _load("heartbeat")
INSTALL_LOCK: Final = _load("install_lock")
INVOKE: Final = _load("invoke")
INVOKE_ALIKE: Final = _load("invoke_alike")
INVOKE_ONE: Final = _load("invoke_one")
LEASE_END_HOLDER: Final = _load("lease_end_holder")
LEASE_HOLDER: Final = _load("lease_holder")
LEASE_NOTE: Final = _load("lease_note")
LEASE_RELEASE: Final = _load("lease_release")
LEASE_TAKE: Final = _load("lease_take")
LOCK_HOLDERS: Final = _load("lock_holders")
LOCK_ORCHESTRATOR: Final = _load("lock_orchestrator")
LOCK_RUNNING: Final = _load("lock_running")
LOCK_STALE: Final = _load("lock_stale")
LOOK_AGAIN: Final = _load("look_again")
MARK_AWAITED: Final = _load("mark_awaited")
MARK_MATCHED: Final = _load("mark_matched")
ORPHANS: Final = _load("orphans")
PREFLIGHT: Final = _load("preflight")
RECORD_STEP: Final = _load("record_step")
RECORD_STEPS: Final = _load("record_steps")
REGISTER: Final = _load("register")
REGISTERED: Final = _load("registered")
REMOVE_EVENTS: Final = _load("remove_events")
REMOVE_EXPIRED: Final = _load("remove_expired")
REMOVE_ORCHESTRATOR: Final = _load("remove_orchestrator")
REQUEST_SHUTDOWN: Final = _load("request_shutdown")
RETRY: Final = _load("retry")
SCHEMA_HISTORY: Final = _load("schema_history")
SCHEMA_STATUS: Final = _load("schema_status")
SETTLE: Final = _load("settle")
SHARE_GATE: Final = _load("share_gate")
START_STEPS: Final = _load("start_steps")
TAKE_BACK: Final = _load("take_back")
VERSION_HEADS: Final = _load("version_heads")
WAITED_FOR: Final = _load("waited_for")
WAITING: Final = _load("waiting")
