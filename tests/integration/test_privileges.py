"""What `pgconductor grants` prints gives each kind of role its part, and no more."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from pgconductor import Conductor, Settings, TaskContext
from pgconductor.cli import ExitCode
from pgconductor.domain.claims import Registration
from pgconductor.domain.orchestrators import StaleObserver
from pgconductor.domain.privileges import NEEDS, RoleKind
from pgconductor.exceptions import ExecutionCancelled
from pgconductor.repositories import sql_repositories
from pgconductor.repositories.errors import sqlstate
from pgconductor.services import ExecutionService, OrchestratorService, RetentionService
from tests.acceptance.test_cli_support import call
from tests.integration.runtime_world import AT_ONCE, SOON, World
from tests.integration.test_statements import CALLS, FUNCTIONS
from tests.migrations.support import alembic, execute, rows, succeeded
from tests.support.roles import Roles, made_roles
from tests.support.servers import connect

OWNER, RUNTIME, INVOKE, READ, OPERATE = RoleKind
REFUSED = "42501"


@pytest.fixture
def roles(database_url: str) -> Iterator[Roles]:
    with made_roles(database_url) as roles:
        yield roles


@pytest.fixture
def roles_on_nothing(empty_database_url: str) -> Iterator[Roles]:
    with made_roles(empty_database_url) as roles:
        yield roles


# --- each can do its part ------------------------------------------------------------------------


async def test_runtime_is_all_that_an_orchestrator_needs(roles: Roles) -> None:
    world = World(roles.make(RUNTIME))
    conductor = world.conductor()

    @conductor.task
    async def inner(ctx: TaskContext, number: int) -> int:
        return number + 1

    @conductor.task(retry=AT_ONCE, max_attempts=2)
    async def outer(ctx: TaskContext, number: int) -> int:
        if ctx.attempt == 1:
            raise ValueError(number)
        await inner.invoke(number, dedupe_key="k", dedupe_scope="retained")
        handle = await inner.invoke(number)
        return await handle.result(SOON)

    try:
        async with world.serving(conductor, concurrency=4) as orchestrator:
            assert await (await outer.invoke(1)).result(SOON) == 2
            later = await inner.invoke(1, delay=timedelta(days=1))
            assert await later.cancel("why")
            assert await conductor.executions.retry(later.id)
            (member,) = (await conductor.orchestrators.fleet()).members
            assert member.orchestrator.queues == ("default",)
            beat = await conductor.orchestrators.heartbeat(orchestrator.registration)
            assert beat.number >= 1
        assert await conductor.orchestrators.list() == []
    finally:
        await world.close()


async def test_runtime_recovers_the_dead_and_removes_the_old(roles: Roles) -> None:
    engine = create_async_engine(roles.make(RUNTIME))
    executions, orchestrators = ExecutionService(engine), OrchestratorService(engine)
    try:
        dead = await orchestrators.register()
        invoked = await executions.invoke("greet", {"name": "Ada"})
        assert [one.id for one in await executions.fetch(dead)] == [invoked.id]
        observer = StaleObserver(timedelta(0))
        recovered = await orchestrators.recover_stale(observer)
        assert recovered.orchestrators == {dead.orchestrator_id}
        assert recovered.available == 1
        assert await executions.cancel(invoked.id)
        roles.execute("UPDATE pgconductor.executions SET finished_at = now() - interval '1 year'")
        removal = await RetentionService(engine).remove_expired()
        assert removal is not None
        assert removal.removed == 1
    finally:
        await engine.dispose()


async def test_invoke_can_invoke_wait_and_cancel(roles: Roles) -> None:
    """While somebody else, who may, executes."""
    world = World(roles.url)
    serving = world.conductor()

    @serving.task("double")
    async def double(ctx: TaskContext, number: int) -> int:
        return number * 2

    url = roles.make(INVOKE)
    conductor = Conductor(Settings(database_url=SecretStr(url)))
    ref = conductor.task_ref("double", payload=int, result=int)
    try:
        async with conductor, world.serving(serving):
            assert await (await ref.invoke(1)).result(SOON) == 2
            first = await ref.invoke(2, dedupe_key="k", dedupe_scope="retained")
            assert await first.result(SOON) == 4
            again = await ref.invoke(2, dedupe_key="k", dedupe_scope="retained")
            assert (again.id, again.created) == (first.id, False)
            assert (await (await ref.invoke(3, dedupe_key="k")).result(SOON)) == 6
            await ref.invoke(0, dedupe_key="u", dedupe_scope="unstarted", delay=SOON)
            replaced = await ref.invoke(
                3, dedupe_key="u", dedupe_scope="unstarted", dedupe_replace=True
            )
            assert await replaced.result(SOON) == 6
            alike = await ref.invoke_many([4, 5])
            mixed = await ref.invoke_many([ref.invocation(6, dedupe_key="m", priority=1), 7])
            results = await asyncio.gather(*(one.result(SOON) for one in [*alike, *mixed]))
            assert results == [8, 10, 12, 14]
            assert (await mixed[0].state()).finished
            later = await ref.invoke(8, delay=timedelta(days=1))
            assert await later.cancel("changed my mind")
            with pytest.raises(ExecutionCancelled, match="changed my mind"):
                await later.result(SOON)
            async with conductor.sessionmaker() as session, session.begin():
                joined = await ref.invoke(9, session=session)
            assert await joined.result(SOON) == 18
    finally:
        await world.close()


def test_invoke_can_invoke_from_sync_sessions_and_from_sql(roles: Roles) -> None:
    url = roles.make(INVOKE)
    ref = Conductor(Settings(database_url=SecretStr(url))).task_ref("double", payload=int)
    engine = create_engine(url.replace("+asyncpg", "+psycopg"))
    with Session(engine) as session, session.begin():
        made: list[object] = [ref.invoke_sync(1, session=session).id]
        made.append(ref.invoke_sync(1, session=session, dedupe_key="k").id)
    engine.dispose()
    with connect(url) as connection:
        single = "SELECT id FROM pgconductor.invoke('double', 'q', '1', p_dedupe_key => 'sql')"
        many = (
            "SELECT id FROM pgconductor.invoke_batch(ARRAY[ROW('double', NULL, NULL, NULL, NULL,"
            " NULL, NULL, NULL, NULL)::pgconductor.execution_spec])"
        )
        for statement in (single, many):
            made += [row[0] for row in connection.execute(statement.encode())]
        cancelled = [
            connection.execute("SELECT pgconductor.cancel_execution(%s, 'why')", (one,)).fetchone()
            for one in made
        ]
    assert cancelled == [(True,)] * 4


async def register_and_fetch(url: str) -> tuple[Registration, list[Any]]:
    engine = create_async_engine(url)
    try:
        owner = await OrchestratorService(engine).register()
        return owner, await ExecutionService(engine).fetch(owner)
    finally:
        await engine.dispose()


READING_COMMANDS = (["list"], ["waiting"], ["queues"], ["fleet"], ["current"])


def test_read_can_look_at_everything(roles: Roles) -> None:
    made = call("invoke", "greet", "--payload", '"Ada"', url=roles.url).succeeds().out.strip()
    asyncio.run(register_and_fetch(roles.url))
    url = roles.make(READ)
    for command in (*READING_COMMANDS, ["show", made]):
        call(*command, "--json", url=url).succeeds()
    checks = {one["check"]: one["severity"] for one in call("doctor", "--json", url=url).json}
    ours = {"schema", "stuck executions", "overdue executions", "retention", "indexes"}
    assert {checks[name] for name in ours} == {"ok"}


def test_operate_can_cancel_retry_fork_and_emit(roles: Roles) -> None:
    made = call("invoke", "greet", url=roles.url).succeeds().out.strip()
    url = roles.make(OPERATE)
    call("cancel", made, "--reason", "why", url=url).succeeds()
    call("retry", made, "--from-scratch", url=url).succeeds()
    call("fork", made, url=url).succeeds()
    call("emit", "paid", url=url).succeeds()
    for command in (*READING_COMMANDS, ["show", made]):
        call(*command, url=url).succeeds()


@pytest.fixture(params=["owner", "member"])
def deployer(request: pytest.FixtureRequest, roles_on_nothing: Roles) -> str:
    """The URL of who migrates: the owner, or a member of an owner that cannot log in."""
    roles = roles_on_nothing
    if request.param == "owner":
        return roles.make(OWNER)
    roles.execute(roles.script(OWNER, "--create"))
    url = roles.login("deployer")
    owner, member = roles.name(OWNER), roles.name("deployer")
    roles.execute(f"GRANT {owner} TO {member}; ALTER ROLE {member} SET role = {owner}")
    return url


def test_owner_migrates_and_grants(roles_on_nothing: Roles, deployer: str) -> None:
    for command in (["upgrade", "head"], ["check"], ["downgrade", "base"], ["upgrade", "head"]):
        succeeded(alembic(*command, url=deployer))
    assert owners_of_everything(roles_on_nothing) == {roles_on_nothing.name(OWNER)}
    runtime = roles_on_nothing.login(RUNTIME.value)
    execute(deployer, roles_on_nothing.script(RUNTIME))
    asyncio.run(register_and_fetch(runtime))


def owners_of_everything(roles: Roles) -> set[str]:
    query = (
        "SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'pgconductor'"
        " UNION SELECT pg_get_userbyid(relowner) FROM pg_class"
        " WHERE relnamespace = 'pgconductor'::regnamespace"
        " UNION SELECT pg_get_userbyid(proowner) FROM pg_proc"
        " WHERE pronamespace = 'pgconductor'::regnamespace"
        " UNION SELECT pg_get_userbyid(typowner) FROM pg_type"
        " WHERE typnamespace = 'pgconductor'::regnamespace"
    )
    return {row[0] for row in rows(roles.url, query)}


def test_owner_takes_over_what_another_role_has_made(roles: Roles) -> None:
    roles.make(OWNER)
    roles.execute(roles.script(OWNER))
    assert owners_of_everything(roles) == {roles.name(OWNER)}


def test_a_later_revision_needs_no_new_grants_for_runtime_and_read(roles: Roles) -> None:
    owner = roles.make(OWNER)
    urls = {kind: roles.make(kind) for kind in (RUNTIME, INVOKE, READ, OPERATE)}
    with connect(owner) as connection:
        connection.execute("CREATE TABLE pgconductor.later (id int)")
    allowed = {
        "SELECT * FROM pgconductor.later": {RUNTIME, READ, OPERATE},
        "INSERT INTO pgconductor.later VALUES (1)": {RUNTIME},
        "UPDATE pgconductor.later SET id = 2": {RUNTIME},
        "DELETE FROM pgconductor.later": {RUNTIME},
        "TRUNCATE pgconductor.later": set[RoleKind](),
    }
    for statement, kinds in allowed.items():
        assert {kind for kind, url in urls.items() if not refused(url, statement)} == kinds


# --- and no more ---------------------------------------------------------------------------------


def refused(url: str, statement: str) -> bool:
    with connect(url) as connection:
        try:
            connection.execute(statement.encode())
        except psycopg.errors.InsufficientPrivilege:
            return True
    return False


READING = {
    "executions.get_one_or_none",
    "executions.progress_or_none",
    "executions.list",
    "executions.count",
    "executions.held",
    "executions.orphan_owners",
    "executions.which_exist",
    "executions.family",
    "executions.steps_of",
    "executions.waiting",
    # No more than a notification, which everybody may send.
    "orchestrators.beats",
    "orchestrators.list",
    "orchestrators.members",
    "tasks.keys",
    "queues.names",
    "steps.histories",
    "steps.due",
    "schema.status",
}
ALLOWED = {
    RUNTIME: set(CALLS),
    INVOKE: {
        "executions.add_many",
        "executions.announce",
        "executions.cancel",
        "executions.mark_awaited",
        "executions.progress_or_none",
        "executions.which_exist",
        "steps.emit",
        "tasks.keys",
    },
    READ: READING,
    OPERATE: READING
    | {
        "executions.announce",
        "executions.cancel",
        "executions.fork",
        "executions.mark_awaited",
        "executions.retry",
        "orchestrators.lock",
        "orchestrators.lock_stale",
        "orchestrators.request_shutdown",
        "steps.emit",
        # Who may copy steps may insert them; what is said here proves its owner.
        "steps.record",
        "steps.record_many",
    },
}


@pytest.mark.parametrize("kind", ALLOWED)
async def test_who_may_execute_which_statement(roles: Roles, kind: RoleKind) -> None:
    """Every method of every repository: it works, or the database refuses it."""
    engine = create_async_engine(roles.make(kind))
    worked: set[str] = set()
    try:
        for name, use in CALLS.items():
            async with engine.connect() as connection:
                try:
                    await use(sql_repositories(connection))
                    worked.add(name)
                except DBAPIError as error:
                    if sqlstate(error) != REFUSED:
                        raise
    finally:
        await engine.dispose()
    assert worked == ALLOWED[kind]


def each(text: str) -> tuple[str, ...]:
    """One statement a line; an indented line goes on with the one before."""
    return tuple(text.strip().replace("\n    ", " ").splitlines())


async def refused_to(url: str, kind: RoleKind) -> bool:
    """Whether anything is refused that the kind is for."""
    engine = create_async_engine(url)
    try:
        for use in [CALLS[name] for name in sorted(ALLOWED[kind])]:
            async with engine.connect() as connection:
                await use(sql_repositories(connection))
        for function in NEEDS[kind].functions:
            async with engine.connect() as connection:
                await connection.exec_driver_sql(FUNCTIONS[function])
    except DBAPIError as error:
        if sqlstate(error) == REFUSED:
            return True
        raise
    finally:
        await engine.dispose()
    return False


def pieces(kind: RoleKind) -> Iterator[str]:
    """Each privilege by itself, as GRANT and REVOKE name it."""
    for table, privileges in NEEDS[kind].tables.items():
        for privilege, _, columns in (one.strip(")").partition(" (") for one in privileges):
            for column in columns.split(", "):
                part = f" ({column})" if column else ""
                if table != "*":
                    yield f"{privilege}{part} ON pgconductor.{table}"
    for function in NEEDS[kind].functions:
        yield f"EXECUTE ON FUNCTION pgconductor.{function}"


@pytest.mark.parametrize("kind", [RUNTIME, INVOKE, OPERATE])
async def test_nothing_is_granted_that_is_not_needed(roles: Roles, kind: RoleKind) -> None:
    url, name = roles.make(kind), roles.name(kind.value)
    assert not await refused_to(url, kind)
    superfluous = []
    for piece in pieces(kind):
        roles.execute(f"REVOKE {piece} FROM {name}")
        if not await refused_to(url, kind):
            superfluous.append(piece)
        roles.execute(f"GRANT {piece} TO {name}")
    assert superfluous == []


DDL = each("""
CREATE TABLE pgconductor.mine ()
CREATE INDEX ON pgconductor.executions (task_key)
ALTER TABLE pgconductor.executions ADD COLUMN mine text
ALTER TABLE pgconductor.executions DISABLE TRIGGER ALL
CREATE TRIGGER mine BEFORE INSERT ON pgconductor.executions
    FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()
