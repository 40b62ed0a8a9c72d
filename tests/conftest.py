"""Fixtures: one server a session, one database a test.

The server is chosen by the environment: ``PGCONDUCTOR_TEST_URL`` names an existing one,
``PGCONDUCTOR_TEST_POSTGRES_BIN`` a directory of binaries (or ``embedded``, ``system``).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import Engine, Pool, QueuePool, create_engine
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for tests.support, from anywhere

from pgconductor.dev import EmbeddedServer, EmbeddedServerError
from tests.support.migrate import migrate
from tests.support.processes import Children
from tests.support.servers import (
    URL_VARIABLE,
    Server,
    assert_no_orphans,
    chosen_binaries,
    start_shared_server,
)

# Container images often forbid it; hundreds of processes would each compile the package again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A shell's background task begins with SIGINT ignored, and so would every process of the tests.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_shared = pytest.StashKey[EmbeddedServer]()


def pytest_configure(config: pytest.Config) -> None:
    # How long an example takes says nothing on a busy machine.
    unhurried = [HealthCheck.too_slow]
    settings.register_profile(
        "unhurried", settings(), deadline=None, suppress_health_check=unhurried
    )
    settings.load_profile("unhurried")
    config.addinivalue_line(
        "markers",
        "orphans_expected: the test leaves executions that no living orchestrator holds",
    )
    # pytest-alembic binds its built-in tests to tests/conftest.py without being asked, and its
    # 0.13 fails at that with pytest 9. Its fixtures, and its tests when imported, work.
    config.option.pytest_alembic_tests_path = os.devnull
    # The slow tests come first, and no worker is to be given all of them.
    if config.getoption("maxschedchunk", 0) is None:
        config.option.maxschedchunk = 4


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Half as many again as processors: tests often wait for processes and for clocks."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    processors = os.cpu_count() or 1
    return processors + max(processors // 2, 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slow tests: the last ones are short, so all workers end together."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Hand xdist's workers the address of a server that their controller keeps."""
    if URL_VARIABLE in os.environ:
        return
    try:
        if _shared not in node.config.stash:
            node.config.stash[_shared] = start_shared_server()
        node.workerinput["postgres_url"] = node.config.stash[_shared].url
    except EmbeddedServerError as error:
        # Tests without a database need no server.
        node.workerinput["postgres_error"] = str(error)


def pytest_unconfigure(config: pytest.Config) -> None:
    if _shared in config.stash:
        config.stash[_shared].stop()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what tests have measured and do not judge: ``record_property("figure", ...)``."""
    figures = [
        value
        for report in terminalreporter.getreports("passed")
        for name, value in report.user_properties
        if name == "figure"
    ]
    if figures:
        terminalreporter.section("figures")
        for figure in figures:
            terminalreporter.write_line(str(figure))


# --- server --------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """The Postgres server of this session; every xdist worker gets the same."""
    handed: dict[str, Any] = getattr(request.config, "workerinput", {})
    if "postgres_error" in handed:
        pytest.fail(handed["postgres_error"])
    url = os.environ.get(URL_VARIABLE) or handed.get("postgres_url")
    if url is None:
        request.config.stash[_shared] = started = start_shared_server()
        url = started.url
    found = Server(url)
    yield found
    found.close()


@pytest.fixture
def crash_server() -> Iterator[EmbeddedServer]:
    """A server of the test's own, migrated and with fsync on, to restart or to crash."""
    with EmbeddedServer.start(binaries=chosen_binaries()) as own:
        migrate(own.url)
        yield own


# --- databases -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def template(server: Server) -> Iterator[str]:
    """The name of a database at the newest revision, to be cloned."""
    with server.database() as name:
        migrate(server.url_for(name))
        yield name


@pytest.fixture
def database_url(server: Server, template: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The asyncpg URL of a fresh migrated database."""
    with server.database(template) as name:
        url = server.url_for(name)
        yield url
        if request.node.get_closest_marker("orphans_expected") is None:
            assert_no_orphans(url)


@pytest.fixture
def empty_database_url(server: Server) -> Iterator[str]:
    """The asyncpg URL of a fresh database without our schema."""
    with server.database() as name:
        yield server.url_for(name)


# --- engines and sessions ------------------------------------------------------------------------


def assert_all_returned(pool: Pool) -> None:
    if isinstance(pool, QueuePool):
        held = pool.checkedout()
        assert held == 0, f"{held} connections were not given back to the pool"


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(database_url)
    try:
        yield engine
        assert_all_returned(engine.pool)
    finally:
        await engine.dispose()


@pytest.fixture
def sessionmaker(engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    return async_sessionmaker(engine, expire_on_commit=False)


@pytest.fixture
async def session(sessionmaker: async_sessionmaker[AsyncSession]) -> AsyncIterator[AsyncSession]:
    async with sessionmaker() as session:
        yield session


@pytest.fixture
def sync_engine(database_url: str) -> Iterator[Engine]:
    engine = create_engine(database_url.replace("+asyncpg", "+psycopg", 1))
    try:
        yield engine
        assert_all_returned(engine.pool)
    finally:
        engine.dispose()


@pytest.fixture
def sync_session(sync_engine: Engine) -> Iterator[Session]:
    with Session(sync_engine, expire_on_commit=False) as session:
        yield session


# --- processes -----------------------------------------------------------------------------------


@pytest.fixture
async def children() -> AsyncIterator[Children]:
    """Starts child processes; kills those that are left when the test ends."""
    async with Children() as children:
        yield children
