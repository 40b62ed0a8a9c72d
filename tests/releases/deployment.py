"""A deployment under load: workers of several releases, their supervisor, ``alembic upgrade``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from psycopg.rows import dict_row

from tests.releases.build import Release, Releases
from tests.support.processes import Child, Children
from tests.support.servers import connect
from tests.support.waiting import eventually

PROJECT = Path(__file__).with_name("project")
ALEMBIC = Path(sys.executable).parent / "alembic"
#: Longer than anything here takes, even on a busy machine.
PATIENCE = 60.0

#: The second is for what a certain worker is to execute.
APART = "apart"
QUEUES = ("default", APART)

#: Everything is short, so that a drill takes seconds. The grace is longer than any handler that
#: ends by itself.
SETTINGS = {
    "HEARTBEAT_INTERVAL": "0.3",
    "SELF_FENCE_AFTER": "2.5",
    "STALE_AFTER": "4",
    "SWEEP_INTERVAL": "0.5",
    "POLL_INTERVAL": "0.2",
    "GIVE_BACK_AFTER": "0.5",
    "SHUTDOWN_GRACE": "8",
    "SUSPEND_AFTER": "0.1",
    "STARTUP_TIMEOUT": "50",
    "MIGRATION_DRAIN_TIMEOUT": "50",
    "MIGRATION_LOCK_TIMEOUT": "0.5",
}

# What handlers do, and who is registered when, by the database's clock. Nothing of the engine's.
WATCH = """
CREATE TABLE effects (
    id bigserial PRIMARY KEY,
    execution_id uuid NOT NULL,
    task text NOT NULL,
    what text NOT NULL,
    release text NOT NULL,
    pid int NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE presence (
    id bigserial PRIMARY KEY,
    orchestrator_id uuid NOT NULL,
    release text NOT NULL,
    pid int NOT NULL,
    came boolean NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE FUNCTION watch_presence() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    one record;
BEGIN
    IF TG_OP = 'INSERT' THEN one := NEW; ELSE one := OLD; END IF;
    INSERT INTO public.presence (orchestrator_id, release, pid, came)
    VALUES (one.id, one.version, one.pid, TG_OP = 'INSERT');
    RETURN NULL;
END $$;
CREATE TRIGGER watch_presence AFTER INSERT OR DELETE ON pgconductor.orchestrators
FOR EACH ROW EXECUTE FUNCTION watch_presence();
"""


@dataclass
class Place:
    """One place of a deployment, and who has had it.

    Attributes:
        child: Who has it now.
        ended: Those before: their release and exit code.
    """

    child: Child
    ended: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])


class Deployment:
    """A database at the old release's revision, and whatever is started on it.

    Args:
        url: Its asyncpg URL.
        releases: What can be started.
        children: Starts the processes.
        report: Called with each figure that is measured.
    """

    def __init__(
        self, url: str, releases: Releases, children: Children, report: Callable[[str], None]
    ) -> None:
        self.url = url
        self.releases = releases
        self.report = report
        self._children = children
        self._producers: list[Child] = []
        self._places: list[asyncio.Task[None]] = []
        self._invoked: list[UUID] = []
        self.execute(WATCH)

    async def close(self) -> None:
        """Let go of the places; the processes are killed by who started them."""
        for place in self._places:
            place.cancel()
        for result in await asyncio.gather(*self._places, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    # --- processes -------------------------------------------------------------------------------

    async def _start(
        self, release: Release, *arguments: str | Path, env: Mapping[str, str] | None = None
    ) -> Child:
        given = {f"PGCONDUCTOR_{name}": value for name, value in SETTINGS.items()}
        given |= {"PGCONDUCTOR_DATABASE_URL": self.url, **release.environment, **(env or {})}
        return await self._children.start(*arguments, env=given, cwd=PROJECT)

    async def worker(
        self,
        release: Release,
        *,
        queues: Sequence[str] = QUEUES,
        wait: bool = True,
        env: Mapping[str, str] | None = None,
    ) -> Child:
        """Start a worker by the command line, and wait until it is registered."""
        command = ["-m", "pgconductor", "worker", "app:conductor", "--concurrency", "4"]
        command += [f"--queue={queue}" for queue in queues]
        child = await self._start(release, *command, env=env)
        await _is_of(child, release)
        if wait:
            await self.registered(child)
        return child

    async def producer(self, release: Release) -> Child:
        """Start what invokes tasks all the time."""
        child = await self._start(release, "app.py")
        await _is_of(child, release)
        self._producers.append(child)
        await child.wait_for_line("invoked")
        return child

    async def alembic(
        self, release: Release, *arguments: str, env: Mapping[str, str] | None = None
    ) -> Child:
        """Start the bare command line in the environment of a release."""
        return await self._start(release, ALEMBIC, *arguments, env=env)

    async def upgraded(self, release: Release, env: Mapping[str, str] | None = None) -> str:
        """``alembic upgrade head``, which must succeed; what it has said."""
        return await self.succeeded(await self.alembic(release, "upgrade", "head", env=env))

    async def succeeded(self, child: Child) -> str:
        """Wait for a command that must succeed; what it has said."""
        code = await child.wait(PATIENCE)
        assert code == 0, "\n".join(child.errors)
        return "\n".join(child.errors)

    async def supervised(
        self, release: Release, *then: Release, env: Mapping[str, str] | None = None
    ) -> Place:
        """Start a worker, and as often as it ends, the next one in its place.

        Args:
            release: Of the first.
            then: Of those that follow, one after the other.
            env: Of all of them.
        """
        place = Place(await self.worker(release, env=env))

        async def keep() -> None:
            holder = release
            for following in then:
                code = await place.child.wait(PATIENCE)
                place.ended.append((holder.version, code))
                place.child = await self.worker(following, wait=False, env=env)
                holder = following

        self._places.append(asyncio.create_task(keep()))
        return place

    async def settled(self) -> None:
        """Wait until all places are taken by the last who was to take them."""
        await asyncio.gather(*self._places)

    async def registered(self, *children: Child) -> None:
        """Wait until these are registered."""

        def all_there() -> bool:
            for child in children:
                assert child.returncode is None, "\n".join(child.errors)
            assert {child.pid for child in children} <= self.registered_pids()
            return True

        await eventually(all_there, timeout=PATIENCE, interval=0.05)

    async def freeze(self, child: Child) -> None:
        """Freeze a process, but not amid a transaction: its locks would hold up every revision."""
        while True:
            child.sigstop()
            if await self._end(self._transactions()):
                return
            child.sigcont()

    async def _end(self, transactions: set[tuple[int, datetime]]) -> bool:
        """Whether all of these end; that of somebody who is frozen does not."""
        try:
            await eventually(lambda: not transactions & self._transactions(), timeout=1.0)
        except AssertionError:
            return False
        return True

    def _transactions(self) -> set[tuple[int, datetime]]:
        found = self.rows(
            "SELECT pid, xact_start FROM pg_stat_activity WHERE datname = current_database()"
            " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
            " AND xact_start IS NOT NULL"
        )
        return {(row["pid"], row["xact_start"]) for row in found}

    async def says(self, child: Child, words: str) -> None:
        """Wait until a process has logged this."""

        def said() -> bool:
            assert any(words in line for line in child.errors), "\n".join(child.errors)
            return True

        await eventually(said, timeout=PATIENCE, message=f"a process says {words!r}")

    # --- work ------------------------------------------------------------------------------------

    def invoke(self, task: str, queue: str = "default") -> UUID:
        """Invoke a task from SQL, which belongs to no release."""
        found: UUID = self.value("SELECT id FROM pgconductor.invoke(%s, %s)", task, queue)
        self._invoked.append(found)
        return found

    async def stuck_worker(
        self, release: Release, until: Path, env: Mapping[str, str] | None = None
    ) -> tuple[Child, UUID]:
        """A worker with a handler that blocks a thread until a file is there, and its execution.

        It serves a queue of its own, and has been told to wait for its handlers for very long.
        """
        patient = {"DRILL_STUCK": str(until), "PGCONDUCTOR_SHUTDOWN_GRACE": "600", **(env or {})}
        child = await self.worker(release, queues=[APART], env=patient)
        execution = self.invoke("stuck", APART)
        await self.begun(execution)
        return child, execution

    async def begun(self, *executions: UUID) -> None:
        """Wait until the handlers of these have begun."""
        await self.until(
            "SELECT count(DISTINCT execution_id) = %s FROM effects"
            " WHERE execution_id = ANY (%s) AND what = 'begun'",
            len(executions),
            list(executions),
        )

    async def ended_by(self, release: Release, *, more: int = 5) -> None:
        """Wait until handlers of a release have ended, so many more than by now."""
        counted = "SELECT count(*) FROM effects WHERE what = 'ended' AND release = %s"
        before = int(self.value(counted, release.version))
        await self.until(f"SELECT ({counted}) >= %s", release.version, before + more)

    async def finished(self) -> None:
        """End the producers, and wait until everything that was invoked has finished."""
        for child in self._producers:
            child.terminate()
            assert await child.wait() == 0, "\n".join(child.errors)
            assert child.lines[-1] == "produced"
        await self.until(
            "SELECT count(*) = 0 FROM pgconductor.executions WHERE finished_at IS NULL"
        )

    @property
    def invoked(self) -> set[UUID]:
        """Everything that was invoked, as those who invoked it know."""
        told = (line.split() for child in self._producers for line in child.lines)
        return {UUID(words[1]) for words in told if words[0] == "invoked"} | set(self._invoked)

    # --- the database, behind everybody's back ---------------------------------------------------

    def execute(self, statement: str) -> None:
        with connect(self.url) as connection:
            connection.execute(statement.encode())

    def rows(self, statement: str, *arguments: Any) -> list[dict[str, Any]]:
        with connect(self.url) as connection:
            cursor = connection.cursor(row_factory=dict_row)
            return cursor.execute(statement.encode(), arguments).fetchall()

    def value(self, statement: str, *arguments: Any) -> Any:
        (row,) = self.rows(statement, *arguments)
        (value,) = row.values()
        return value

    async def until(self, statement: str, *arguments: Any) -> None:
        """Wait until a statement says true."""
        await eventually(
            lambda: bool(self.value(statement, *arguments)),
            timeout=PATIENCE,
            interval=0.05,
            message=f"{statement} {arguments}",
        )

    def execution(self, execution_id: UUID) -> dict[str, Any]:
        """An execution as JSON has it, whatever its columns are called by now."""
        found: dict[str, Any] = self.value(
            "SELECT to_jsonb(e) FROM pgconductor.executions e WHERE id = %s", execution_id
        )
        return found

    def beginnings(self, execution_id: UUID) -> list[str]:
        """The releases in which its handler has begun, one after the other."""
        return self._effects(execution_id, "begun")

    def ends(self, execution_id: UUID) -> list[str]:
        """The releases in which its handler has ended."""
        return self._effects(execution_id, "ended")

    def _effects(self, execution_id: UUID, what: str) -> list[str]:
        found = self.rows(
            "SELECT release FROM effects WHERE execution_id = %s AND what = %s ORDER BY id",
            execution_id,
            what,
        )
        return [row["release"] for row in found]

    def everything(self) -> list[dict[str, Any]]:
        """All executions and all effects, to be compared later."""
        return self.rows(
            "SELECT to_jsonb(e) AS one FROM pgconductor.executions e"
            " UNION ALL SELECT to_jsonb(f) FROM effects f ORDER BY 1"
        )

    def registered_pids(self) -> set[int]:
        """The process ids of those that are registered."""
        return {row["pid"] for row in self.rows("SELECT pid FROM pgconductor.orchestrators")}

    def gate(self) -> dict[str, Any]:
        """The gate, in one dictionary."""
        (row,) = self.rows("SELECT * FROM pgconductor.schema_gate")
        return row


async def _is_of(child: Child, release: Release) -> None:
    """The process must use what was installed of this release, and nothing of the checkout."""
    said = await child.wait_for_line("release", PATIENCE)
    assert said == f"release {release.version} {release.site / 'pgconductor'}"
