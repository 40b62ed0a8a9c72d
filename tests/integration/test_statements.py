"""A1, A7, A2: every statement fits the migrated schema, and names no schema but ours.

The search path is empty throughout, so that what is not qualified is not found.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import TextClause, event
from sqlalchemy.dialects.postgresql.asyncpg import dialect
from sqlalchemy.ext.asyncio import create_async_engine

from pgconductor import sql
from pgconductor.domain.claims import Claim
from pgconductor.domain.invocations import DedupeScope, Invocation
from pgconductor.domain.orchestrators import Beat
from pgconductor.domain.outcomes import (
    Completed,
    Failed,
    Failure,
    Outcome,
    Released,
    Suspended,
)
from pgconductor.domain.retention import Retention
from pgconductor.domain.revisions import KNOWN_REVISION
from pgconductor.domain.snapshots import ExecutionFilter
from pgconductor.domain.steps import ChildSpec, Decision, StepKind, StepRecord, StepStart
from pgconductor.domain.tasks import TaskOptions
from pgconductor.domain.waiting import WaitingPlace
from pgconductor.exceptions import OwnershipLost
from pgconductor.repositories import Repositories, protocols, sql_repositories
from pgconductor.schema import script_location
from pgconductor.types import ExecutionState
from tests.integration.raw_sql import connected

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

FILES = sorted((script_location() / "sql").iterdir())
NAMES = sorted(sql.__all__)
NOW = datetime(2030, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
CLAIM = Claim(uuid4(), 1)
OUTCOMES: list[Outcome] = [
    Completed(uuid4(), CLAIM, "{}"),
    Failed(uuid4(), CLAIM, Failure("ValueError", "no", "stack"), SECOND),
    Released(uuid4(), CLAIM),
    Suspended(uuid4(), CLAIM, 1),
]
STARTS = [
    StepStart(execution_id=uuid4(), claim=CLAIM, key="a", kind=StepKind.SLEEP, delay=SECOND),
    StepStart(
        execution_id=uuid4(),
        claim=CLAIM,
        key="b",
        kind=StepKind.CHILD,
        detail="send",
        text="1",
        child=ChildSpec(uuid4(), "q"),
    ),
]
NEXT = DedupeScope.UNSTARTED
INVOCATIONS = [
    Invocation(task_key="send", payload="{}", run_at=NOW, dedupe_key="a"),
    Invocation(task_key="send", delay=SECOND, priority=1, max_attempts=1, max_crashes=1),
    Invocation(task_key="send", dedupe_key="b", dedupe_scope=DedupeScope.RETAINED),
    *(
        Invocation(
            task_key="send",
            dedupe_key="c",
            dedupe_scope=DedupeScope.UNSTARTED,
            dedupe_replace=again,
        )
        for again in (False, True)
    ),
]
EVERYTHING = ExecutionFilter(
    states=tuple(ExecutionState), task_key="send", queue="q", created_after=NOW, created_before=NOW
)


async def recorded(repositories: Repositories) -> None:
    with pytest.raises(OwnershipLost):
        await repositories.steps.record(StepRecord(uuid4(), CLAIM, "step", "{}"))


async def decided(repositories: Repositories) -> None:
    step = StepRecord(uuid4(), CLAIM, "first", "{}", kind=StepKind.FIRST)
    with pytest.raises(OwnershipLost):
        await repositories.steps.decide(Decision(step, ("a", "b")))


async def added(repositories: Repositories) -> None:
    await repositories.executions.add_many(INVOCATIONS)
    await repositories.executions.add_many([Invocation(task_key="send", payload="1")])
    await repositories.executions.add_many(
        [Invocation(task_key="send"), Invocation(task_key="send")]
    )


async def emitted(repositories: Repositories) -> None:
    await repositories.steps.emit("paid", "{}")
    for created in (True, False):
        assert (await repositories.steps.emit("paid", "{}", "k")).created is created


# Each method of each repository, so that each statement that one builds is seen.
CALLS: dict[str, Callable[[Repositories], Awaitable[Any]]] = {
    "executions.add_many": added,
    "executions.announce": lambda all_: all_.executions.announce({"q"}),
    "executions.which_exist": lambda all_: all_.executions.which_exist([uuid4(), uuid4()]),
    "executions.fetch": lambda all_: all_.executions.fetch(CLAIM, "q", limit=1, task_keys=["a"]),
    "executions.complete": lambda all_: all_.executions.complete(OUTCOMES),
    "executions.held": lambda all_: all_.executions.held(uuid4()),
    "executions.take_back": lambda all_: all_.executions.take_back(uuid4(), limit=1, crashed=True),
    "executions.orphan_owners": lambda all_: all_.executions.orphan_owners(),
    "executions.cancel": lambda all_: all_.executions.cancel(uuid4(), "why"),
    "executions.retry": lambda all_: all_.executions.retry(uuid4(), from_scratch=True),
    "executions.fork": lambda all_: all_.executions.fork(uuid4()),
    "executions.family": lambda all_: all_.executions.family(uuid4(), depth=2),
    "executions.steps_of": lambda all_: all_.executions.steps_of([uuid4()], limit=9, pending=True),
    "executions.waiting": lambda all_: all_.executions.waiting(
        queue="q", task_key="a", limit=9, waits=3, after=WaitingPlace(NOW, uuid4())
    ),
    "executions.get_one_or_none": lambda all_: all_.executions.get_one_or_none(uuid4()),
    "executions.progress_or_none": lambda all_: all_.executions.progress_or_none(uuid4()),
    "executions.list": lambda all_: all_.executions.list(EVERYTHING, limit=1, after=uuid4()),
    "executions.count": lambda all_: all_.executions.count(EVERYTHING),
    "executions.mark_awaited": lambda all_: all_.executions.mark_awaited(uuid4()),
    "orchestrators.add": lambda all_: all_.orchestrators.add(
        uuid4(),
        version="1",
        schema_version=KNOWN_REVISION,
        schema_required=1,
        hostname="here",
        pid=1,
        queues=["q"],
    ),
    "orchestrators.heartbeat": lambda all_: all_.orchestrators.heartbeat(uuid4()),
    "orchestrators.beats": lambda all_: all_.orchestrators.beats(None, stale_after=SECOND),
    "orchestrators.lock_stale": lambda all_: all_.orchestrators.lock_stale(
        Beat(uuid4(), 1, True), stale_after=SECOND
    ),
    "orchestrators.lock": lambda all_: all_.orchestrators.lock(uuid4()),
    "orchestrators.remove": lambda all_: all_.orchestrators.remove(uuid4()),
    "orchestrators.request_shutdown": lambda all_: all_.orchestrators.request_shutdown(
        reason="why", orchestrator_id=uuid4(), below_version=1
    ),
    "orchestrators.list": lambda all_: all_.orchestrators.list(),
    "orchestrators.members": lambda all_: all_.orchestrators.members(),
    "tasks.declare_many": lambda all_: all_.tasks.declare_many([TaskOptions("send")]),
    "tasks.keys": lambda all_: all_.tasks.keys(),
    "queues.declare_many": lambda all_: all_.queues.declare_many(["q"]),
    "queues.names": lambda all_: all_.queues.names(),
    "steps.record": recorded,
    "steps.decide": decided,
    "steps.record_many": lambda all_: all_.steps.record_many(
        [StepRecord(uuid4(), CLAIM, "a", "1"), StepRecord(uuid4(), CLAIM, "b")]
    ),
    "steps.start_many": lambda all_: all_.steps.start_many(STARTS),
    "steps.histories": lambda all_: all_.steps.histories([uuid4(), uuid4()]),
    "steps.settle": lambda all_: all_.steps.settle({uuid4(): None, uuid4(): 1}),
    "steps.due": lambda all_: all_.steps.due(limit=9),
    "steps.mark_matched": lambda all_: all_.steps.mark_matched([uuid4()]),
    "steps.emit": emitted,
    "schema.status": lambda all_: all_.schema.status(),
    "retention.remove_events": lambda all_: all_.retention.remove_events(SECOND, limit=9),
    "retention.remove_expired": lambda all_: all_.retention.remove_expired(Retention(), limit=9),
}

# Each function of ours that SQL can call.
FUNCTIONS = {
    "notify": "SELECT pgconductor.notify('pgconductor_waits', '')",
    "clock": "SELECT pgconductor.clock()",
    "wall_clock": "SELECT pgconductor.wall_clock()",
    "uuidv7": "SELECT pgconductor.uuidv7()",
    "retained_execution": "SELECT pgconductor.retained_execution('send', 'q', 'k')",
    "invoke": "SELECT * FROM pgconductor.invoke('send', 'q', '{}', now(), 'k')",
    "invoke_batch": (
        "SELECT * FROM pgconductor.invoke_batch(ARRAY[ROW('send', NULL, NULL, NULL, NULL, NULL,"
        " NULL, NULL, NULL)::pgconductor.execution_spec])"
    ),
    "invoke_executions": (
        "SELECT * FROM pgconductor.invoke_executions(ARRAY[gen_random_uuid()], '{send}', '{q}',"
        " '{NULL}', '{NULL}', '{NULL}', '{0}', '{k}', '{retained}', '{f}', '{NULL}', '{NULL}')"
    ),
    "join_unstarted": (
        "SELECT * FROM pgconductor.join_unstarted('{1}', '{}', ARRAY[gen_random_uuid()], '{send}',"
        " '{q}', '{NULL}', '{NULL}', '{NULL}', '{0}', '{k}', '{unstarted}', '{t}')"
    ),
    "cancel_execution": "SELECT pgconductor.cancel_execution(gen_random_uuid(), 'why')",
    "settle": "SELECT * FROM pgconductor.settle(ARRAY[gen_random_uuid()], '{NULL}', NULL)",
    "match_events": "SELECT * FROM pgconductor.match_events(ARRAY[gen_random_uuid()], NULL)",
    "emit_event": "SELECT pgconductor.emit_event('paid', '{}', 'k')",
}


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with connected(database_url, search_path="") as connection:
        yield connection


def compiled(statement: TextClause) -> str:
    return str(statement.compile(dialect=dialect()))  # type: ignore[no-untyped-call]


# --- they fit the schema -------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
async def test_every_statement_prepares(connection: Connection, name: str) -> None:
    """A1, A7."""
    statement: TextClause = getattr(sql, name)
    prepared = await connection.prepare(compiled(statement))
    # Every parameter has a type that the text gives it, whatever the driver would guess.
    assert len(prepared.get_parameters()) == len(statement.compile().params)


def test_every_file_is_loaded() -> None:
    (folder,) = sql.__path__
    assert sorted(path.stem.upper() for path in Path(folder).glob("*.sql")) == NAMES


def test_every_method_of_every_repository_is_called() -> None:
    fields: dict[str, str] = Repositories.__annotations__
    expected = {
        f"{field}.{name}"
        for field, annotation in fields.items()
        for name, _ in inspect.getmembers(getattr(protocols, annotation), inspect.isfunction)
        if not name.startswith("_")
    }
    assert expected == set(CALLS)


NO_SEARCH_PATH: dict[str, dict[str, Any]] = {
    "asyncpg": {"server_settings": {"search_path": ""}},
    "psycopg": {"options": "-c search_path="},
}


@pytest.mark.parametrize("driver", NO_SEARCH_PATH)
@pytest.mark.parametrize("name", CALLS)
async def test_every_statement_of_a_repository_executes(
    database_url: str, name: str, driver: str
) -> None:
    """A1, A7: those of the query builder included; every driver sends the same types."""
    url = database_url.replace("+asyncpg", f"+{driver}", 1)
    engine = create_async_engine(url, connect_args=NO_SEARCH_PATH[driver])
    seen: list[str] = []

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def collect(_1: Any, _2: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    async with engine.begin() as connection:
        await CALLS[name](sql_repositories(connection))
    await engine.dispose()
    assert seen
    assert not [statement for statement in seen if foreign(statement)]


async def test_every_function_executes(connection: Connection) -> None:
    """A1, A7: Postgres checks the bodies of functions no earlier than this."""
    found = await connection.fetch(
        "SELECT proname::text FROM pg_proc WHERE pronamespace = 'pgconductor'::regnamespace"
    )
    assert {row["proname"] for row in found} == set(FUNCTIONS)
    for statement in FUNCTIONS.values():
        async with connection.transaction():
            await connection.fetch(statement)


async def test_every_server_default_evaluates(connection: Connection) -> None:
    await connection.execute("INSERT INTO pgconductor.queues (name) VALUES ('q')")
    await connection.execute(
        "INSERT INTO pgconductor.executions (id, task_key) VALUES (gen_random_uuid(), 'send')"
    )
    await connection.execute(
        "INSERT INTO pgconductor.orchestrators"
        " (id, version, schema_version, schema_required, hostname, pid)"
        " VALUES (gen_random_uuid(), '1', 1, 1, 'here', 1)"
    )
    row = await connection.fetchrow("SELECT * FROM pgconductor.executions")
    assert row is not None
    assert (row["queue"], row["state"], row["priority"], row["attempts"]) == (
        "default",
        "available",
        0,
        0,
    )
    assert row["run_at"] == row["created_at"]


# --- they name no other schema -------------------------------------------------------------------


def bare(text: str) -> str:
    """A statement without its comments and literals."""
    return re.sub(r"--[^\n]*|'(?:[^']|'')*'", "", text)


def foreign(text: str) -> set[str]:
    """The schemas that a statement names beside ours and Postgres' own.

    A qualifier is a schema's where a relation, a type or a function must stand; elsewhere it is an
    alias.
    """
    body = bare(text)
    relations = re.findall(
        r"\b(?:FROM|JOIN|INTO|UPDATE|USING|TABLE|ONLY|TYPE|FUNCTION|REFERENCES)\s+\"?(\w+)\"?\s*\.",
        body,
        re.IGNORECASE,
    )
    functions = re.findall(r"\b(\w+)\"?\.\"?\w+\"?\s*\(", body)
    types = re.findall(r"(?:::|\bAS\s+)\"?(\w+)\"?\.\"?\w+", body)
    return {*relations, *functions, *types} - {"pgconductor", "pg_catalog"}


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1 FROM public.executions",
        "SELECT 1 FROM a JOIN public.executions ON true",
        "SELECT extensions.uuid_generate_v7()",
        "SELECT 'x'::other.kind",
        "SELECT CAST(1 AS other.kind)",
        'DELETE FROM a USING "graphile_worker".tasks',
        "INSERT INTO pgboss.job VALUES (1)",
        "UPDATE pgconductor_old.executions e SET state = e.state",
    ],
)
def test_the_scan_finds_a_foreign_schema(text: str) -> None:
    assert foreign(text)


def test_the_scan_leaves_aliases_alone() -> None:
    assert not foreign(
        "UPDATE pgconductor.executions e SET state = h.state, x = 'FROM public.t' -- public.f(1)\n"
        "FROM held h WHERE e.id = h.id AND h.id IN (SELECT o.id FROM o)"
    )


@pytest.mark.parametrize("name", NAMES)
def test_no_statement_names_a_foreign_schema(name: str) -> None:
    """A7."""
    assert not foreign(str(getattr(sql, name)))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_sql_file_names_a_foreign_schema(path: Path) -> None:
    """A7."""
    assert not foreign(path.read_text(encoding="utf-8"))


async def test_no_function_names_a_foreign_schema(connection: Connection) -> None:
    """A7: as they lie in the database, whatever the files say."""
    for row in await connection.fetch(
        "SELECT proname::text, prosrc FROM pg_proc WHERE pronamespace = 'pgconductor'::regnamespace"
    ):
        assert not foreign(row["prosrc"]), row["proname"]


async def test_functions_are_what_they_should_be(connection: Connection) -> None:
    """No privileges but the caller's; a fixed search path, save where the planner must inline."""
    rows = await connection.fetch(
        "SELECT p.proname::text AS name, l.lanname::text AS language, p.prosecdef, p.proconfig,"
        " p.provolatile::text AS volatility"
        " FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang"
        " WHERE p.pronamespace = 'pgconductor'::regnamespace"
    )
    fixed = ["search_path=pg_catalog, pg_temp"]
    inlined = {"notify", "clock", "wall_clock", "uuidv7", "retained_execution"}
    for row in rows:
        assert not row["prosecdef"]
        assert row["proconfig"] == (None if row["name"] in inlined else fixed), row["name"]
        assert row["language"] in ({"sql"} if row["name"] in inlined else {"sql", "plpgsql"})
    volatility = {row["name"]: row["volatility"] for row in rows}
    # A stable clock can be an index condition; a volatile one is called for each row.
    assert volatility["clock"] == volatility["retained_execution"] == "s"
    assert {volatility[name] for name in ("wall_clock", "uuidv7", "invoke")} == {"v"}


async def test_functions_heed_no_search_path(connection: Connection) -> None:
    """What a user has put in front of pg_catalog is not called."""
    await connection.execute(
        "CREATE SCHEMA evil;"
        "CREATE FUNCTION evil.raised() RETURNS text LANGUAGE plpgsql AS"
        " $$BEGIN RAISE 'called'; END$$;"
        "CREATE FUNCTION evil.floor(numeric) RETURNS numeric LANGUAGE sql AS"
        " 'SELECT evil.raised()::numeric';"
        "CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS"
        " 'SELECT evil.raised()::timestamptz';"
        "CREATE FUNCTION evil.pg_notify(text, text) RETURNS void LANGUAGE sql AS"
        " 'SELECT evil.raised()';"
        "CREATE TABLE evil.executions (id uuid);"
        "SET search_path = evil, pg_catalog"
    )
    for statement in FUNCTIONS.values():
        await connection.fetch(statement.replace("now()", "pg_catalog.now()"))