DROP TABLE pgconductor.steps
TRUNCATE pgconductor.executions, pgconductor.steps
CREATE OR REPLACE FUNCTION pgconductor.uuidv7() RETURNS uuid LANGUAGE sql AS 'SELECT NULL::uuid'
DROP FUNCTION pgconductor.invoke
DROP SCHEMA pgconductor CASCADE
CREATE SCHEMA mine
CREATE ROLE mine
UPDATE pgconductor.schema_gate SET floor = 0
UPDATE pgconductor.schema_gate SET installed = 9
DELETE FROM pgconductor.schema_gate
INSERT INTO pgconductor.schema_migrations VALUES (9, 'mine', now(), true)
DELETE FROM pgconductor.pgconductor_version
""")
# Beside what is in DDL; of these an invoker may insert and delete.
WRITING = each("""
UPDATE pgconductor.executions SET result = NULL
UPDATE pgconductor.executions SET locked_by = NULL, locked_at = NULL, claim_number = NULL
UPDATE pgconductor.executions SET max_attempts = 9
UPDATE pgconductor.orchestrators SET last_heartbeat_at = now()
UPDATE pgconductor.orchestrators SET schema_version = 99
DELETE FROM pgconductor.orchestrators
UPDATE pgconductor.tasks SET queue = 'q'
UPDATE pgconductor.retention_walk SET next_walk_at = now()
UPDATE pgconductor.steps SET pending = false
UPDATE pgconductor.events SET matched = true
DELETE FROM pgconductor.events
SELECT pgconductor.settle('{}', '{}')
INSERT INTO pgconductor.queues (name) VALUES ('q')
INSERT INTO pgconductor.steps (execution_id, key, match)
    SELECT id, 'a', '1' FROM pgconductor.executions
