"""From what was read of a database to what is wrong with it, and what to do: pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from pgconductor.domain.health import (
    Finding,
    Holder,
    IndexReading,
    PoolerReading,
    ServerReading,
    Severity,
    TableReading,
    WalkReading,
)
from pgconductor.domain.revisions import KNOWN_REVISION, REQUIRED_REVISION, SchemaStatus

__all__ = [
    "bloat",
    "dead_rows",
    "holders",
    "indexes",
    "pooler",
    "rounded",
    "schema",
    "server",
    "storage_parameters",
    "summed_up",
    "walk",
]

OK, WARN, BAD = Severity.OK, Severity.WARN, Severity.BAD
OLDEST_SUPPORTED: Final = 140_000
LONG: Final = timedelta(minutes=5)
VERY_LONG: Final = timedelta(hours=1)
#: Transactions that began since; a slot has no age.
MANY_TRANSACTIONS: Final = 1_000_000
FEW_DEAD: Final = 50_000
#: Of all rows; vacuum is asked for at a hundredth.
MUCH_DEAD: Final = 0.1
VERY_MUCH_DEAD: Final = 0.5
SMALL: Final = 64 * 1024 * 1024
LOOSE: Final = 3.0


def rounded(age: timedelta | None) -> timedelta | None:
    """Whole seconds are enough to read."""
    return None if age is None else timedelta(seconds=round(age.total_seconds()))


def summed_up(found: list[Finding], check: str, fine: str) -> list[Finding]:
    """The findings, or one that says that there is none."""
    return found or [Finding(OK, check, fine)]


def server(seen: ServerReading) -> list[Finding]:
    """Version, primary, durability, connections."""
    version = f"PostgreSQL {seen.version // 10_000}.{seen.version % 10_000}"
    found: list[Finding] = []
    if seen.version < OLDEST_SUPPORTED:
        found.append(Finding(BAD, "server", f"it is {version}", "use 14 or newer"))
    if seen.standby or seen.read_only:
        what = "the server is a standby" if seen.standby else "transactions are read-only"
        advice = "name the primary, or all hosts and target_session_attrs=primary"
        found.append(Finding(BAD, "server", f"{what}: nothing can be executed here", advice))
    if not found:
        found.append(Finding(OK, "server", f"{version}, a primary"))
    if not seen.fsync:
        advice = "turn fsync on: after a crash the whole database may be lost"
        found.append(Finding(BAD, "durability", "fsync is off", advice))
    if seen.synchronous_commit == "off":
        advice = (
            "turn synchronous_commit on for the roles that invoke and execute, or accept that "
            "committed invokes and results of the last second are lost by a crash of the server"
        )
        found.append(Finding(WARN, "durability", "synchronous_commit is off", advice))
    found += _connections(seen)
    if not seen.autovacuum:
        advice = "turn autovacuum and track_counts on: the tables of a queue cannot do without"
        found.append(Finding(BAD, "autovacuum", "autovacuum is off for the whole server", advice))
    return found


def _connections(seen: ServerReading) -> list[Finding]:
    room = seen.max_connections - seen.reserved_connections
    figures = {"connections": seen.connections, "room": room}
    if seen.connections < 0.8 * room:
        return []
    severity = BAD if seen.connections >= 0.95 * room else WARN
    advice = (
        "an orchestrator needs five or six beside the pool of its application: make pools smaller, "
        "put a pooler in between, or raise max_connections"
    )
    what = f"{seen.connections} of {room} connections are in use"
    return [Finding(severity, "connections", what, advice, figures)]


def schema(status: SchemaStatus | None) -> list[Finding]:
    """The database's revision beside what this release knows."""
    if status is None:
        what = "the database has no pgconductor schema"
        return [Finding(BAD, "schema", what, "execute `pgconductor migrate`")]
    figures = {"installed": status.installed, "known": KNOWN_REVISION, "floor": status.floor}
    if status.floor > KNOWN_REVISION:
        what = f"the database is at {status.installed:04d}, which this release cannot work with"
        return [Finding(BAD, "schema", what, "deploy a newer release", figures)]
    if status.installed < KNOWN_REVISION:
        severity = BAD if status.installed < REQUIRED_REVISION else WARN
        what = f"the database is at {status.installed:04d}, this release knows {KNOWN_REVISION:04d}"
        return [Finding(severity, "schema", what, "execute `pgconductor migrate`", figures)]
    return [Finding(OK, "schema", f"at revision {status.installed:04d}", "", figures)]


