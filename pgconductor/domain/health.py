"""What ``pgconductor doctor`` reads of a database, and the form of what it finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

__all__ = [
    "Finding",
    "Holder",
    "IndexReading",
    "NotifyReading",
    "Overdue",
    "PathReading",
    "PoolerReading",
    "ServerReading",
    "Severity",
    "StuckReading",
    "TableReading",
    "WalkReading",
]


class Severity(StrEnum):
    """How bad a finding is.

    Attributes:
        OK: All is well.
        UNKNOWN: It could not be read, for instance because a privilege is missing.
        WARN: It will cost something: see to it.
        BAD: Something is lost, stands still, or is about to.
    """

    OK = "ok"
    UNKNOWN = "unknown"
    WARN = "warn"
    BAD = "bad"

    @property
    def needs_attention(self) -> bool:
        """Whether somebody has to do something."""
        return self in {Severity.WARN, Severity.BAD}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        severity: How bad it is.
        check: What was looked at, a word that stays the same.
        what: What was found, in a sentence.
        advice: What to do; empty if nothing is to be done.
        figures: The numbers behind it.
    """

    severity: Severity
    check: str
    what: str
    advice: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerReading:
    """The server's own settings, as this session has them."""

    version: int
    standby: bool
    read_only: bool
    fsync: bool
    synchronous_commit: str
    autovacuum: bool
    max_connections: int
    reserved_connections: int
    connections: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Something that keeps vacuum from removing dead rows.

    Attributes:
        kind: ``transaction``, ``prepared transaction`` or ``replication slot``.
        name: A process id, or a name.
        application: Its ``application_name`` or the like, as far as it may be read.
        state: ``idle in transaction`` and so on.
        age: Since when it has been there; None for a slot.
        xmin_age: How many transactions began since.
    """

    kind: str
    name: str
    application: str | None
    state: str | None
    age: timedelta | None
    xmin_age: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TableReading:
    """A table of ours.

    Attributes:
        expected_bytes: What its rows would take if they lay close together; None without
            statistics.
        options: Its storage parameters.
    """

    name: str
    live: int
    dead: int
    last_vacuum: datetime | None
    size: int
    expected_bytes: int | None
    options: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexReading:
    """An index of ours; ``expected_bytes`` as for a table."""

    name: str
    valid: bool
    size: int
    expected_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StuckReading:
    """Counts of executions that are held and should not be; each with the oldest's age."""

    orchestrators: int
    orphans: int
    stale: int
    stale_age: timedelta | None
    cancelling: int
    cancelling_age: timedelta | None
    overtime: int
    overtime_age: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overdue:
    """Executions of one task in one queue that have been due for long.

    Attributes:
        declared: Whether some orchestrator has ever declared the task.
        busy: Whether something of the queue is being executed.
    """

    queue: str
    task_key: str
    count: int
    oldest: timedelta
    declared: bool
    busy: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifyReading:
    """The server's queue of notifications, one for all databases.

    Attributes:
        usage: How much of it is taken, from 0 to 1.
        pid: The session whose transaction has been open for longest; None if none is, or none may
            be looked into. If it listens, nothing that was sent since is let go of.
        application: Its ``application_name``, as far as it may be read.
        state: ``idle in transaction`` and so on.
        age: How long its transaction has been open.
    """

    usage: float
    pid: int | None
    application: str | None
    state: str | None
    age: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolerReading:
    """Whether something stands between us and the server.

    Attributes:
        pooled: The process that the connection was opened to is not the one that answers.
        direct_given: There is a way around it.
        direct_pooled: The same of that way; None if there is none.
        listen: Whether the settings ask for LISTEN.
    """

    pooled: bool
    direct_given: bool
    direct_pooled: bool | None
    listen: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkReading:
    """Retention's walk; None for its row if there is none."""

    there: bool
    late: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PathReading:
    """Who can name what is in our schema without its name.

    Attributes:
        own: The ``search_path`` of this session.
        own_first: Our schema is the first on it that is there.
        own_names: It is on it at all, perhaps as ``"$user"``.
        named: Settings of roles and of the database that have it, with whose they are.
        foreign_table: A version table of Alembic's usual name lies in our schema.
    """

    own: str
    own_first: bool
    own_names: bool
    named: Sequence[str]
    foreign_table: bool
