"""The supervisor of embedded servers, on every Postgres that is found here."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from pgconductor.dev import (
    Binaries,
    BinariesNotFoundError,
    EmbeddedServer,
    EmbeddedServerError,
    ServerStartError,
    ServerStateError,
    find,
    find_all,
)
from pgconductor.dev.account import Account
from pgconductor.dev.private_copy import readable
from pgconductor.dev.processes import alive
from tests.support.processes import ROOT, Child, Children
from tests.support.servers import connect
from tests.support.waiting import eventually

INSTALLATIONS = find_all()
AS_ROOT = os.geteuid() == 0
only_root = pytest.mark.skipif(not AS_ROOT, reason="root starts servers as another account")

BROKEN = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)

KEEP_A_SERVER = """
import json, sys
from pgconductor.dev import EmbeddedServer
arguments = json.loads(sys.argv[1])
server = EmbeddedServer.start(**arguments)
print("started", json.dumps({
    "url": server.url, "pid": server.pid, "home": str(server.home), "owned": server.owned,
    "keeper": server._keeper.pid if server._keeper else None,
}), flush=True)
sys.stdin.readline()
server.stop()
print("stopped", flush=True)
"""


@pytest.fixture
def own_dir() -> Iterator[Path]:
    """A directory that the server's account can enter; pytest's own is private to root."""
    path = Path(tempfile.mkdtemp(prefix="pgc-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def owner_of(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


def gone(path: str) -> bool:
    return not Path(path).exists()


@asynccontextmanager
async def raw(url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    dsn = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        connection.terminate()


async def fails(connection: asyncpg.Connection[asyncpg.Record]) -> bool:
    try:
        await connection.execute("SELECT 1")
    except BROKEN:
        return True
    return False


async def start_in_child(
    children: Children, **arguments: object
) -> tuple[Child, dict[str, object]]:
    child = await children.start("-c", KEEP_A_SERVER, json.dumps(arguments))
    line = await child.wait_for_line("started")
    return child, json.loads(line.removeprefix("started"))


# --- every installation --------------------------------------------------------------------------


@pytest.mark.parametrize("binaries", INSTALLATIONS, ids=lambda one: f"{one.provider}-{one.version}")
async def test_each_installation_serves(binaries: Binaries) -> None:
    server = EmbeddedServer.start(binaries=binaries, settings={"max_connections": "23"})
    try:
        assert server.version == binaries.version
        engine = create_async_engine(server.url)
        async with engine.connect() as connection:
            shown = await connection.scalar(text("SHOW max_connections"))
            encoding = await connection.scalar(text("SHOW server_encoding"))
            listening = await connection.scalar(text("SHOW listen_addresses"))
        await engine.dispose()
        assert (shown, encoding, listening) == ("23", "UTF8", "")
        with connect(server.url_for("postgres", "psycopg")) as blocking:
            assert blocking.info.server_version // 10_000 == binaries.version
        pid, home = server.pid, server.home
    finally:
        server.stop()
    assert not alive(pid)
    assert not home.exists()


def test_the_first_installation_is_the_default() -> None:
    assert find() == INSTALLATIONS[0]


def test_a_directory_without_binaries_is_an_error(own_dir: Path) -> None:
    with pytest.raises(BinariesNotFoundError, match=r'pip install "pgconductor\[dev\]"'):
        EmbeddedServer.start(binaries=own_dir)


def test_the_environment_names_the_binaries(monkeypatch: pytest.MonkeyPatch) -> None:
    last = INSTALLATIONS[-1]
    monkeypatch.setenv("PGCONDUCTOR_POSTGRES_BIN", str(last.bin_dir))
    assert find().bin_dir == last.bin_dir
    monkeypatch.setenv("PGCONDUCTOR_POSTGRES_BIN", "/nowhere")
    with pytest.raises(BinariesNotFoundError, match="/nowhere"):
        find()


def test_existing_data_chooses_the_version(own_dir: Path) -> None:
    last = INSTALLATIONS[-1]
    with EmbeddedServer.start(own_dir, binaries=last, fsync=False):
        pass
    with EmbeddedServer.start(own_dir, fsync=False) as again:
        assert again.version == last.version


# --- accounts ------------------------------------------------------------------------------------


@only_root
def test_root_hands_the_server_to_another_account() -> None:
    with EmbeddedServer.start(fsync=False) as server:
        assert owner_of(server.pid) == Account.choose().uid != 0
        sockets = server.address.socket_dir.stat()
        assert stat.S_IMODE(sockets.st_mode) == 0o700
        environment = Path(f"/proc/{server.pid}/environ").read_bytes()
    assert b"PYTEST" not in environment


@only_root
async def test_an_ordinary_user_just_starts(children: Children) -> None:
    account = Account.choose()
    # A Python below /root is out of their reach; the system's may be the same release.
    packages = str(Path(asyncpg.__file__).parents[1])
    attempt = f"import sys; sys.path.append({packages!r})\n"
    pythons = (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}")
    needed = attempt + "import greenlet, sqlalchemy, asyncpg.protocol.protocol"
    python = next((one for one in pythons if account.succeeds(one, "-c", needed)), None)
    if python is None:
        pytest.skip("every suitable Python is out of the reach of ordinary users")
    if not account.can_enter(ROOT / "pgconductor" / "dev"):
        pytest.skip("this checkout is out of the reach of ordinary users")
    become = (
        attempt
        + f"import os; os.setgroups([]); os.setgid({account.gid}); os.setuid({account.uid})\n"
    )
    child = await children.start(
        "-c", become + KEEP_A_SERVER, json.dumps({"fsync": False}), python=python
    )
    line = await child.wait_for_line("started")
    told = json.loads(line.removeprefix("started"))
    assert owner_of(told["pid"]) == account.uid
    with connect(told["url"]) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    await child.send_line("end")
    await child.wait_for_line("stopped")
    assert await child.wait() == 0
    assert gone(told["home"])


@only_root
def test_binaries_out_of_reach_are_copied_once(
    own_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = next((one for one in INSTALLATIONS if one.provider.endswith("-postgres")), None)
    if wheel is None:
        pytest.skip("no wheel with binaries is installed")
    package = wheel.bin_dir.parents[1]
    hidden = own_dir / "hidden"
    hidden.mkdir(mode=0o700)
    for folder in (package, package.with_name(f"{package.name}.libs")):
        if folder.exists():
            shutil.copytree(folder, hidden / folder.name)
    cache = own_dir / "temp"
    cache.mkdir()
    cache.chmod(0o1777)
    monkeypatch.setattr(tempfile, "tempdir", str(cache))
    bin_dir = hidden / package.name / "pginstall" / "bin"

    with EmbeddedServer.start(binaries=bin_dir, fsync=False) as server:
        assert cache in server.bin_dir.parents
        server.create_database("works")
    copy = readable(find(bin_dir), Account.choose())
    assert copy.bin_dir == server_copy(cache)
    assert readable(find(bin_dir), Account.choose()) == copy
    owner = (cache / "pgconductor-postgres").stat()
    assert (owner.st_uid, stat.S_IMODE(owner.st_mode)) == (0, 0o755)


def server_copy(cache: Path) -> Path:
    (found,) = (cache / "pgconductor-postgres").glob("*/**/bin/postgres")
    return found.parent


@only_root
def test_a_planted_cache_is_refused(own_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = own_dir / "pgconductor-postgres"
    planted.mkdir()
    planted.chmod(0o777)
    hidden = own_dir / "hidden"
    shutil.copytree(find().bin_dir, hidden / "bin")
    hidden.chmod(0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(own_dir))
    with pytest.raises(EmbeddedServerError, match="somebody else put it there"):
        EmbeddedServer.start(binaries=hidden / "bin")


@only_root
def test_a_directory_out_of_reach_is_an_error(own_dir: Path) -> None:
    own_dir.chmod(0o700)
    with pytest.raises(EmbeddedServerError, match=r"cannot enter .* Choose a directory"):
        EmbeddedServer.start(own_dir / "server")


# --- databases, restarts, crashes ----------------------------------------------------------------


async def test_databases_come_and_go() -> None:
    with EmbeddedServer.start(fsync=False) as server:
        server.create_database('odd "name"')
        async with raw(server.url_for('odd "name"')) as connection:
            await connection.execute("CREATE TABLE t AS SELECT 42 AS n")
        server.create_database("clone", template='odd "name"', strategy="wal_log")
        async with raw(server.url_for("clone")) as connection:
            assert await connection.fetchval("SELECT n FROM t") == 42
            server.drop_database("clone")  # although we are connected
        server.drop_database("clone")  # although there is none
        with pytest.raises(EmbeddedServerError, match="already exists"):
            server.create_database('odd "name"')


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_restart_keeps_data_and_address(mode: str) -> None:
    assert mode in ("fast", "immediate")
    with EmbeddedServer.start() as server:
        url, before = server.url, server.pid
        async with raw(url) as connection:
            await connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
            server.restart("fast" if mode == "fast" else "immediate")
            assert await fails(connection)
        assert server.url == url
        assert server.pid != before
        async with raw(url) as connection:
            assert await connection.fetchval("SELECT n FROM kept") == 1
        recovered = any("not properly shut down" in line for line in server.log_tail(100))
        assert recovered == (mode == "immediate")


async def test_a_killed_backend_makes_the_server_recover() -> None:
    with EmbeddedServer.start() as server:
        async with raw(server.url) as victim, raw(server.url) as bystander:
            server.kill_backend(await victim.fetchval("SELECT pg_backend_pid()"))
            # The bystander's connection is ended too: shared memory may be corrupt.
            await eventually(lambda: fails(bystander), timeout=60)

        async def answers() -> bool:
            try:
                async with raw(server.url) as connection:
                    return not await fails(connection)
            except BROKEN:
                return False

        await eventually(answers, timeout=60)
        with pytest.raises(ServerStateError):
            server.kill_backend(os.getpid())


def test_a_server_that_does_not_start_shows_its_log() -> None:
    with pytest.raises(ServerStartError, match="no_such_setting") as caught:
        EmbeddedServer.start(settings={"no_such_setting": "1"})
    assert any("no_such_setting" in line for line in caught.value.log_tail)


def test_a_stopped_server_says_so() -> None:
    server = EmbeddedServer.start(fsync=False)
    server.stop()
    server.stop()
    with pytest.raises(ServerStateError, match="stopped"):
        _ = server.url


def test_ctrl_c_passes_the_server_by() -> None:
    with EmbeddedServer.start(fsync=False) as server:
        assert os.getsid(server.pid) != os.getsid(0)
        assert server._keeper is not None
        os.kill(server._keeper.pid, signal.SIGINT)
        server.create_database("still_there")


# --- the end of the parent -----------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
async def test_a_temporary_server_ends_with_its_parent(
    children: Children, number: signal.Signals
) -> None:
    child, told = await start_in_child(children, fsync=False)
    pid, keeper, home = told["pid"], told["keeper"], told["home"]
    assert isinstance(pid, int)
    assert isinstance(keeper, int)
    os.kill(child.pid, number)
    await child.wait()
    await eventually(lambda: not alive(pid), timeout=60)
    await eventually(lambda: not alive(keeper), timeout=60)
    assert gone(str(home))


async def test_a_kept_server_ends_well_with_its_killed_parent(
    children: Children, own_dir: Path
) -> None:
    child, told = await start_in_child(children, data_dir=str(own_dir))
    keeper = told["keeper"]
    assert isinstance(keeper, int)
    child.kill()
    await child.wait()
    await eventually(lambda: not alive(keeper), timeout=60)
    assert not (own_dir / "server.json").exists()
    with EmbeddedServer.start(own_dir) as again:
        assert again.owned
        assert not any("not properly shut down" in line for line in again.log_tail(100))


async def test_a_parent_killed_in_initdb_leaves_nothing(children: Children, own_dir: Path) -> None:
    child = await children.start("-c", KEEP_A_SERVER, json.dumps({"data_dir": str(own_dir)}))
    unfinished = own_dir / "data.initdb"
    await eventually((unfinished / "PG_VERSION").exists, timeout=60, interval=0.001)
    child.kill()
    await child.wait()
    await eventually(lambda: not unfinished.exists())
    with EmbeddedServer.start(own_dir, fsync=False) as again:
        again.create_database("works")


def test_a_killed_keeper_is_made_up_for() -> None:
    server = EmbeddedServer.start(fsync=False)
    pid, home, keeper = server.pid, server.home, server._keeper
    assert keeper is not None
    os.kill(keeper.pid, signal.SIGKILL)
    server.stop()
    assert not alive(pid)
    assert not home.exists()


def test_a_forked_child_does_not_stop_the_server() -> None:
    code = """
