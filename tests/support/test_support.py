"""The fixtures and helpers themselves."""

from __future__ import annotations

import asyncio
import signal

import asyncpg
import psycopg
import pytest
from sqlalchemy import Engine, make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from pgconductor.dev import EmbeddedServer
from tests.conftest import assert_all_returned
from tests.support.processes import Children
from tests.support.servers import Server, connect
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import eventually

BROKEN = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)


async def by_way_of(proxy: TcpProxy) -> asyncpg.Connection[asyncpg.Record]:
    dsn = make_url(proxy.url).set(drivername="postgresql").render_as_string(hide_password=False)
    return await asyncpg.connect(dsn, ssl=False)


async def test_a_database_is_fresh_and_migrated(session: AsyncSession) -> None:
    assert await session.scalar(text("SELECT count(*) FROM pgconductor.executions")) == 0


def test_the_blocking_session_sees_the_same_schema(sync_session: Session) -> None:
    assert sync_session.scalar(text("SELECT count(*) FROM pgconductor.executions")) == 0


async def test_an_empty_database_has_no_schema(empty_database_url: str) -> None:
    with connect(empty_database_url) as connection:
        found = connection.execute("SELECT to_regnamespace('pgconductor')").fetchone()
    assert found == (None,)


def test_databases_are_dropped_with_their_connections(server: Server) -> None:
    with server.database() as name:
        left_open = connect(server.url_for(name))
    with pytest.raises(psycopg.OperationalError):
        left_open.execute("SELECT 1")
    left_open.close()


async def test_a_connection_that_is_kept_is_noticed(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
        with pytest.raises(AssertionError, match="1 connections were not given back"):
            assert_all_returned(engine.pool)


def test_the_crash_server_is_migrated(crash_server: EmbeddedServer) -> None:
    crash_server.restart("immediate")
    with connect(crash_server.url) as connection:
        counted = connection.execute("SELECT count(*) FROM pgconductor.executions").fetchone()
        assert connection.execute("SHOW fsync").fetchone() == ("on",)
    assert counted == (0,)


# --- waiting -------------------------------------------------------------------------------------


async def test_eventually_returns_the_first_true_answer() -> None:
    answers = iter([0, None, 7])
    assert await eventually(lambda: next(answers)) == 7


async def test_eventually_says_what_it_waited_for() -> None:
    async def stuck() -> bool:
        assert False, "still three left"  # noqa: B011, PT015 - the predicate's own words
        return True

    with pytest.raises(AssertionError, match=r"stuck.*still three left"):
        await eventually(stuck, timeout=0.05)


async def test_eventually_cuts_off_a_predicate_that_hangs() -> None:
    async def hangs() -> bool:
        await asyncio.Event().wait()
        return True

    with pytest.raises(AssertionError, match="Not within"):
        await eventually(hangs, timeout=0.05)


# --- processes -----------------------------------------------------------------------------------

ECHO = """
import sys
print("noise")
print("ready", flush=True)
for line in sys.stdin:
    print("heard", line.strip(), flush=True)
"""


async def test_a_child_talks_by_lines_and_is_killed(children: Children) -> None:
    child = await children.start("-c", ECHO)
    assert await child.wait_for_line("ready") == "ready"
    child.sigstop()
    await child.send_line("one")
    with pytest.raises(AssertionError, match="no line 'heard'"):
        await child.wait_for_line("heard", timeout=0.05)
    child.sigcont()
    assert await child.wait_for_line("heard") == "heard one"
    child.kill()
    assert await child.wait() == -signal.SIGKILL


async def test_a_child_that_fails_is_quoted(children: Children) -> None:
    child = await children.start("-c", "raise SystemExit('out of luck')")
    with pytest.raises(AssertionError, match="out of luck"):
        await child.wait_for_line("ready")


# --- proxy ---------------------------------------------------------------------------------------


async def test_the_proxy_passes_everything(database_url: str) -> None:
    async with TcpProxy.before(database_url) as proxy:
        engine = create_async_engine(proxy.url)
        async with engine.connect() as connection:
            assert await connection.scalar(text("SELECT length(repeat('x', 1000000))")) == 1000000
        await engine.dispose()
        await eventually(lambda: proxy.connections == 0)


async def test_the_proxy_resets_and_refuses(database_url: str) -> None:
    async with TcpProxy.before(database_url) as proxy:
        connection = await by_way_of(proxy)
        await proxy.refuse()
        assert await connection.fetchval("SELECT 1") == 1
        proxy.reset()
        with pytest.raises(BROKEN):
            await connection.execute("SELECT 1")
        with pytest.raises(ConnectionRefusedError):
            await by_way_of(proxy)
        await proxy.accept()
        connection = await by_way_of(proxy)
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()


async def test_the_proxy_swallows_until_the_network_heals(database_url: str) -> None:
    async with TcpProxy.before(database_url) as proxy:
        connection = await by_way_of(proxy)
        proxy.swallow()
        asked = asyncio.create_task(connection.fetchval("SELECT 1"))
        done, _ = await asyncio.wait([asked], timeout=0.1)
        assert not done
        proxy.resume()
        assert await asked == 1
        await connection.close()


async def test_the_proxy_loses_a_commit_or_its_reply(
    database_url: str, sync_engine: Engine
) -> None:
    with connect(database_url) as direct:
        direct.execute("CREATE TABLE effects (n int)")
    async with TcpProxy.before(database_url) as proxy:
        for number, spoil in enumerate((proxy.cut_before, proxy.lose_reply_to)):
            connection = await by_way_of(proxy)
            spoil(b"COMMIT")
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute("INSERT INTO effects VALUES ($1)", number)
            with pytest.raises(BROKEN):
                await transaction.commit()
        assert proxy.cuts == 2
    with connect(database_url) as direct:
        # The first never got to the server, the second did.
        assert direct.execute("SELECT n FROM effects").fetchall() == [(1,)]


async def test_the_proxy_cuts_after_some_bytes(database_url: str) -> None:
    async with TcpProxy.before(database_url) as proxy:
        connection = await by_way_of(proxy)
        proxy.cut_after(100_000)
        with pytest.raises(BROKEN):
            await connection.fetchval("SELECT repeat('x', 1000000)")
        await eventually(lambda: proxy.cuts == 1)
