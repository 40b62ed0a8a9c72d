"""What stands in a migration's way: orchestrators, locks, servers; `coordinator.md`, the table.

Each is a real `alembic upgrade head` in a process of its own; the exit codes are those of
`docs/migrations.md`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import make_url

from pgconductor.dev import EmbeddedServer
from pgconductor.exceptions import MigrationUnderWay, NotRegistered, SchemaTooNew
from pgconductor.services import ExecutionService
from tests.faults.drills import Drill
from tests.faults.migrations import Deploys, told
from tests.support.pgbouncer import pgbouncer
from tests.support.processes import Children
from tests.support.servers import chosen_binaries, connect
from tests.support.waiting import ASLEEP, eventually

pytestmark = [pytest.mark.faults]

ADD_COLUMN = "def change(): op.execute('ALTER TABLE pgconductor.executions ADD COLUMN more int')"


@pytest.fixture
def deploys(database_url: str, children: Children, tmp_path: Path) -> Deploys:
    return Deploys(database_url, children, tmp_path)


# --- orchestrators -------------------------------------------------------------------------------


async def test_an_old_orchestrator_never_leaves(deploys: Deploys) -> None:
    """Named with all that is known of it; nothing is changed, and others may come again."""
    deploys.add(2, breaking=False)
    deploys.add(3, breaking=True)
    async with deploys.fleet() as fleet:
        old = await fleet.register()
        await ExecutionService(fleet.service._work).invoke("resize")
        (held,) = await ExecutionService(fleet.service._work).fetch(old, limit=9)
        child = await deploys.start("-x", "drain_timeout=0.5")
        assert await child.wait() == 13
        for word in (
            str(old.orchestrator_id),
            "release 0",
            "revision 0001",
            "1 executions running",
            "the oldest of resize",
            "--evict",
        ):
            assert word in child.errors[-1]
        # What breaks nothing was applied before.
        deploys.assert_at(2)
        deploys.assert_free()
        await fleet.service.leave(await fleet.register(2))
        assert (await ExecutionService(fleet.service._work).get(held.id)).state == "running"
        await fleet.service.leave(old)


async def test_an_old_orchestrator_is_evicted(deploys: Deploys) -> None:
    """I1: what it writes afterwards is refused, and it learns so."""
    deploys.add(2, breaking=True)
    async with deploys.fleet() as fleet:
        old = await fleet.register()
        await fleet.service.heartbeat(old)
        child = await deploys.upgraded("-x", "drain_timeout=0.5", "-x", "on_drain_timeout=evict")
        assert f"evicted: orchestrator {old.orchestrator_id}" in told(child)
        assert "1 orchestrator evicted" in child.errors[-1]
        deploys.assert_at(2, floor=2)
        with pytest.raises(NotRegistered):
            await fleet.service.heartbeat(old)
        with pytest.raises(SchemaTooNew):
            await fleet.register()


async def test_what_an_old_orchestrator_holds_cannot_be_seen(deploys: Deploys) -> None:
    """The schema before is not what this release's statements are for: named, and not evicted."""
    deploys.add(2, breaking=True)
    async with deploys.fleet() as fleet:
        old = await fleet.register()
        deploys.execute("ALTER TABLE pgconductor.executions RENAME COLUMN locked_at TO other")
        child = await deploys.start("-x", "drain_timeout=0.5", "-x", "on_drain_timeout=evict")
        assert await child.wait() == 13, told(child)
        assert "cannot take back what dead orchestrators hold" in told(child)
        assert f"{old.orchestrator_id} (release" in child.errors[-1]
        assert "what it holds is not known" in child.errors[-1]
        deploys.assert_at(1)
        deploys.assert_free()
        deploys.execute("ALTER TABLE pgconductor.executions RENAME COLUMN other TO locked_at")
        await fleet.service.leave(old)


async def test_an_old_orchestrator_starts_in_the_middle(deploys: Deploys) -> None:
    """A6: the one that is there goes on being waited for, the newcomer is refused."""
    deploys.add(2, breaking=True)
    async with deploys.fleet() as fleet:
        old = await fleet.register()
        child = await deploys.start()
        await eventually(lambda: "to leave first" in told(child), timeout=20)
        with pytest.raises(MigrationUnderWay, match="0002"):
            await fleet.register()
        new = await fleet.register(2)
        assert await fleet.asked(old)
        assert not await fleet.asked(new)
        await fleet.service.leave(old)
        assert await child.wait() == 0, told(child)
        deploys.assert_at(2, floor=2)
        assert await fleet.ids() == {new.orchestrator_id}
        with pytest.raises(SchemaTooNew):
            await fleet.register()
        await fleet.service.leave(new)


