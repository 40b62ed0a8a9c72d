"""The pytest plugin, as a project of a user's has it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from uuid import uuid4

import pytest
from sqlalchemy import make_url

from pgconductor.dev import EmbeddedServer
from tests.support.servers import URL_VARIABLE, Server, chosen_binaries, connect

pytest_plugins = ["pytester"]

APP = """
from datetime import timedelta

from sqlalchemy import text

from pgconductor import Conductor, TaskContext

conductor = Conductor()


@conductor.task
async def greet(ctx: TaskContext, name: str) -> str:
    await ctx.sleep("a day", timedelta(days=1))
    return f"Hello, {name}"


@conductor.task
async def note(ctx: TaskContext, name: str) -> str:
    async with ctx.transaction("note") as session:
        await session.execute(text("INSERT INTO notes VALUES ('x')"))
    await ctx.invoke("greet", greet, name)
    return f"{name} {await ctx.wait_for('event', 'go')}"
"""

CONFTEST = """
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine


@pytest.fixture(scope="session")
def pgconductor_prepare():
    async def prepare(url):
        engine = create_async_engine(url)
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE notes (what text NOT NULL)"))
        await engine.dispose()

    return prepare
"""

TESTS = """
import pytest
from sqlalchemy import text

from app import conductor, greet, note
from pgconductor.testing import Rehearsal

pytestmark = pytest.mark.asyncio
COUNT = text("SELECT count(*) FROM notes")
WRITE = text("INSERT INTO notes VALUES ('x')")


@pytest.mark.parametrize("again", range(2))
async def test_a_database(pgconductor_database, again):
    async with Rehearsal(conductor, pgconductor_database) as rehearsal:
        assert await rehearsal.executions() == []
        async with conductor.sessionmaker.begin() as session:
            assert await session.scalar(COUNT) == 0
            await session.execute(WRITE)
            handle = await greet.invoke("Ada", session=session)
        assert await handle.result() == "Hello, Ada"


@pytest.mark.parametrize("again", range(2))
async def test_a_session(pgconductor_session, again):
    assert await pgconductor_session.scalar(COUNT) == 0
    await pgconductor_session.execute(WRITE)
    await greet.invoke("Bob", session=pgconductor_session)
    await pgconductor_session.commit()
    await pgconductor_session.execute(WRITE)
    await pgconductor_session.rollback()
    assert await pgconductor_session.scalar(COUNT) == 1
    found = await pgconductor_session.scalar(text("SELECT count(*) FROM pgconductor.executions"))
    assert found == 1


async def test_a_rehearsal_in_a_session(pgconductor_session):
    async with Rehearsal(conductor, pgconductor_session) as rehearsal:
        rehearsal.crash_at("note")
        handle = await note.invoke("Bob", session=pgconductor_session)
        await rehearsal.drain()
        await conductor.emit("go", 1)
        assert await handle.result() == "Bob 1"
        assert await pgconductor_session.scalar(COUNT) == 1


async def test_a_rehearsal(pgconductor_rehearsal, pgconductor_fakes):
    handle = await greet.invoke("Eve")
    assert (await pgconductor_rehearsal.drain()).finished
    assert await handle.result() == "Hello, Eve"
    assert list(pgconductor_fakes.executions) == [handle.id]
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(app=APP, conftest=CONFTEST, test_app=TESTS)
    pytester.makeini(
        "[pytest]\npythonpath = .\npgconductor_conductor = app:conductor\nfilterwarnings = error\n"
        "asyncio_default_fixture_loop_scope = function\n"
    )
    return pytester


