"""A5: only an undefined schema or table means that nothing is installed.

Every other error surfaces as itself, through the services and through Alembic, and nothing is
migrated.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from alembic import command
from psycopg import sql
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from pgconductor.dev import EmbeddedServer
from pgconductor.exceptions import (
    HistoryMismatch,
    NotPrimary,
    PrivilegeMissing,
    RevisionFailed,
    SchemaBehind,
    SchemaMissing,
)
from pgconductor.repositories.errors import is_transient, sqlstate
from pgconductor.services import ExecutionService, OrchestratorService
from tests.migrations.support import (
    add_revision,
    config_for,
    copy_of_revisions,
    current,
    execute,
    in_thread,
    ledger,
    rows,
)
from tests.support.servers import Server, chosen_binaries, connect

SCHEMA = "SELECT to_regnamespace('pgconductor')::text"


class OthersBase(DeclarativeBase):
    """The base of an application whose own migrations were not applied."""


class Forgotten(OthersBase):
    __tablename__ = "forgotten"

    id: Mapped[int] = mapped_column(primary_key=True)


async def register(url: str) -> None:
    engine = create_async_engine(url)
    try:
        await OrchestratorService(engine).register()
    finally:
        await engine.dispose()


async def schema_status(url: str) -> None:
    engine = create_async_engine(url)
    try:
        await OrchestratorService(engine).schema_status()
    finally:
        await engine.dispose()


async def invoke(url: str) -> None:
    engine = create_async_engine(url)
    try:
        await ExecutionService(engine).invoke("send")
    finally:
        await engine.dispose()


def upgrade(url: str) -> None:
    in_thread(command.upgrade, config_for(url), "head")


Action = Callable[[str], Awaitable[None]]
actions = pytest.mark.parametrize("action", [register, schema_status, invoke])


@pytest.fixture
def role(server: Server) -> Iterator[str]:
    """A role that may log in and that nothing was granted to."""
    name = f"pgc_{uuid4().hex[:12]}"
    with connect(server.url_for("postgres")) as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'x'").format(sql.Identifier(name)))
    yield name
    with connect(server.url_for("postgres")) as admin:
        admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def by(role: str, url: str) -> str:
    return make_url(url).set(username=role, password="x").render_as_string(hide_password=False)


# --- nothing is installed ------------------------------------------------------------------------


@actions
async def test_an_empty_database(empty_database_url: str, action: Action) -> None:
    with pytest.raises(SchemaMissing, match="alembic upgrade head"):
        await action(empty_database_url)
    assert rows(empty_database_url, SCHEMA) == [(None,)]


@actions
async def test_a_schema_without_tables(database_url: str, action: Action) -> None:
    in_thread(command.downgrade, config_for(database_url), "base")
    with pytest.raises((SchemaMissing, DBAPIError)) as caught:
        await action(database_url)
    # What has no table to miss, the invoke, misses its function.
    assert isinstance(caught.value, SchemaMissing) or sqlstate(caught.value) == "42883"


@actions
async def test_an_empty_database_that_was_stamped(empty_database_url: str, action: Action) -> None:
    in_thread(command.stamp, config_for(empty_database_url), "head")
    with pytest.raises((SchemaMissing, DBAPIError)) as caught:
        await action(empty_database_url)
    assert isinstance(caught.value, SchemaMissing) or sqlstate(caught.value) == "42883"


async def test_a_database_that_was_stamped_back(database_url: str) -> None:
    in_thread(command.stamp, config_for(database_url), "base")
    with pytest.raises(SchemaBehind):
        await register(database_url)


# --- permission denied ---------------------------------------------------------------------------


@actions
async def test_a_role_that_may_not_look(database_url: str, role: str, action: Action) -> None:
    with pytest.raises(DBAPIError) as caught:
        await action(by(role, database_url))
    assert sqlstate(caught.value) == "42501"
    assert not is_transient(caught.value)


@pytest.mark.parametrize("table", ["schema_gate", "orchestrators"])
async def test_a_role_that_may_not_read_one_table(database_url: str, role: str, table: str) -> None:
    execute(
        database_url,
        f"GRANT USAGE ON SCHEMA pgconductor TO {role};"
        f"GRANT ALL ON ALL TABLES IN SCHEMA pgconductor TO {role};"
        f"REVOKE ALL ON pgconductor.{table} FROM {role};",
    )
    with pytest.raises(DBAPIError) as caught:
        await register(by(role, database_url))
    assert sqlstate(caught.value) == "42501"
    assert table in str(caught.value)
    execute(database_url, f"DROP OWNED BY {role}")


def test_alembic_by_a_role_that_may_not_look(database_url: str, role: str) -> None:
    before = rows(database_url, "SELECT * FROM pgconductor.schema_migrations")
    with pytest.raises(PrivilegeMissing, match=f"{role} may not use.*GRANT USAGE"):
        upgrade(by(role, database_url))
    assert rows(database_url, "SELECT * FROM pgconductor.schema_migrations") == before


def test_alembic_by_a_role_that_may_not_create(empty_database_url: str, role: str) -> None:
    with pytest.raises(PrivilegeMissing, match=f"{role} may not create schema pgconductor"):
        upgrade(by(role, empty_database_url))
    assert rows(empty_database_url, SCHEMA) == [(None,)]


def test_the_owner_of_the_schema_needs_no_right_to_create_schemas(
    empty_database_url: str, role: str
) -> None:
    execute(empty_database_url, f"CREATE SCHEMA pgconductor AUTHORIZATION {role}")
    upgrade(by(role, empty_database_url))
    in_thread(command.check, config_for(by(role, empty_database_url)))
    in_thread(command.downgrade, config_for(by(role, empty_database_url)), "base")
    execute(empty_database_url, f"DROP OWNED BY {role}")


# --- no way to the database ----------------------------------------------------------------------


@actions
async def test_a_refused_connection(action: Action) -> None:
    with pytest.raises(ConnectionRefusedError) as caught:
        await action("postgresql+asyncpg://postgres@127.0.0.1:1/x")
    assert is_transient(caught.value)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_alembic_on_a_refused_connection(driver: str) -> None:
    with pytest.raises((OSError, DBAPIError), match=r"(?i)refused|connect"):
        upgrade(f"postgresql+{driver}://postgres@127.0.0.1:1/x")


@actions
async def test_a_database_that_is_not_there(empty_database_url: str, action: Action) -> None:
    elsewhere = make_url(empty_database_url).set(database="pgc_nowhere")
    with pytest.raises((asyncpg.InvalidCatalogNameError, DBAPIError)) as caught:
        await action(elsewhere.render_as_string(hide_password=False))
    assert sqlstate(caught.value) == "3D000"


async def test_a_wrong_password() -> None:
    with EmbeddedServer.start(binaries=chosen_binaries(), fsync=False, tcp=True) as own:
        upgrade(own.url)
        url = make_url(own.url).set(password="wr0ng-secret").render_as_string(hide_password=False)
        for action in (register, schema_status, invoke):
            with pytest.raises((asyncpg.InvalidPasswordError, DBAPIError)) as caught:
                await action(url)
            assert sqlstate(caught.value) == "28P01"
            assert not is_transient(caught.value)
            assert "wr0ng-secret" not in str(caught.value)
        with pytest.raises((asyncpg.InvalidPasswordError, DBAPIError)) as refused:
            upgrade(url)
        assert sqlstate(refused.value) == "28P01"


async def test_a_connection_that_is_cut(database_url: str, server: Server) -> None:
    with connect(server.url_for("postgres")) as admin:
        engine = create_async_engine(database_url)
        service = OrchestratorService(engine)
        await service.schema_status()
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
            [make_url(database_url).database],
        )
        with pytest.raises(DBAPIError) as caught:
            await service.schema_status()
        assert is_transient(caught.value)
        # The pool has noticed: the next call connects anew.
        await service.schema_status()
        await engine.dispose()


# --- a server that refuses -----------------------------------------------------------------------


def read_only(url: str) -> None:
    name = make_url(url).database
    execute(url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")


@pytest.mark.parametrize("action", [register, invoke])
async def test_a_read_only_database(database_url: str, action: Action) -> None:
    read_only(database_url)
    with pytest.raises(DBAPIError) as caught:
        await action(database_url)
    assert sqlstate(caught.value) == "25006"
    assert is_transient(caught.value)


def test_alembic_on_a_read_only_database(empty_database_url: str) -> None:
    read_only(empty_database_url)
    with pytest.raises(NotPrimary, match="read-only"):
        upgrade(empty_database_url)
    assert rows(empty_database_url, SCHEMA) == [(None,)]


DAMAGES = {
    # The review's own finding: a statement names a column that the table lacks.
    "renamed": ("ALTER TABLE pgconductor.{table} RENAME COLUMN {column} TO lost", {"42703"}),
    "of another type": (
        (
            "ALTER TABLE pgconductor.{table} DROP CONSTRAINT {constraint},"
            " ALTER {column} DROP DEFAULT, ALTER {column} TYPE bytea USING ''"
        ),
        {"42883", "42804"},
    ),
}
TOUCHED: dict[Action, dict[str, str]] = {
    register: {"table": "schema_gate", "column": "floor", "constraint": "schema_gate_floor_check"},
    invoke: {
        "table": "executions",
        "column": "max_attempts",
        "constraint": "executions_state_check",
    },
}


@pytest.mark.parametrize("action", TOUCHED)
@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_table_is_no_empty_database(
    database_url: str, action: Action, damage: str
) -> None:
    statement, codes = DAMAGES[damage]
    execute(database_url, statement.format(**TOUCHED[action]))
    with pytest.raises(DBAPIError) as caught:
        await action(database_url)
    assert sqlstate(caught.value) in codes


async def test_a_missing_table_of_the_users_is_not_ours(database_url: str) -> None:
    """SQLAlchemy flushes what is pending before our statement: his own table may be missing."""
    engine = create_async_engine(database_url)
    try:
        async with AsyncSession(engine) as session:
            session.add(Forgotten(id=1))
            with pytest.raises(DBAPIError, match="forgotten"):
                await ExecutionService(session).invoke("send")
    finally:
        await engine.dispose()


async def test_a_missing_table_of_the_users_trigger_is_not_ours(database_url: str) -> None:
    execute(
        database_url,
        """CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS
           'BEGIN INSERT INTO pgconductor_forgotten DEFAULT VALUES; RETURN NULL; END';
           CREATE TRIGGER tell AFTER INSERT ON pgconductor.executions EXECUTE FUNCTION tell()""",
    )
    engine = create_async_engine(database_url)
    try:
        with pytest.raises(DBAPIError, match="forgotten"):
            await ExecutionService(engine).invoke("send", dedupe_key="k")
    finally:
        await engine.dispose()


@pytest.mark.parametrize("missing", ["TABLE pgconductor.executions", "SCHEMA pgconductor"])
async def test_what_is_missing_of_ours_is_told(database_url: str, missing: str) -> None:
    """Also where a function has been taken away, but its schema has not."""
    execute(database_url, f"DROP {missing} CASCADE")
    engine = create_async_engine(database_url)
    try:
        with pytest.raises(SchemaMissing):
            await ExecutionService(engine).invoke("send", dedupe_key="k")
    finally:
        await engine.dispose()


async def test_a_missing_function_of_ours_is_told(database_url: str) -> None:
    """As after a downgrade to nothing, where the schema itself stays."""
    with connect(database_url) as connection:
        connection.execute(
            "DO $$ DECLARE f regprocedure; BEGIN FOR f IN SELECT p.oid FROM pg_proc p"
            " WHERE p.pronamespace = 'pgconductor'::regnamespace AND p.proname LIKE 'invoke%'"
            " LOOP EXECUTE format('DROP FUNCTION %s CASCADE', f); END LOOP; END $$"
        )
    engine = create_async_engine(database_url)
    try:
        with pytest.raises(SchemaMissing):
            await ExecutionService(engine).invoke("send", dedupe_key="k")
    finally:
        await engine.dispose()


# --- revisions that fail -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "codes"),
    [
        ("SELEC 1", {"42601"}),
        ("SELECT 1 / 0", {"22012"}),
        # Which of the two depends on the version of the server.
        ("CREATE EXTENSION pgconductor_no_such_extension", {"58P01", "0A000"}),
        ("SELECT nothing FROM pgconductor.executions", {"42703"}),
        ("SELECT 1 FROM pgconductor.nothing", {"42P01"}),
    ],
)
def test_a_revision_that_fails_leaves_the_one_before(
    empty_database_url: str, tmp_path: Path, statement: str, codes: set[str]
) -> None:
    location = copy_of_revisions(tmp_path)
    path = add_revision(location, "0002", "0001", metadata="name = 'fails'\nbreaking = True")
    source = path.read_text(encoding="utf-8")
    half = "    op.execute('CREATE TABLE pgconductor.half (id int)')\n"
    broken = f"def upgrade():\n{half}    op.execute({statement!r})\n"
    path.write_text(source.replace("def upgrade():\n", broken), encoding="utf-8")
    with pytest.raises(RevisionFailed, match=r"revision 0002 failed.*at 0001") as caught:
        in_thread(command.upgrade, config_for(empty_database_url, location), "head")
    assert caught.value.sqlstate in codes
    assert sqlstate(caught.value.__cause__ or caught.value) in codes
    assert current(empty_database_url) == [("0001",)]
    assert ledger(empty_database_url) == [(1, "initial", False)]
    assert rows(empty_database_url, "SELECT to_regclass('pgconductor.half')::text") == [(None,)]


def test_a_database_from_the_future(database_url: str) -> None:
    execute(database_url, "UPDATE pgconductor.pgconductor_version SET version_num = '0099'")
    with pytest.raises(HistoryMismatch, match=r"says 0099.*up to 0001.*says 0001"):
        upgrade(database_url)
    assert ledger(database_url) == [(1, "initial", False)]


def test_a_second_schema_of_that_name_is_not_overwritten(empty_database_url: str) -> None:
    """What is not ours under our names is an error, and stays as it is."""
    execute(
        empty_database_url,
        "CREATE SCHEMA pgconductor; CREATE TABLE pgconductor.executions (mine text)",
    )
    with pytest.raises(RevisionFailed) as caught:
        upgrade(empty_database_url)
    assert caught.value.sqlstate == "42P07"
    columns = "SELECT attname::text FROM pg_attribute WHERE attnum > 0 AND attrelid = "
    assert rows(empty_database_url, f"{columns}'pgconductor.executions'::regclass") == [("mine",)]
    assert rows(empty_database_url, "SELECT to_regproc('pgconductor.clock')::text") == [(None,)]