async def test_a_registration_cannot_slip_past_a_sweep(deploys: Deploys) -> None:
    """A6: one that has begun is waited for before the intent is announced, and then swept."""
    deploys.add(2, breaking=True)
    async with deploys.fleet() as fleet:
        with connect(deploys.url) as registering:
            registering.autocommit = False
            registering.execute("SELECT * FROM pgconductor.schema_gate FOR SHARE")
            child = await deploys.start("-x", "lock_timeout=0.2")
            blocked = (
                "SELECT count(*) > 0 FROM pg_stat_activity"
                " WHERE application_name LIKE 'pgconductor-migrate%'"
                " AND datname = current_database()"
            )
            await eventually(lambda: deploys.rows(blocked) == [(True,)], timeout=20)
            registering.execute(
                "INSERT INTO pgconductor.orchestrators"
                " (id, version, schema_version, schema_required, hostname, pid)"
                " VALUES ('00000000-0000-0000-0000-000000000007', '0', 1, 1, 'here', 7)"
            )
            registering.commit()
        await eventually(lambda: "1 orchestrator has to leave first" in told(child), timeout=20)
        asked = "SELECT count(*) FROM pgconductor.orchestrators WHERE shutdown_reason LIKE '%0002%'"
        assert deploys.rows(asked) == [(1,)]
        assert await fleet.ids()
        deploys.assert_at(1)
        deploys.execute("DELETE FROM pgconductor.orchestrators")
        assert await child.wait() == 0, told(child)


async def test_dead_and_frozen_orchestrators_do_not_hinder(drill: Drill, deploys: Deploys) -> None:
    """I3, I1: recovered after the stale threshold; thawed, one ends by itself and changes nothing.

    What the frozen one held is executed by the next release.
    """
    deploys.add(2, breaking=True)
    one_each = {"DRILL_CONCURRENCY": "1"}
    dead, frozen = await drill.worker(env=one_each), await drill.worker(env=one_each)
    await drill.invoke_many("slow", [600.0] * 2)
    held = "SELECT count(*) FROM pgconductor.executions WHERE state = 'running'"
    holders = held.replace("count(*)", "count(DISTINCT locked_by)")
    await eventually(lambda: drill.value(holders) == 2, timeout=20)
    frozen.sigstop()
    dead.kill()
    await dead.wait()
    quick = {"HEARTBEAT_INTERVAL": "0.2", "SELF_FENCE_AFTER": "1", "STALE_AFTER": "2"}
    env = {f"PGCONDUCTOR_{name}": value for name, value in quick.items()}
    child = await deploys.upgraded(env=env | {"PGCONDUCTOR_SWEEP_INTERVAL": "0.5"})
    assert told(child).count("was found stale") == 2
    deploys.assert_at(2, floor=2)
    assert drill.registered() == set()
    waiting = held.replace("'running'", "'available' AND crashes = 1")
    assert drill.value(waiting) == 2
    frozen.sigcont()
    await frozen.wait_for_line("exit")
    assert frozen.lines[-1] in {"exit evicted", "exit shutdown"}
    assert await frozen.wait() == 0
    assert drill.value(waiting) == 2


# --- locks ---------------------------------------------------------------------------------------


async def test_a_long_transaction_of_a_user(deploys: Deploys) -> None:
    """Tried again and again; between the tries everybody else goes on."""
    deploys.add(2, breaking=False, change=ADD_COLUMN)
    async with deploys.fleet() as fleet:
        executions = ExecutionService(fleet.service._work)
        with connect(deploys.url) as user:
            user.autocommit = False
            user.execute("SELECT count(*) FROM pgconductor.executions")
            child = await deploys.start("-x", "lock_timeout=0.1")
            await eventually(lambda: "did not get its locks" in told(child), timeout=20)
            for line in (f"server process {user.info.backend_pid} of", "on executions: SELECT"):
                assert line in told(child)
            # They queue behind a try for as long as it lasts, not for as long as the user does.
            for _ in range(5):
                async with asyncio.timeout(20):
                    await executions.invoke("task")
            deploys.assert_at(1)
            user.rollback()
        assert await child.wait() == 0, told(child)
    deploys.assert_at(2)