@pytest.fixture
def lonely_server() -> Iterator[EmbeddedServer]:
    """One on which nobody else makes databases meanwhile."""
    with EmbeddedServer.start(binaries=chosen_binaries(), fsync=False) as own:
        yield own


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "xdist"])
def test_the_fixtures(
    project: pytest.Pytester,
    lonely_server: EmbeddedServer,
    monkeypatch: pytest.MonkeyPatch,
    workers: tuple[str, ...],
) -> None:
    monkeypatch.setenv(URL_VARIABLE, lonely_server.url_for("postgres"))
    monkeypatch.delenv("PYTEST_XDIST_TESTRUNUID", raising=False)
    options = ("-p", "pgconductor.testing.plugin", "-p", "no:cacheprovider")
    done = project.runpytest_subprocess(*options, *workers, timeout=110)
    done.assert_outcomes(passed=6)
    with connect(lonely_server.url_for("postgres")) as connection:
        left = connection.execute(
            "SELECT datname FROM pg_database WHERE datname ~ '^pgconductor_(template|test)_'"
        ).fetchall()
    assert left == []


def test_a_conductor_that_is_missing_is_asked_for(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\npythonpath = .\nasyncio_default_fixture_loop_scope = function\n")
    options = ("-p", "pgconductor.testing.plugin", "-q", "-k", "test_a_rehearsal and not session")
    done = project.runpytest_subprocess(*options, timeout=60)
    done.assert_outcomes(errors=1, deselected=5)
    done.stdout.fnmatch_lines(["*Set the ini option pgconductor_conductor to module:attribute*"])


@pytest.fixture
def guest(server: Server) -> Iterator[str]:
    """A role that may do nothing."""
    name = f"plugin_guest_{uuid4().hex[:12]}"
    with connect(server.url_for("postgres")) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN".encode())
        yield name
        connection.execute(f"DROP ROLE {name}".encode())


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite://", "the database URL is for 'sqlite'*"),
        ("postgresql://me:secret@127.0.0.1:1/x", "the database is out of reach:*127.0.0.1*"),
        (
            "postgresql://me:secret@/x?host=/nowhere",
            "the database is out of reach: * No such file*",
        ),
        ("postgresql://me:secret@/x?host=here&port=x", "the database URL cannot be read*"),
        ("{nowhere}", 'the database is out of reach: database "nowhere" does not exist'),
        ("{guest}", "the role may not create databases: give it CREATEDB"),
    ],
)
def test_a_server_that_cannot_be_used_is_told_in_a_line(
    project: pytest.Pytester, server: Server, guest: str, url: str, said: str
) -> None:
    admin = make_url(server.url_for("postgres"))
    as_guest = admin.set(username=guest, drivername="postgresql")
    named = url.format(
        nowhere=admin.set(database="nowhere").render_as_string(hide_password=False),
        guest=as_guest.render_as_string(hide_password=False),
    )
    options = ("-p", "pgconductor.testing.plugin", f"--pgconductor-url={named}", "-q")
    done = project.runpytest_subprocess(*options, "-k", "test_a_database", timeout=60)
    done.assert_outcomes(errors=2, deselected=4)
    done.stdout.fnmatch_lines([f"no server for tests by --pgconductor-url: {said}"])
    done.stdout.no_fnmatch_line("*Traceback*")
    done.stdout.no_fnmatch_line("*another exception*")
    done.stdout.no_fnmatch_line("*secret*")
    assert len(done.outlines) < 20


def test_async_fixtures_without_a_plugin_for_them(project: pytest.Pytester) -> None:
    switched_off = ("-p", "no:asyncio", "-p", "no:anyio")
    project.makeini("[pytest]\npythonpath = .\nmarkers = asyncio\n")
    options = ("-p", "pgconductor.testing.plugin", "-q", "-k", "session")
    done = project.runpytest_subprocess(*options, *switched_off, timeout=60)
    done.assert_outcomes(errors=3, deselected=3)
    told = [line for line in done.outlines if line.startswith("nothing here executes async")]
    assert len(told) == 3


def test_loading_it_loads_nothing_else() -> None:
    code = (
        "import sys, pgconductor.testing.plugin\n"
        "print(sorted({'sqlalchemy', 'pydantic', 'asyncpg', 'alembic'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"