_HOLDER_ADVICE: Final[Mapping[str, str]] = {
    "transaction": "commit or roll back there, or end it: SELECT pg_terminate_backend({name}); "
    "idle_in_transaction_session_timeout prevents it",
    "prepared transaction": "COMMIT PREPARED or ROLLBACK PREPARED '{name}', whichever its "
    "coordinator decided",
    "replication slot": "bring its consumer back; if it is gone for good, and only then: SELECT "
    "pg_drop_replication_slot('{name}')",
}


def holders(seen: Iterable[Holder], hidden: int) -> list[Finding]:
    """What keeps dead rows from being removed, the oldest first.

    Args:
        seen: Old transactions and the like.
        hidden: How many sessions could not be looked into.
    """
    found: list[Finding] = []
    for one in sorted(seen, key=lambda it: it.age or timedelta(0), reverse=True):
        age, behind = one.age or timedelta(0), one.xmin_age or 0
        if age < LONG and behind < MANY_TRANSACTIONS:
            continue
        severity = BAD if age >= VERY_LONG or behind >= MANY_TRANSACTIONS else WARN
        since = f"open for {rounded(one.age)}" if one.age is not None else f"{behind} behind"
        who = f"{one.application or 'unnamed'}, {one.state or 'state unknown'}"
        what = f"{one.kind} {one.name} ({who}) is {since}: dead rows cannot be removed"
        figures = {"age": one.age, "xmin_age": one.xmin_age, "kind": one.kind, "name": one.name}
        advice = _HOLDER_ADVICE[one.kind].format(name=one.name)
        found.append(Finding(severity, "oldest transaction", what, advice, figures))
    if hidden:
        what = f"{hidden} sessions of other roles cannot be looked into"
        advice = "GRANT pg_read_all_stats TO the role that asks"
        found.append(Finding(Severity.UNKNOWN, "oldest transaction", what, advice))
    return summed_up(found, "oldest transaction", f"nothing is open for longer than {LONG}")


def dead_rows(tables: Iterable[TableReading]) -> list[Finding]:
    """Dead rows that vacuum has not come to."""
    found: list[Finding] = []
    for one in tables:
        share = one.dead / max(one.live + one.dead, 1)
        if one.dead < FEW_DEAD or share < MUCH_DEAD:
            continue
        severity = BAD if share >= VERY_MUCH_DEAD else WARN
        last = _when(one.last_vacuum)
        what = f"{one.name} has {one.dead} dead rows beside {one.live} live ones; vacuumed {last}"
        advice = (
            "see to what is open for long, if anything is; else VACUUM (VERBOSE, ANALYZE) "
            f"pgconductor.{one.name}, and give autovacuum more workers"
        )
        figures = {"table": one.name, "dead": one.dead, "live": one.live}
        found.append(Finding(severity, "dead rows", what, advice, figures))
    return summed_up(found, "dead rows", "few, beside what is alive")


def _when(instant: datetime | None) -> str:
    return "never" if instant is None else f"last at {instant:%Y-%m-%d %H:%M:%S%z}"


def storage_parameters(
    tables: Iterable[TableReading], wanted: Mapping[str, Mapping[str, str]]
) -> list[Finding]:
    """Whether tables are vacuumed as the schema says.

    Args:
        tables: As they are.
        wanted: The parameters of each table that has any.
    """
    found: list[Finding] = []
    for one in tables:
        if one.options.get("autovacuum_enabled", "on").lower() in {"off", "false", "0", "no"}:
            what = f"autovacuum is turned off for {one.name}"
            advice = f"ALTER TABLE pgconductor.{one.name} RESET (autovacuum_enabled)"
            found.append(Finding(BAD, "autovacuum", what, advice))
        lost = [name for name in wanted.get(one.name, {}) if name not in one.options]
        if lost:
            what = f"{one.name} has lost its storage parameters {', '.join(lost)}"
            options = ", ".join(f"{name} = {wanted[one.name][name]}" for name in lost)
            advice = f"ALTER TABLE pgconductor.{one.name} SET ({options})"
            found.append(Finding(WARN, "autovacuum", what, advice))
        changed = {
            name: value
            for name, value in wanted.get(one.name, {}).items()
            if one.options.get(name, value) != value
        }
        if changed:
            is_, should = (
                ", ".join(f"{name} = {values[name]}" for name in changed)
                for values in (one.options, changed)
            )
            what = f"{one.name} has other storage parameters than the schema: {is_}"
            advice = f"unless it is meant: ALTER TABLE pgconductor.{one.name} SET ({should})"
            found.append(Finding(WARN, "autovacuum", what, advice))
    return summed_up(found, "autovacuum", "the tables are vacuumed as the schema says")