async def test_a_transaction_that_does_not_end(deploys: Deploys) -> None:
    deploys.add(2, breaking=False, change=ADD_COLUMN)
    with connect(deploys.url) as user:
        user.autocommit = False
        user.execute("SELECT count(*) FROM pgconductor.executions")
        child = await deploys.start("-x", "lock_timeout=0.1", "-x", "lock_wait=0.5")
        assert await child.wait() == 14
        assert f"server process {user.info.backend_pid} of" in child.errors[-1]
        assert "The database is at 0001" in child.errors[-1]
    deploys.assert_at(1)
    deploys.assert_free()


# --- servers -------------------------------------------------------------------------------------


async def test_the_server_restarts_in_the_middle(
    crash_server: EmbeddedServer, children: Children, tmp_path: Path
) -> None:
    """I9: it connects again, and goes on waiting for who was there before."""
    deploys = Deploys(crash_server.url, children, tmp_path)
    deploys.add(2, breaking=True)
    async with deploys.fleet() as fleet:
        await fleet.register()
        child = await deploys.start()
        await eventually(lambda: "to leave first" in told(child), timeout=20)
        crash_server.restart("immediate")
        await eventually(lambda: "connecting again" in told(child), timeout=20)
        deploys.execute("DELETE FROM pgconductor.orchestrators")
        assert await child.wait() == 0, told(child)
    deploys.assert_at(2, floor=2)
    deploys.assert_free()


async def test_the_connection_is_lost_inside_a_revision(deploys: Deploys) -> None:
    """Rolled back by the server; it looks how far it came, and applies it again."""
    slow_once = """
def change():
    if op.get_bind().exec_driver_sql("SELECT to_regclass('public.told') IS NULL").scalar():
        op.execute("SELECT pg_sleep(600)")
"""
    deploys.add(2, breaking=False, change=slow_once)
    child = await deploys.start()
    await eventually(lambda: deploys.rows(ASLEEP) == [(1,)], timeout=20)
    deploys.execute("CREATE TABLE public.told ()")
    deploys.execute(ASLEEP.replace("count(*)", "pg_terminate_backend(pid)"))
    assert await child.wait() == 0, told(child)
    assert "the connection was lost" in told(child)
    deploys.assert_at(2)
    deploys.assert_free()


async def test_a_revision_that_ends_its_own_connection(deploys: Deploys) -> None:
    """I9: lost at each try, it is the revision's doing."""
    suicide = "def change(): op.execute('SELECT pg_terminate_backend(pg_backend_pid())')"
    deploys.add(2, breaking=False, change=suicide)
    child = await deploys.start()
    assert await child.wait() == 18, told(child)
    assert told(child).count("the connection was lost") == 2
    deploys.assert_at(1)
    deploys.assert_free()


async def test_a_relative_target_is_counted_once(deploys: Deploys) -> None:
    """A second try goes on to where the first one was to go."""
    locks = "def change_back(): op.execute('LOCK TABLE pgconductor.steps')"
    for number in (2, 3, 4):
        deploys.add(number, breaking=False, **({"change_back": locks} if number == 3 else {}))
    await deploys.upgraded()
    with connect(deploys.url) as user:
        user.autocommit = False
        user.execute("SELECT count(*) FROM pgconductor.steps")
        child = await deploys.start("-x", "lock_timeout=0.1", command=("downgrade", "-2"))
        await eventually(lambda: "did not get its locks" in told(child), timeout=20)
        deploys.assert_at(3)
        user.rollback()
    assert await child.wait() == 0, told(child)
    deploys.assert_at(2)


async def test_time_limits_for_applications_are_not_for_revisions(deploys: Deploys) -> None:
    deploys.add(2, breaking=False, change="def change(): op.execute('SELECT pg_sleep(3)')")
    name = make_url(deploys.url).database
    deploys.execute(f"ALTER DATABASE {name} SET statement_timeout = '2s'")
    await deploys.upgraded()
    deploys.execute(f"ALTER DATABASE {name} RESET statement_timeout")
    deploys.assert_at(2)


async def test_what_is_not_known_after_x(deploys: Deploys) -> None:
    for option in ("drain_timout=60", "drain_timeout=soon", "lock_wait", "on_drain_timeout=kill"):
        child = await deploys.start("-x", option)
        assert await child.wait() == 2, told(child)
        assert "Traceback" not in told(child)
    deploys.assert_at(1)


