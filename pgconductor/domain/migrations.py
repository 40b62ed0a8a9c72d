"""Migrations as values: how patient they are, how they end, and what they find in their way."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

__all__ = [
    "History",
    "LeaseHolder",
    "LockHolder",
    "MigrationOptions",
    "MigrationOutcome",
    "MigrationResult",
    "OnDeadline",
    "Server",
    "StartupPolicy",
    "WaitedFor",
]


class OnDeadline(StrEnum):
    """What happens to orchestrators that have not left when the deadline of a drain has passed.

    Attributes:
        FAIL: The migration fails, names them, and changes nothing.
        EVICT: They are removed and their executions given to others; what they write is refused.
    """

    FAIL = "fail"
    EVICT = "evict"


class StartupPolicy(StrEnum):
    """What an orchestrator does at its start where the database lacks revisions that it needs.

    Attributes:
        WAIT: It waits until somebody has applied them.
        UPGRADE: It applies them.
        REFUSE: It ends with an error.
    """

    WAIT = "wait"
    UPGRADE = "upgrade"
    REFUSE = "refuse"


@dataclass(frozen=True)
class MigrationOptions:
    """How patient a migration is.

    Attributes:
        lease_wait: How long to wait for another migration to end.
        drain_timeout: How long to wait for orchestrators that a revision shuts out.
        on_drain_timeout: What happens to those that are there still.
        lock_timeout: How long one try of a revision may wait for each of its locks; everybody who
            needs the same table queues behind it meanwhile.
        lock_wait: How long a revision is tried again for want of its locks.
        stale_after: How long a heartbeat, or the holder of the lease, may be silent.
        intent_ttl: How long nobody can register after a migration has died that waited for others.
    """

    lease_wait: timedelta = timedelta(minutes=5)
    drain_timeout: timedelta = timedelta(minutes=10)
    on_drain_timeout: OnDeadline = OnDeadline.FAIL
    lock_timeout: timedelta = timedelta(seconds=2)
    lock_wait: timedelta = timedelta(minutes=5)
    stale_after: timedelta = timedelta(seconds=30)
    intent_ttl: timedelta = timedelta(seconds=30)


class MigrationResult(StrEnum):
    """How a migration has ended.

    Attributes:
        MIGRATED: Revisions were applied, or taken back.
        NOTHING_TO_DO: The database was there already, or another migration brought it there.
        REFUSED: The database has a breaking revision that this release does not know.
        LEASE_HELD: Another migration was at work for too long, or has taken over.
        NOT_DRAINED: Orchestrators that a revision shuts out have not left in time.
        NOT_LOCKED: A revision did not get its locks in time.
        FAILED: Something else went wrong.
        ABORTED: It was told to stop.
    """

    MIGRATED = "migrated"
    NOTHING_TO_DO = "nothing to do"
    REFUSED = "refused"
    LEASE_HELD = "lease held"
    NOT_DRAINED = "not drained"
    NOT_LOCKED = "not locked"
    FAILED = "failed"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class MigrationOutcome:
    """What a migration has done.

    Attributes:
        result: How it has ended.
        from_version: The database's revision before; 0 for nothing.
        to_version: And after.
        should_shutdown: The database has a breaking revision that this release does not know: the
            process must not go on with it.
        waited: How long it waited for other migrations, for orchestrators and for locks.
        drained: Orchestrators that left because they were asked to.
        evicted: Orchestrators that were removed: found stale, or still there at the deadline.
    """

    result: MigrationResult
    from_version: int
    to_version: int
    should_shutdown: bool = False
    waited: timedelta = timedelta(0)
    drained: tuple[UUID, ...] = ()
    evicted: tuple[UUID, ...] = ()

    @property
    def migrated(self) -> bool:
        """Whether the database is at another revision than before."""
        return self.from_version != self.to_version

    def __str__(self) -> str:
        """For people, in one line."""
        versions = f"{_named(self.from_version)} → {_named(self.to_version)}"
        parts = [versions if self.migrated else f"{_named(self.to_version)}: {self.result.value}"]
        if self.waited >= timedelta(seconds=1):
            parts.append(f"waited {self.waited.total_seconds():.0f} s")
        if self.drained:
            parts.append(f"{_orchestrators(self.drained)} left")
        if self.evicted:
            parts.append(f"{_orchestrators(self.evicted)} evicted")
        return ", ".join(parts)


def _orchestrators(ids: tuple[UUID, ...]) -> str:
    return "1 orchestrator" if len(ids) == 1 else f"{len(ids)} orchestrators"


def _named(version: int) -> str:
    return f"{version:04d}" if version else "nothing"


@dataclass(frozen=True, slots=True)
class Server:
    """What must be known of a server and of the role before a migration.

    Attributes:
        in_recovery: It is a standby.
        read_only: Transactions are read-only, for whatever reason.
        role: Who we are.
        database: Where we are.
        has_schema: The schema is there.
        may_use: The role may look into it.
        may_create: The role may make tables in it, or the schema itself if it is not there.
        has_version_table: Alembic's table is there.
        has_gate: Revisions were applied.
        not_owned: Tables of ours that belong to others.
        backend_pid: The server process that answers.
    """

    in_recovery: bool
    read_only: bool
    role: str
    database: str
    has_schema: bool
    may_use: bool
    may_create: bool
    has_version_table: bool
    has_gate: bool
    not_owned: tuple[str, ...]
    backend_pid: int


@dataclass(frozen=True, slots=True)
class History:
    """What a database says of its revisions, in three places that must agree.

    Attributes:
        heads: The version table.
        recorded: The highest revision of the ledger; 0 for none.
        entries: How many the ledger holds.
        installed: What the gate says.
        floor: The highest breaking revision.
        tables: Whether the tables are there; without them, only ``heads`` can say something.
    """

    heads: tuple[str, ...]
    recorded: int
    entries: int
    installed: int
    floor: int
    tables: bool = True

    @property
    def agrees(self) -> bool:
        """Whether they do."""
        said = {f"{self.installed:04d}"} if self.installed else set[str]()
        return set(self.heads) == said and self.recorded == self.entries == self.installed

    def __str__(self) -> str:
        """For people."""
        heads = ", ".join(self.heads) or "nothing"
        return (
            f"the version table says {heads}, the ledger has {self.entries} revisions up to "
            f"{self.recorded:04d}, the gate says {self.installed:04d}"
        )


@dataclass(frozen=True, slots=True)
class LeaseHolder:
    """The migration that is at work.

    Attributes:
        lease_id: Its id; None if there is none.
        holder: What it says of itself.
        pid: Its process on the server.
        since: When it began.
        note: What it is doing.
        installed: The database's revision.
        application_name: What its connection says of itself.
        state: What its server process is doing; None where that is hidden from this role.
        state_change: Since when.
        alive: Whether the server process is there.
    """

    lease_id: UUID | None
    holder: str | None
    pid: int | None
    since: datetime | None
    note: str | None
    installed: int
    application_name: str | None
    state: str | None
    state_change: datetime | None
    alive: bool

    def __str__(self) -> str:
        """For people."""
        doing = f", {self.note}" if self.note else ""
        seen = f"server process {self.pid}, {self.application_name or 'without a name'}"
        return f"{self.holder} ({seen}, {self.state or 'state hidden'}), since {self.since}{doing}"


@dataclass(frozen=True, slots=True)
class LockHolder:
    """A transaction that holds locks on tables of ours.

    Attributes:
        pid: Its process on the server.
        role: Whose it is.
        application_name: What its connection says of itself.
        state: What it is doing.
        seconds: How old it is.
        query: Its last statement, or the beginning of it.
        tables: What it has locked.
    """

    pid: int
    role: str | None
    application_name: str | None
    state: str | None
    seconds: float | None
    query: str | None
    tables: tuple[str, ...]

    def __str__(self) -> str:
        """For people."""
        age = "" if self.seconds is None else f" for {self.seconds:.0f} s"
        query = " ".join((self.query or "hidden").split())
        return (
            f"server process {self.pid} of {self.role} ({self.application_name or 'no name'}, "
            f"{self.state}{age}) on {', '.join(self.tables)}: {query}"
        )


@dataclass(frozen=True, slots=True)
class WaitedFor:
    """An orchestrator that has to leave before a migration can go on.

    Attributes:
        id: Its id.
        version: Its release.
        schema_version: The highest revision that it knows.
        hostname: Its host.
        pid: Its process there.
        silent_seconds: The age of its last heartbeat.
        running: How many executions it holds; None where this release cannot see it.
        oldest_task: The task of the one that it has held for the longest time.
        oldest_seconds: For how long.
    """

    id: UUID
    version: str
    schema_version: int
    hostname: str
    pid: int
    silent_seconds: float
    running: int | None
    oldest_task: str | None = None
    oldest_seconds: float | None = None

    def __str__(self) -> str:
        """For people."""
        held = (
            "what it holds is not known"
            if self.running is None
            else f"{self.running} executions running"
        )
        if self.oldest_task is not None and self.oldest_seconds is not None:
            held += f", the oldest of {self.oldest_task} for {self.oldest_seconds:.0f} s"
        return (
            f"orchestrator {self.id} (release {self.version}, revision "
            f"{self.schema_version:04d}, host {self.hostname}, pid {self.pid}, last heartbeat "
            f"{self.silent_seconds:.0f} s ago, {held})"
        )
