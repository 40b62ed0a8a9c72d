"""Several orchestrators in one process, each with connections of its own, to crash and to stop.

A crash is as sudden as it can be in one process: nothing of it gets to do anything while its
connections are ended at the server and new ones are refused. What is cleared away afterwards, for
the sake of the process, reaches no database.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from psycopg.rows import dict_row
from pydantic import SecretStr
from sqlalchemy import event

from pgconductor import Conductor, Settings, Task
from pgconductor.domain.orchestrators import Beat, Recovery, StaleObserver
from pgconductor.runtime.orchestrator import ExitReason, Orchestrator
from pgconductor.testing import DatabaseClock
from tests.faults.performers import Notes, declare
from tests.faults.programs import Program, Report
from tests.support.servers import connect
from tests.support.waiting import eventually

__all__ = ["RECOVERY", "STALE_AFTER", "Fleet", "Member"]

#: Longer than anything takes that is going to happen at all, even on a busy machine.
RECOVERY = 40.0
#: Nobody is found stale by the clock of this process: the machine says who is.
STALE_AFTER = timedelta(minutes=10)
_SETTINGS: dict[str, Any] = {
    "heartbeat_interval": 0.2,
    "self_fence_after": 500,
    "stale_after": STALE_AFTER,
    "sweep_interval": 0.5,
    "poll_interval": 0.05,
    "shutdown_grace": 0.3,
    "give_back_after": 0.3,
    "startup_policy": "refuse",
    # Clocks jump by days.
    "retain_completed": "forever",
    "retain_failed": "forever",
    "retain_events": "forever",
}


@dataclass(eq=False)
class Member:
    """An orchestrator, with its connections.

    Attributes:
        conductor: Its own.
        clock: Of its connections.
        orchestrator: It.
        deaf: Whether it beats so seldom that it hears late of having been evicted.
        dead: Whether no new connection is made any more.
        pids: The server processes of its connections.
    """

    conductor: Conductor
    clock: DatabaseClock
    orchestrator: Orchestrator
    deaf: bool
    dead: bool = False
    pids: set[int] = field(default_factory=set[int])

    @property
    def id(self) -> UUID:
        return self.orchestrator.registration.orchestrator_id

    def beat_now(self) -> None:
        """Have it learn what there is to learn."""
        machine = self.orchestrator._machine  # pyright: ignore[reportPrivateUsage]
        assert machine is not None
        machine.heartbeat.beat_now()

    def watch_connections(self) -> None:
        """Know them all, and refuse new ones once it is dead."""
        engine = self.conductor.engine.sync_engine

        def refuse(*_: Any) -> None:
            if self.dead:
                raise ConnectionRefusedError("the process is dead")

        def connected(made: Any, _: Any) -> None:
            self.pids.add(made.driver_connection.get_server_pid())
            refuse()

        event.listen(engine, "do_connect", refuse, insert=True)
        event.listen(engine, "connect", connected)


class Fleet:
    """The database, and who works on it.

    Args:
        url: Its asyncpg URL.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.notes = Notes()
        self.living: list[Member] = []
        self.evicted: list[Member] = []
        self.crashed: list[Member] = []
        self.offset = timedelta(0)
        self.control = self._conductor()
        self._clock = DatabaseClock(self.control.engine)
        self.tasks: dict[str, Task[Program, Report]] = declare(
            self.control, self.notes, lambda: False
        )
        self._watching = connect(url)
        self.notes.gate.set()

    def _conductor(self, **settings: Any) -> Conductor:
        url = SecretStr(self.url)
        return Conductor(Settings(database_url=url, **{**_SETTINGS, **settings}))

    # --- the database, behind everybody's back ---------------------------------------------------

    def rows(self, statement: str, **arguments: Any) -> list[dict[str, Any]]:
        """The answer to a statement, by the clock that everybody has."""
        cursor = self._watching.cursor(row_factory=dict_row)
        cursor.execute(
            "SELECT set_config('pgconductor.clock_offset', %s, false)",
            [f"{self.offset // timedelta(microseconds=1)} microseconds"],
        )
        cursor.execute(statement.encode(), arguments or None)
        return cursor.fetchall() if cursor.description else []

    def value(self, statement: str, **arguments: Any) -> Any:
        (row,) = self.rows(statement, **arguments)
        (value,) = row.values()
        return value

    def jump(self, by: timedelta) -> None:
        """Move everybody's clock; nothing of this process happens meanwhile."""
        self.offset += by
        for clock in (self._clock, *(one.clock for one in [*self.living, *self.evicted])):
            clock.advance(by)

    # --- orchestrators ---------------------------------------------------------------------------

    async def start(self, *, suspend_after: float, concurrency: int, deaf: bool) -> Member:
        """Start one that is on its feet when this returns."""
        conductor = self._conductor(
            suspend_after=suspend_after, heartbeat_interval=60 if deaf else 0.2
        )
        clock = DatabaseClock(conductor.engine)
        clock.advance(self.offset)
        declare(conductor, self.notes, lambda: member in self.evicted)
        orchestrator = conductor.orchestrator(concurrency=concurrency)
        member = Member(conductor, clock, orchestrator, deaf)
        member.watch_connections()
        await member.orchestrator.start()
        self.living.append(member)
        return member

    async def stop(self, member: Member, *, by_database: bool = False) -> None:
        """Have it stop by itself; it leaves nothing behind."""
        self.living.remove(member)
        identity, orchestrator = member.id, member.orchestrator
        if by_database:
            assert await self.control.orchestrators.request_shutdown(identity, reason="a drill")
            await eventually(lambda: orchestrator.exit_reason is not None, timeout=RECOVERY)
        await orchestrator.stop()
        await member.conductor.close()
        assert orchestrator.exit_reason in {
            ExitReason.SHUTDOWN if by_database else ExitReason.CLEAN,
            ExitReason.FORCED,
        }
        assert not self._registered(identity), "it has stopped, and its row is there still"
        held = self.rows(
            "SELECT id FROM pgconductor.executions WHERE locked_by = %(id)s", id=identity
        )
        assert not held, f"it has stopped, and holds {held}"

    def _registered(self, identity: UUID) -> bool:
        rows = self.rows("SELECT id FROM pgconductor.orchestrators WHERE id = %(id)s", id=identity)
        return bool(rows)

    async def crash(self, member: Member) -> None:
        """End it where it is."""
        self.living.remove(member)
        self.crashed.append(member)
        member.dead = True
        self._cut(member)
        # What a real crash would do away with is ended; its word reaches nobody.
        machine = member.orchestrator._machine  # pyright: ignore[reportPrivateUsage]
        assert machine is not None
        machine._on_evicted()  # pyright: ignore[reportPrivateUsage]
        await member.orchestrator.stop()
        await member.conductor.close()

    async def evict(self, member: Member) -> int:
        """Take away all that it holds; how much that was. It goes on until it hears of it."""
        self.living.remove(member)
        self.evicted.append(member)
        taken = 0

        async def gone() -> bool:
            nonlocal taken
            recovery = await self.control.orchestrators.evict(member.id)
            taken += recovery.executions
            # Where something that it held was locked, it is asked to stop, and may leave by itself.
            return not self._registered(member.id)

        await eventually(gone, timeout=RECOVERY, message="it has been evicted")
        return taken

    async def hear(self, member: Member) -> None:
        """Have one that was evicted hear of it: it ends by itself."""
        self.evicted.remove(member)

        def heard() -> bool:
            member.beat_now()  # Again: its connection may have been severed.
            return member.orchestrator.exit_reason is not None

        await eventually(heard, timeout=RECOVERY, interval=0.05)
        await member.orchestrator.stop()
        await member.conductor.close()
        reason = member.orchestrator.exit_reason
        # Where something that it held was locked, it was asked to stop before.
        assert reason in {ExitReason.EVICTED, ExitReason.SHUTDOWN}, reason

    def sever(self, member: Member) -> None:
        """End the connections that are the engine's own, at any moment; it is to go on."""
        self._cut(member, "pgconductor %")

    def _cut(self, member: Member, names: str = "%") -> None:
        """End its connections at the server. It blocks: nobody of this process does anything."""
        deadline = time.monotonic() + RECOVERY
        while True:
            left = self.value(
                "SELECT count(pg_terminate_backend(a.pid)) FROM pg_stat_activity a"
                " WHERE a.datname = current_database() AND a.pid = ANY (%(pids)s)"
                " AND a.application_name LIKE %(names)s",
                pids=list(member.pids),
                names=names,
            )
            if not left:
                return
            assert time.monotonic() < deadline, f"{left} connections do not end"

    async def recover(self) -> tuple[Recovery, list[UUID]]:
        """Have somebody find the crashed stale; what that was, and what they held."""
        gone = [one.id for one in self.crashed]
        held = self.rows(
            "SELECT id FROM pgconductor.executions WHERE locked_by = ANY (%(gone)s)", gone=gone
        )
        observer = StaleObserver(STALE_AFTER)
        # Whoever lives has beaten oftener by the time that it is looked at again.
        beats = [
            Beat(one.id, one.heartbeat_number, True)
            for one in await self.control.orchestrators.list()
        ]
        threshold = STALE_AFTER.total_seconds()
        for share in (2.5, 1.75, 1.0, 0.25):
            observer.observe(beats, time.monotonic() - share * threshold)
        self.jump(STALE_AFTER + timedelta(seconds=1))
        await eventually(self._all_beat, timeout=RECOVERY, interval=0.05)
        recovery = Recovery()

        async def all_gone() -> bool:
            # What somebody has locked, to see whether a wait has ended, is left for another look.
            nonlocal recovery
            recovery += await self.control.orchestrators.recover_stale(observer)
            return not any(self._registered(one) for one in gone)

        await eventually(all_gone, timeout=RECOVERY, message="the crashed have been recovered")
        self.crashed.clear()
        assert recovery.orchestrators == frozenset(gone)
        return recovery, [row["id"] for row in held]

    def _all_beat(self) -> bool:
        """Whether all that live have beaten since the jump; has them do it."""
        for one in self.living:
            one.beat_now()
        late = self.value(
            "SELECT count(*) FROM pgconductor.orchestrators WHERE id = ANY (%(there)s)"
            " AND last_heartbeat_at < pgconductor.clock() - interval '1 minute'",
            there=[one.id for one in self.living],
        )
        return bool(late == 0)

    async def close(self) -> None:
        self.notes.gate.set()
        for member in list(self.evicted):
            await self.hear(member)
        for member in list(self.living):
            await self.stop(member)
        await self.control.close()
        self._watching.close()