async def test_a_standby(children: Children, tmp_path: Path) -> None:
    """A5: a server in recovery, which answers everything but writes nothing."""
    with EmbeddedServer.start(binaries=chosen_binaries(), fsync=False) as own:
        with connect(own.url_for("postgres")) as admin:
            (data,) = admin.execute("SHOW data_directory").fetchone() or ("",)
        open(f"{data}/standby.signal", "w").close()  # noqa: ASYNC230, PTH123 - a moment
        own.restart()
        deploys = Deploys(own.url_for("postgres"), children, tmp_path)
        child = await deploys.start()
        assert await child.wait() == 16
        assert "read-only standby" in child.errors[-1]
        assert "target_session_attrs" in child.errors[-1]


async def test_a_wrong_password(children: Children, tmp_path: Path) -> None:
    """A5: it surfaces as itself, and the password does not."""
    with EmbeddedServer.start(binaries=chosen_binaries(), fsync=False, tcp=True) as own:
        url = make_url(own.url).set(password="wr0ng-secret")
        deploys = Deploys(url.render_as_string(hide_password=False), children, tmp_path)
        child = await deploys.start()
        assert await child.wait() == 8
        assert "password authentication failed" in child.errors[-1]
        assert "wr0ng" not in told(child)


async def test_a_pooler(deploys: Deploys) -> None:
    deploys.add(2, breaking=False)
    with pgbouncer(deploys.url, pool_size=3) as pooler:
        child = await deploys.start(url=pooler.url)
        assert await child.wait() == 17
        assert "PGCONDUCTOR_DIRECT_URL" in child.errors[-1]
        deploys.assert_at(1)


# --- histories -----------------------------------------------------------------------------------


async def test_a_revision_that_fails(deploys: Deploys) -> None:
    """Those before it stay, the gate is open, and orchestrators may come again."""
    deploys.add(2, breaking=False)
    deploys.add(3, breaking=True, change="def change(): op.execute('SELECT 1 / 0')")
    child = await deploys.start()
    assert await child.wait() == 18
    assert "revision 0003 failed" in child.errors[-1]
    assert "division by zero. The database is at 0002" in child.errors[-1]
    deploys.assert_at(2)
    deploys.assert_free()
    async with deploys.fleet() as fleet:
        await fleet.service.leave(await fleet.register())


async def test_a_revision_that_is_no_sql(deploys: Deploys) -> None:
    deploys.add(2, breaking=False, change="def change(): {}['missing']")
    child = await deploys.start()
    assert await child.wait() == 18
    assert "revision 0002 failed" in child.errors[-1]
    deploys.assert_at(1)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("UPDATE pgconductor.pgconductor_version SET version_num = '0099'", "says 0099"),
        ("UPDATE pgconductor.pgconductor_version SET version_num = 'ae102'", "says ae102"),
        ("DELETE FROM pgconductor.pgconductor_version", "says nothing"),
        ("INSERT INTO pgconductor.pgconductor_version VALUES ('0002')", "says 0001, 0002"),
        ("DELETE FROM pgconductor.schema_migrations", "has 0 revisions"),
        ("INSERT INTO pgconductor.schema_migrations VALUES (7, 'x', now(), true)", "up to 0007"),
        ("UPDATE pgconductor.schema_gate SET installed = 0", "gate says 0000"),
    ],
)
async def test_what_does_not_agree(deploys: Deploys, damage: str, words: str) -> None:
    deploys.add(2, breaking=False)
    deploys.execute(damage)
    child = await deploys.start()
    assert await child.wait() == 19
    assert words in child.errors[-1]
    assert "stamp" not in child.errors[-1]
    assert deploys.rows("SELECT installed = 2 FROM pgconductor.schema_gate") == [(False,)]


@pytest.mark.parametrize(("breaking", "code"), [(False, 0), (True, 10)])
async def test_an_older_release_after_a_newer_one(
    deploys: Deploys, tmp_path: Path, breaking: bool, code: int
) -> None:
    """A rollback of the code alone: its deploy step finds nothing to do, or says why it cannot."""
    older = tmp_path / "older"
    older.mkdir()
    previous = Deploys(deploys.url, deploys.children, older)
    deploys.add(2, breaking=breaking)
    await deploys.upgraded()
    child = await previous.start()
    assert await child.wait() == code, told(child)
    if breaking:
        assert "0002 is breaking" in child.errors[-1]
    else:
        assert "0002: nothing to do" in child.errors[-1]
    deploys.assert_at(2, floor=2 if breaking else 0)
    back = await previous.start(command=("downgrade", "0001"))
    if not breaking:
        # 0001 is behind the database, and 0002 is not at hand.
        assert await back.wait() == 19
        assert "go back with the release" in back.errors[-1]