INSERT INTO pgconductor.tasks (key, queue, max_attempts, max_crashes) VALUES ('a', 'q', 1, 1)
""")
INVOKING = each("""
UPDATE pgconductor.executions SET payload = NULL
INSERT INTO pgconductor.executions (id, task_key) VALUES (gen_random_uuid(), 'a')
INSERT INTO pgconductor.executions (id, task_key, dedupe_key) VALUES (gen_random_uuid(), 'a', 'k')
DELETE FROM pgconductor.executions
SELECT pgconductor.invoke('a')
SELECT pgconductor.invoke_batch('{}')
""")
ELSEWHERE = each("""
SELECT * FROM application.secrets
CREATE TABLE application.mine ()
""")
FORBIDDEN = {
    OWNER: (*ELSEWHERE, "CREATE SCHEMA mine", "CREATE ROLE mine", "CREATE DATABASE mine"),
    RUNTIME: (
        *DDL,
        *ELSEWHERE,
        *each("""
UPDATE pgconductor.steps SET key = 'b'
UPDATE pgconductor.events SET payload = NULL
DELETE FROM pgconductor.tasks
DELETE FROM pgconductor.queues
DELETE FROM pgconductor.retention_walk
"""),
    ),
    INVOKE: (
        *DDL,
        *ELSEWHERE,
        *WRITING,
        *each("""