import os
from pgconductor.dev import EmbeddedServer
with EmbeddedServer.start(fsync=False) as server:
    if (child := os.fork()) == 0:
        server.stop()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    server.create_database("still_there")
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr


# --- attaching -----------------------------------------------------------------------------------


async def test_a_second_process_attaches(children: Children, own_dir: Path) -> None:
    first, told = await start_in_child(children, data_dir=str(own_dir), fsync=False)
    second, also = await start_in_child(children, data_dir=str(own_dir), fsync=False)
    assert (told["owned"], also["owned"]) == (True, False)
    assert (told["url"], told["pid"]) == (also["url"], also["pid"])
    attached = EmbeddedServer.attach(own_dir)
    with pytest.raises(ServerStateError, match="may restart"):
        attached.restart()
    attached.stop()
    await second.send_line("end")
    assert await second.wait() == 0
    async with raw(str(told["url"])) as connection:
        assert await connection.fetchval("SELECT 1") == 1
    await first.send_line("end")
    assert await first.wait() == 0
    with pytest.raises(ServerStateError, match="No server is running"):
        EmbeddedServer.attach(own_dir)


async def test_of_several_at_once_one_starts(children: Children, own_dir: Path) -> None:
    several = [
        await children.start("-c", KEEP_A_SERVER, json.dumps({"data_dir": str(own_dir)}))
        for _ in range(4)
    ]
    lines = [await child.wait_for_line("started", timeout=60) for child in several]
    told = [json.loads(line.removeprefix("started")) for line in lines]
    assert sorted(one["owned"] for one in told) == [False, False, False, True]
    assert len({one["pid"] for one in told}) == 1


