"""The pytest plugin: databases, sessions and rehearsals as fixtures.

pytest loads it wherever pgconductor is installed, so it imports nothing of the engine before a
fixture is asked for.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from pgconductor import Conductor
    from pgconductor.testing import FakeDatabase, Rehearsal
    from pgconductor.testing.templates import Templates

__all__: list[str] = []

_URL = "PGCONDUCTOR_TEST_URL"


def _async_fixture(function: Callable[..., AsyncIterator[Any]]) -> Any:
    """A fixture that pytest-asyncio executes; without it, anyio's plugin does."""
    try:
        from pytest_asyncio import fixture
    except ImportError:
        return pytest.fixture(function)
    return fixture(function)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Say which server, and which conductor."""
    parser.getgroup("pgconductor").addoption(
        "--pgconductor-url",
        metavar="URL",
        help="a database of the server in which tests get databases of their own, by a role that "
        f"may create them; else {_URL}, the ini option pgconductor_url, or an embedded server",
    )
    parser.addini("pgconductor_url", "the same as --pgconductor-url", default="")
    parser.addini(
        "pgconductor_conductor",
        "where the fixture pgconductor_conductor finds the conductor: module:attribute",
        default="",
    )


# --- databases -----------------------------------------------------------------------------------


def _named(config: pytest.Config) -> tuple[str, str]:
    """The server's URL and what names it; empty if nothing does."""
    for url, source in (
        (config.getoption("--pgconductor-url"), "--pgconductor-url"),
        (os.environ.get(_URL), _URL),
        (config.getini("pgconductor_url"), "the ini option pgconductor_url"),
    ):
        if url:
            return url, source
    return "", ""


@pytest.fixture(scope="session")
def pgconductor_server_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a server for tests; an embedded one is started if none is named."""
    named, _ = _named(request.config)
    if named:
        yield named
        return
    from pgconductor.dev import EmbeddedServer, EmbeddedServerError

    try:
        server = EmbeddedServer.start(fsync=False)
    except EmbeddedServerError as error:
        told = (
            f"no server for tests: {error} Install pgconductor[testing], or name one by "
            f"--pgconductor-url or {_URL}."
        )
        raise pytest.fail.Exception(told, pytrace=False) from None
    with server:
        yield server.url


@pytest.fixture(scope="session")
def pgconductor_prepare() -> Callable[[str], Any] | None:
    """Override it to have a function called, or awaited, with the URL of the migrated template."""
    return None


@pytest.fixture(scope="session")
def pgconductor_templates(
    request: pytest.FixtureRequest,
    pgconductor_server_url: str,
    pgconductor_prepare: Callable[[str], Any] | None,
) -> Iterator[Templates]:
    """What clones the migrated template; every worker of xdist has the same one."""
    from pgconductor.exceptions import ConfigurationError
    from pgconductor.testing.templates import Templates

    worker: dict[str, Any] = getattr(request.config, "workerinput", {})
    session = str(worker.get("testrunuid") or uuid4().hex)[:16]
    try:
        templates = Templates(pgconductor_server_url, session, pgconductor_prepare)
    except ConfigurationError as error:
        named, source = _named(request.config)
        given = source if named == pgconductor_server_url else "the fixture pgconductor_server_url"
        told = f"no server for tests by {given}: {error}"
        raise pytest.fail.Exception(told, pytrace=False) from None
    try:
        yield templates
    finally:
        templates.close()


@pytest.fixture
def pgconductor_clone(pgconductor_templates: Templates) -> Iterator[Callable[[], str]]:
    """Makes a fresh migrated database at each call, and returns its URL; all are dropped."""
    made: list[str] = []

    def clone() -> str:
        made.append(pgconductor_templates.clone())
        return made[-1]

    yield clone
    for url in made:
        pgconductor_templates.drop(url)


@pytest.fixture
def pgconductor_database(pgconductor_clone: Callable[[], str]) -> str:
    """The URL of a fresh migrated database of the test's own."""
    return pgconductor_clone()


@pytest.fixture(scope="session")
def pgconductor_session_database(pgconductor_templates: Templates) -> Iterator[str]:
    """The URL of the database that ``pgconductor_session`` is in; no test writes to it for good."""
    url = pgconductor_templates.clone()
    yield url
    pgconductor_templates.drop(url)


@pytest.fixture
def pgconductor_loop(request: pytest.FixtureRequest) -> None:
    """Refuses what would be executed in two event loops, or in none."""
    plugins = request.config.pluginmanager
    if not plugins.hasplugin("asyncio") and not plugins.hasplugin("anyio"):
        pytest.fail(
            "nothing here executes async fixtures: install pytest-asyncio or anyio, as "
            "pgconductor[testing] does, and switch it on",
            pytrace=False,
        )
    if plugins.hasplugin("asyncio") and request.node.get_closest_marker("anyio") is not None:
        pytest.fail(
            "pytest-asyncio executes this fixture and anyio the test, each in a loop of its own: "
            "switch pytest-asyncio off, by -p no:asyncio",
            pytrace=False,
        )


@_async_fixture
async def pgconductor_session(
    pgconductor_loop: None,  # noqa: ARG001 - it checks
    pgconductor_session_database: str,
) -> AsyncIterator[AsyncSession]:
    """A session in a transaction that is rolled back; its own commits end savepoints in it."""
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
    from sqlalchemy.pool import NullPool

    engine = create_async_engine(pgconductor_session_database, poolclass=NullPool)
    async with engine.connect() as connection:
        transaction = await connection.begin()
        async with AsyncSession(
            connection, join_transaction_mode="create_savepoint", expire_on_commit=False
        ) as session:
            yield session
        await transaction.rollback()
    await engine.dispose()


# --- rehearsals ----------------------------------------------------------------------------------


@pytest.fixture
def pgconductor_fakes() -> FakeDatabase:
    """A database in memory."""
    from pgconductor.testing import FakeDatabase

    return FakeDatabase()


@pytest.fixture
def pgconductor_conductor(request: pytest.FixtureRequest) -> Conductor:
    """The application's conductor, by the ini option; or override it."""
    where = request.config.getini("pgconductor_conductor")
    if not where:
        pytest.fail(
            "which conductor? Set the ini option pgconductor_conductor to module:attribute, or "
            "define a fixture pgconductor_conductor that returns it.",
            pytrace=False,
        )
    found: Conductor = resolve_name(where)
    return found


@_async_fixture
async def pgconductor_rehearsal(
    pgconductor_loop: None,  # noqa: ARG001 - it checks
    pgconductor_conductor: Conductor,
    pgconductor_fakes: FakeDatabase,
) -> AsyncIterator[Rehearsal]:
    """A rehearsal of the application's conductor, in memory."""
    from pgconductor.testing import Rehearsal

    async with Rehearsal(pgconductor_conductor, pgconductor_fakes) as rehearsal:
        yield rehearsal