SELECT payload FROM pgconductor.executions
SELECT * FROM pgconductor.executions
SELECT last_error_traceback FROM pgconductor.executions
SELECT FROM pgconductor.executions WHERE payload = '1'
UPDATE pgconductor.executions SET awaited = true RETURNING payload
INSERT INTO pgconductor.executions (id, task_key, parent_id)
    VALUES (gen_random_uuid(), 'a', gen_random_uuid())
INSERT INTO pgconductor.executions (id, task_key, state, finished_at, cancel_requested_at)
    VALUES (gen_random_uuid(), 'a', 'cancelled', now(), now())
SELECT result FROM pgconductor.steps
SELECT payload FROM pgconductor.events
INSERT INTO pgconductor.events (id, name, matched) VALUES (gen_random_uuid(), 'a', true)
SELECT hostname FROM pgconductor.orchestrators
SELECT name FROM pgconductor.queues
SELECT installed FROM pgconductor.schema_gate
SELECT timeout FROM pgconductor.tasks
"""),
    ),
    READ: (
        *DDL,
        *ELSEWHERE,
        *WRITING,
        *INVOKING,
        *each("""
UPDATE pgconductor.executions SET awaited = true
SELECT FROM pgconductor.executions FOR KEY SHARE
SELECT pgconductor.cancel_execution(gen_random_uuid())
SELECT pgconductor.emit_event('a')
INSERT INTO pgconductor.events (id, name) VALUES (gen_random_uuid(), 'a')
DELETE FROM pgconductor.steps
"""),
    ),
    # To fork is to insert what is alike; not more of it.
    OPERATE: (*DDL, *ELSEWHERE, *WRITING, INVOKING[0], *INVOKING[2:]),
}


@pytest.mark.parametrize("kind", RoleKind)
def test_what_is_forbidden_is_refused(roles: Roles, kind: RoleKind) -> None:
    url = roles.make(kind)
    roles.execute("CREATE SCHEMA application CREATE TABLE secrets (secret text)")
    assert [one for one in FORBIDDEN[kind] if not refused(url, one)] == []


def test_the_forbidden_is_possible_for_who_may(roles: Roles) -> None:
    """Or the test above would take a mistake in a statement for a refusal."""
    roles.execute("CREATE SCHEMA application CREATE TABLE secrets (secret text)")
    statements = {one for some in FORBIDDEN.values() for one in some}
    with connect(roles.url) as admin:
        for statement in sorted(statements - {"CREATE DATABASE mine"}):
            with admin.transaction(force_rollback=True):
                admin.execute(statement.encode())


def test_what_the_docs_admit_of_invoke(roles: Roles) -> None:
    """If it can do less one day, docs/deploying.md says too much."""
    url = roles.make(INVOKE)
    end = "UPDATE pgconductor.executions SET state = 'completed', finished_at = now() WHERE id = %s"
    made = [call("invoke", "greet", url=roles.url).succeeds().out.strip() for _ in range(2)]
    with connect(url) as connection:
        assert connection.execute(end, made[:1]).rowcount == 1
        assert connection.execute("DELETE FROM pgconductor.executions").rowcount == 2
    running = call("invoke", "greet", url=roles.url).succeeds().out.strip()
    asyncio.run(register_and_fetch(roles.url))
    # Not what is running: its owner cannot be taken away.
    with connect(url) as connection, pytest.raises(psycopg.errors.CheckViolation):
        connection.execute(end, (running,))


@pytest.mark.parametrize("kind", [kind for kind in RoleKind if kind is not OWNER])
def test_a_stranger_cannot_grant(roles: Roles, kind: RoleKind) -> None:
    stranger = roles.login("stranger")
    roles.login(kind)
    assert refused(stranger, roles.script(kind))


def test_public_has_nothing(roles: Roles) -> None:
    roles.make(READ)
    stranger = roles.login("stranger")
    roles.execute(f"GRANT USAGE ON SCHEMA pgconductor TO {roles.name('stranger')}")
    assert refused(stranger, "SELECT pgconductor.clock()")
    assert refused(stranger, "SELECT FROM pgconductor.queues")


# --- names ---------------------------------------------------------------------------------------


def test_a_name_is_never_more_than_a_name(roles: Roles) -> None:
    name = roles.name("Ä\"'\\$do0$ <name>; --")
    for _ in range(2):
        roles.execute(call("grants", "--role", name, "--kind", "read", "--create").succeeds().out)
    assert holders(roles) == {name}
    roles.execute(call("grants", "--role", name, "--kind", "owner").succeeds().out)
    assert owners_of_everything(roles) == {name}


def holders(roles: Roles) -> set[str]:
    """Those that may read executions, beside superusers."""
    query = (
        "SELECT rolname FROM pg_roles WHERE NOT rolsuper AND rolname !~ '^pg_'"
        " AND has_table_privilege(oid, 'pgconductor.executions', 'SELECT')"
    )
    return {row[0] for row in rows(roles.url, query)}


def test_without_a_kind_all_are_granted(roles: Roles) -> None:
    script = call("grants", "--role", roles.name("app"), "--create").succeeds().out
    roles.execute(script)
    readers = {roles.name(f"app_{kind}") for kind in (OWNER, RUNTIME, READ, OPERATE)}
    assert holders(roles) == readers
    assert owners_of_everything(roles) == {roles.name("app_owner")}


@pytest.mark.parametrize(
    "name", ["", "a\nb", "a\0", "\ud800", "ä" * 32, "public", "none", "pg_monitor"]
)
def test_a_name_that_no_role_can_have(name: str) -> None:
    call("grants", "--role", name, "--kind", "read").fails(ExitCode.USAGE, "role: ")


# --- all of it -----------------------------------------------------------------------------------

# Who may do what with which object, as the catalogs have it. Whoever adds a table or a function
# decides in pgconductor.domain.privileges who needs it, and writes it down there.
EXPECTED = Path(__file__).with_name("privileges.txt")

IN_THE_CATALOGS = """
    SELECT 'schema' AS kind, n.nspname AS name, NULL AS part, n.nspacl AS acl, n.nspowner AS owner
    FROM pg_namespace n WHERE n.nspname = 'pgconductor'
    UNION ALL
    SELECT 'table', c.relname, NULL, c.relacl, c.relowner FROM pg_class c
    WHERE c.relnamespace = 'pgconductor'::regnamespace AND c.relkind NOT IN ('i', 'c')
    UNION ALL
    SELECT 'table', c.relname, a.attname, a.attacl, c.relowner
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relnamespace = 'pgconductor'::regnamespace AND a.attacl IS NOT NULL
    UNION ALL
    SELECT 'function', p.proname, NULL, coalesce(p.proacl, acldefault('f', p.proowner)), p.proowner
    FROM pg_proc p WHERE p.pronamespace = 'pgconductor'::regnamespace
    UNION ALL
    SELECT 'later', CASE d.defaclobjtype WHEN 'r' THEN 'tables' ELSE 'functions' END, NULL,
           d.defaclacl, d.defaclrole
    FROM pg_default_acl d