def test_a_kept_server_has_the_same_address_again(own_dir: Path) -> None:
    with EmbeddedServer.start(own_dir, fsync=False) as server:
        first = server.url
        server.create_database("kept")
    with EmbeddedServer.start(own_dir, fsync=False) as server:
        assert server.url == first
        with connect(server.url_for("kept")) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_long_path_gets_its_socket_elsewhere(own_dir: Path) -> None:
    long = own_dir / ("d" * 120)
    with EmbeddedServer.start(long, fsync=False) as server:
        sockets = server.address.socket_dir
        assert long not in sockets.parents
        server.create_database("works")
    assert not sockets.exists()


# --- TCP -----------------------------------------------------------------------------------------


async def test_tcp_wants_the_password() -> None:
    with EmbeddedServer.start(tcp=True, fsync=False, settings={"log_statement": "all"}) as server:
        url = make_url(server.url)
        assert url.host == "127.0.0.1"
        assert url.password is not None
        async with raw(server.url) as connection:
            assert await connection.fetchval("SELECT inet_server_addr()") is not None
        for wrong in ("", "wrong"):
            with pytest.raises(asyncpg.InvalidPasswordError):
                await asyncpg.connect(
                    host=url.host, port=url.port, user="postgres", password=wrong, passfile=None
                )
        assert url.password not in "\n".join(server.log_tail(1000))
        assert url.password not in repr(server)
        assert url.password not in repr(server.address)
        before = server.url
        server.restart("immediate")
        assert server.url == before
        async with raw(server.url) as connection:
            assert await connection.fetchval("SELECT 1") == 1


async def test_a_port_can_be_chosen() -> None:
    with EmbeddedServer.start(port=6543, fsync=False) as server:
        async with raw(server.url) as connection:
            assert await connection.fetchval("SHOW port") == "6543"
