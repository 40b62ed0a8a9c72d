"""What the doctor makes of what it has read, where it is hard to make for real."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from pgconductor.domain import diagnosis
from pgconductor.domain.health import (
    Finding,
    Holder,
    PoolerReading,
    ServerReading,
    Severity,
    TableReading,
)
from pgconductor.domain.revisions import SchemaStatus
from pgconductor.repositories.health import is_pooled

OK, WARN, BAD = Severity.OK, Severity.WARN, Severity.BAD
SERVER = ServerReading(
    version=180_001,
    standby=False,
    read_only=False,
    fsync=True,
    synchronous_commit="on",
    autovacuum=True,
    max_connections=100,
    reserved_connections=3,
    connections=10,
)


def told(found: list[Finding]) -> list[tuple[Severity, str]]:
    """What needs attention; each says what to do, and the others say nothing."""
    assert found
    for one in found:
        assert bool(one.advice) is (one.severity is not OK), one
    return [(one.severity, one.check) for one in found if one.severity.needs_attention]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"version": 130_010}, [(BAD, "server")]),
        ({"standby": True}, [(BAD, "server")]),
        ({"read_only": True}, [(BAD, "server")]),
        ({"fsync": False}, [(BAD, "durability")]),
        ({"synchronous_commit": "off"}, [(WARN, "durability")]),
        ({"synchronous_commit": "remote_apply"}, []),
        ({"autovacuum": False}, [(BAD, "autovacuum")]),
        ({"connections": 77}, []),
        ({"connections": 78}, [(WARN, "connections")]),
        ({"connections": 93}, [(BAD, "connections")]),
    ],
)
def test_servers(change: dict[str, Any], expected: list[tuple[Severity, str]]) -> None:
    assert told(diagnosis.server(replace(SERVER, **change))) == expected


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (None, [(BAD, "schema")]),
        (SchemaStatus(0, 0), [(BAD, "schema")]),
        (SchemaStatus(1, 0), []),
        (SchemaStatus(9_999, 0), []),
        (SchemaStatus(9_999, 9_999), [(BAD, "schema")]),
    ],
)
def test_schemas(status: SchemaStatus | None, expected: list[tuple[Severity, str]]) -> None:
    assert told(diagnosis.schema(status)) == expected


POOLERS = {
    # pooled, direct given, direct pooled, listen
    (False, False, None, True): OK,
    (False, True, False, True): OK,
    (True, False, None, True): WARN,
    (True, False, None, False): OK,
    (True, True, False, True): OK,
    (True, True, True, True): BAD,
    (False, True, True, True): BAD,
}


@pytest.mark.parametrize("reading", POOLERS)
def test_poolers(reading: tuple[bool, bool, bool | None, bool]) -> None:
    pooled, given, direct, listen = reading
    (found,) = diagnosis.pooler(
        PoolerReading(pooled=pooled, direct_given=given, direct_pooled=direct, listen=listen)
    )
    assert found.severity is POOLERS[reading]
    assert bool(found.advice) is (found.severity is not OK)


class Driver:
    """As asyncpg: it remembers the process that a pooler has named at the beginning."""

    def get_server_pid(self) -> int:
        return 4711


class Raw:
    driver_connection = Driver()


class Connection:
    def __init__(self, answering: int) -> None:
        self._answering = answering

    async def get_raw_connection(self) -> Raw:
        return Raw()

    async def scalar(self, _statement: object) -> int:
        return self._answering


@pytest.mark.parametrize(("answering", "pooled"), [(4711, False), (815, True)])
async def test_a_pooler_is_another_process(answering: int, pooled: bool) -> None:
    assert await is_pooled(cast("AsyncConnection", Connection(answering))) is pooled


def holder(kind: str, minutes: float | None, xmin_age: int | None = 5) -> Holder:
    age = None if minutes is None else timedelta(minutes=minutes)
    return Holder(kind=kind, name="n7", application="app", state="idle", age=age, xmin_age=xmin_age)


@pytest.mark.parametrize(
    ("seen", "severity", "advice"),
    [
        (holder("transaction", 4), OK, ""),
        (holder("transaction", 6), WARN, "pg_terminate_backend(n7)"),
        (holder("transaction", 61), BAD, "pg_terminate_backend(n7)"),
        (holder("prepared transaction", 61), BAD, "ROLLBACK PREPARED 'n7'"),
        (holder("replication slot", None), OK, ""),
        (holder("replication slot", None, 2_000_000), BAD, "pg_drop_replication_slot('n7')"),
        (holder("transaction", 1, None), OK, ""),
    ],
)
def test_holders(seen: Holder, severity: Severity, advice: str) -> None:
    (found,) = diagnosis.holders([seen], 0)
    assert found.severity is severity
    assert advice in found.advice
    assert severity is OK or "n7" in found.what


def test_the_oldest_comes_first_and_the_hidden_last() -> None:
    seen = [holder("transaction", 6), holder("transaction", 60), holder("transaction", 9)]
    found = diagnosis.holders(seen, 3)
    ages = [one.figures.get("age") for one in found]
    assert ages == [*(timedelta(minutes=minutes) for minutes in (60, 9, 6)), None]
    assert found[-1].severity is Severity.UNKNOWN
    assert not found[-1].severity.needs_attention


@pytest.mark.parametrize(
    ("live", "dead", "severity"),
    [
        (0, 0, OK),
        (100, 40_000, OK),
        (1_000_000, 60_000, OK),
        (400_000, 60_000, WARN),
        (50_000, 60_000, BAD),
    ],
)
def test_dead_rows(live: int, dead: int, severity: Severity) -> None:
    table = TableReading(
        name="executions",
        live=live,
        dead=dead,
        last_vacuum=None,
        size=0,
        expected_bytes=None,
        options={},
    )
    (found,) = diagnosis.dead_rows([table])
    assert found.severity is severity