def indexes(seen: Sequence[IndexReading], wanted: Mapping[str, str]) -> list[Finding]:
    """Indexes that are missing or invalid.

    Args:
        seen: Those that are there.
        wanted: What makes each of them, by name.
    """
    there = {one.name: one for one in seen}
    found = [
        Finding(BAD, "indexes", f"{name} is missing", f"make it again: {wanted[name]}")
        for name in sorted(wanted.keys() - there.keys())
    ]
    found += [
        Finding(
            BAD, "indexes", f"{name} is invalid", f"REINDEX INDEX CONCURRENTLY pgconductor.{name}"
        )
        for name, one in there.items()
        if not one.valid
    ]
    return summed_up(found, "indexes", f"all {len(wanted)} are there and valid")


def bloat(tables: Iterable[TableReading], seen: Iterable[IndexReading]) -> list[Finding]:
    """Relations much larger than what is in them; an estimate from the planner's statistics."""
    found: list[Finding] = []
    sizes = [("table", one.name, one.size, one.expected_bytes) for one in tables]
    sizes += [("index", one.name, one.size, one.expected_bytes) for one in seen]
    for kind, name, size, expected in sizes:
        if expected is None or size < SMALL or size < LOOSE * expected:
            continue
        advice = (
            f"REINDEX INDEX CONCURRENTLY pgconductor.{name}"
            if kind == "index"
            else f"in a quiet hour, with the orchestrators stopped: VACUUM FULL pgconductor.{name}"
        )
        what = f"{name} takes {_megabytes(size)}, and about {_megabytes(expected)} would do"
        figures = {kind: name, "bytes": size, "expected_bytes": expected}
        found.append(Finding(WARN, "bloat", what, advice, figures))
    return summed_up(found, "bloat", "nothing is much larger than what is in it")


def _megabytes(size: int) -> str:
    return f"{size / 1024 / 1024:,.0f} MB"


def pooler(seen: PoolerReading) -> list[Finding]:
    """Whether LISTEN and migrations get past a pooler."""
    around = "set PGCONDUCTOR_DIRECT_URL to a way around it, for LISTEN and migrations"
    if seen.direct_pooled:
        what = "direct_url leads through a pooler as well: notifications do not arrive"
        return [Finding(BAD, "pooler", what, "name the server itself in PGCONDUCTOR_DIRECT_URL")]
    if not seen.pooled:
        return [Finding(OK, "pooler", "the connection goes to the server itself")]
    if seen.direct_given:
        what = "the connection goes through a pooler, and direct_url around it"
        return [Finding(OK, "pooler", what)]
    what = "the connection goes through a pooler, and there is no direct_url"
    if seen.listen:
        advice = f"{around}; or set PGCONDUCTOR_LISTEN=false, and workers look at intervals"
        return [Finding(WARN, "pooler", what, advice)]
    return [Finding(OK, "pooler", f"{what}; LISTEN is off")]


def walk(seen: WalkReading) -> list[Finding]:
    """Whether retention goes on."""
    if not seen.there:
        advice = "INSERT INTO pgconductor.retention_walk DEFAULT VALUES"
        return [Finding(BAD, "retention", "the row of retention_walk is gone", advice)]
    if seen.late is not None and seen.late > timedelta(days=1):
        what = f"no walk has begun or ended for {rounded(seen.late)}: old executions stay"
        advice = (
            "start an orchestrator; if there is one, its log says why (a missing DELETE privilege, "
            "a foreign key into executions)"
        )
        return [Finding(WARN, "retention", what, advice, {"late": seen.late})]
    return [Finding(OK, "retention", "old executions are removed")]