"""


def in_the_catalogs(roles: Roles) -> str:
    granted = rows(
        roles.url,
        "SELECT o.kind, o.name::text, g.privilege_type, o.part::text,"
        " CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE pg_get_userbyid(g.grantee)::text END,"
        " g.is_grantable"
        f" FROM ({IN_THE_CATALOGS}) AS o LEFT JOIN LATERAL aclexplode(o.acl) AS g"
        " ON g.grantee <> o.owner ORDER BY 1, 2, 5, 3, 4",
    )
    found: dict[str, dict[str, dict[str, list[str]]]] = {}
    for kind, name, privilege, part, role, grantable in granted:
        assert not grantable
        held = found.setdefault(f"{kind} {name}", {})
        if role is not None:
            columns = held.setdefault(role.removeprefix(roles.name("")), {}).setdefault(
                privilege, []
            )
            columns += [part] if part else []
    lines: list[str] = []
    for thing, held in found.items():
        lines.append(thing)
        for role, privileges in held.items():
            parts = [
                f"{name} ({', '.join(columns)})" if columns else name
                for name, columns in privileges.items()
            ]
            lines.append(f"    {role}: {', '.join(parts)}")
    return "".join(f"{line}\n" for line in lines)


def test_the_catalogs_say_what_is_expected(roles: Roles) -> None:
    for kind in RoleKind:
        roles.make(kind)
    granted = in_the_catalogs(roles)
    assert granted == EXPECTED.read_text(encoding="utf-8")
    for kind in RoleKind:
        roles.execute(roles.script(kind))
    assert in_the_catalogs(roles) == granted
