"""Registration, heartbeats, shutdown requests, and the gate."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pgconductor import __version__
from pgconductor.domain.claims import Registration
from pgconductor.domain.ids import new_id
from pgconductor.domain.orchestrators import Recovery
from pgconductor.domain.outcomes import Disposition
from pgconductor.domain.revisions import KNOWN_REVISION, SchemaStatus
from pgconductor.exceptions import (
    InvalidInput,
    MigrationUnderWay,
    NotRegistered,
    SchemaBehind,
    SchemaTooNew,
)
from pgconductor.repositories import Repositories
from pgconductor.services import OrchestratorService
from pgconductor.types import ExecutionState
from tests.contracts.harness import Harness


async def test_a_registration_is_a_row(db: Harness) -> None:
    """I2, A3: committed before anything can be fetched."""
    before = await db.now()
    owner = await db.register()
    (found,) = await db.orchestrators.list()
    assert (found.id, found.schema_version) == (owner.orchestrator_id, KNOWN_REVISION)
    assert (found.version, found.hostname, found.pid) == (
        __version__,
        socket.gethostname(),
        os.getpid(),
    )
    assert before <= found.started_at <= found.last_heartbeat_at <= await db.now()
    assert (found.heartbeat_number, found.shutdown_requested_at) == (0, None)


async def test_a_registration_names_its_queues(db: Harness) -> None:
    await db.orchestrators.register(queues=["mail", "default"])
    await db.register()
    assert [one.queues for one in await db.orchestrators.list()] == [("mail", "default"), ()]


async def test_every_start_has_an_identity_of_its_own(db: Harness) -> None:
    first, second = await db.register(), await db.register()
    assert first.orchestrator_id != second.orchestrator_id
    listed = [one.id for one in await db.orchestrators.list()]
    assert listed == [first.orchestrator_id, second.orchestrator_id]


async def test_a_registration_whose_answer_was_lost_is_withdrawn(db: Harness) -> None:
    """It has committed, and nobody would ever beat for it."""

    class AnswerLost:
        lost = False

        @asynccontextmanager
        async def begin(self) -> AsyncGenerator[Repositories]:
            async with db.begin() as repositories:
                yield repositories
            if not self.lost:
                self.lost = True
                raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await OrchestratorService(AnswerLost()).register()
    assert await db.orchestrators.list() == []


async def test_a_registration_that_commits_late_is_withdrawn(db: Harness) -> None:
    """The server reads it when the client has cut the connection, and has looked for it already."""

    class Late:
        registering: asyncio.Task[None] | None = None
        looks = 0

        @asynccontextmanager
        async def begin(self) -> AsyncGenerator[Repositories]:
            if self.registering is None:
                asked: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

                async def add(*args: Any, **options: Any) -> bool:
                    asked.append((args, options))
                    return True

                yield cast("Repositories", SimpleNamespace(orchestrators=SimpleNamespace(add=add)))
                self.registering = asyncio.create_task(self.register_at_last(*asked[0]))
                raise ConnectionResetError
            async with db.begin() as repositories:
                yield repositories
            self.looks += 1
            looked.set()

        async def register_at_last(self, args: Any, options: Any) -> None:
            await looked.wait()
            async with db.begin() as repositories:
                assert await repositories.orchestrators.add(*args, **options)

    looked = asyncio.Event()
    work = Late()
    with pytest.raises(ConnectionResetError):
        await OrchestratorService(work).register()
    assert work.registering is not None
    await work.registering
    assert work.looks > 1
    assert await db.orchestrators.list() == []


async def test_the_gate_refuses_what_does_not_know_a_breaking_revision(db: Harness) -> None:
    """A6."""
    await db.set_schema(installed=5, floor=3)
    with pytest.raises(SchemaTooNew) as caught:
        await db.register(schema_version=2)
    assert (caught.value.installed, caught.value.known, caught.value.floor) == (5, 2, 3)
    assert await db.orchestrators.list() == []
    assert (await db.register(schema_version=3)).schema_version == 3
    assert (await db.register(schema_version=9)).schema_version == 9


async def test_a_database_ahead_by_harmless_revisions_is_fine(db: Harness) -> None:
    await db.set_schema(installed=5, floor=0)
    await db.register(schema_version=1)
    assert await db.orchestrators.schema_status() == SchemaStatus(5, 0)


async def test_the_gate_refuses_a_database_that_is_behind(db: Harness) -> None:
    await db.set_schema(installed=0, floor=0)
    with pytest.raises(SchemaBehind):
        await db.register()
    assert await db.orchestrators.list() == []


async def test_the_gate_refuses_what_a_migration_is_about_to_shut_out(db: Harness) -> None:
    """A6: while a breaking revision waits for the others to leave, nobody of their kind comes."""
    await db.register(schema_version=1)
    await db.set_intent(floor=2, expires_after=timedelta(seconds=30))
    with pytest.raises(MigrationUnderWay, match=r"0002.*a migration.*up to 0001") as caught:
        await db.register(schema_version=1)
    assert (caught.value.known, caught.value.target) == (1, 2)
    assert (await db.register(schema_version=2)).schema_version == 2
    db.advance(timedelta(seconds=31))
    assert (await db.register(schema_version=1)).schema_version == 1


async def test_the_gate_refuses_what_cannot_work_after_a_downgrade(db: Harness) -> None:
    await db.set_schema(installed=3, floor=0)
    await db.set_intent(ceiling=2, expires_after=timedelta(seconds=30))
    with pytest.raises(MigrationUnderWay, match="0002"):
        await db.orchestrators.register(schema_version=3, schema_required=3)
    await db.orchestrators.register(schema_version=3, schema_required=2)
    db.advance(timedelta(seconds=31))
    await db.orchestrators.register(schema_version=3, schema_required=3)


async def test_a_heartbeat_tells_what_a_migration_is_about_to_do(db: Harness) -> None:
    await db.set_schema(installed=3, floor=0)
    owner = await db.register()
    await db.set_intent(floor=4, ceiling=2, expires_after=timedelta(seconds=30))
    answer = await db.orchestrators.heartbeat(owner)
    assert (answer.schema_floor, answer.schema_ceiling) == (4, 2)
    db.advance(timedelta(seconds=31))
    answer = await db.orchestrators.heartbeat(owner)
    assert (answer.schema_floor, answer.schema_ceiling) == (0, 3)


async def test_a_heartbeat_counts_and_moves_the_time(db: Harness) -> None:
    owner, other = await db.register(), await db.register()
    for number in (1, 2, 3):
        db.advance(timedelta(seconds=5))
        now = await db.now()
        answer = await db.orchestrators.heartbeat(owner)
        assert (answer.number, answer.schema_floor) == (number, 0)
        assert (answer.shutdown_requested, answer.shutdown_reason) == (False, None)
        assert answer.cancellations == frozenset()
        mine, others = await db.orchestrators.list()
        assert (mine.id, mine.heartbeat_number) == (owner.orchestrator_id, number)
        assert now <= mine.last_heartbeat_at <= await db.now()
        assert (others.id, others.heartbeat_number) == (other.orchestrator_id, 0)


async def test_a_heartbeat_tells_the_floor(db: Harness) -> None:
    owner = await db.register()
    await db.set_schema(installed=4, floor=4)
    assert (await db.orchestrators.heartbeat(owner)).schema_floor == 4


async def test_who_has_no_row_never_comes_back(db: Harness) -> None:
    """An UPDATE, never an upsert."""
    gone = await db.register()
    await db.orchestrators.leave(gone)
    for owner in (gone, Registration(new_id(), 1)):
        with pytest.raises(NotRegistered) as caught:
            await db.orchestrators.heartbeat(owner)
        assert caught.value.orchestrator_id == owner.orchestrator_id
    assert await db.orchestrators.list() == []


async def test_a_shutdown_request_is_a_level(db: Harness) -> None:
    """A lost answer loses nothing: it is told at every beat, the first reason stays."""
    owner, other = await db.register(), await db.register()
    async with db.notifications() as sent:
        assert await db.orchestrators.request_shutdown(owner.orchestrator_id, reason="deploy")
    assert sent == [("pgconductor_control", str(owner.orchestrator_id))]
    (asked, _) = await db.orchestrators.list()
    assert await db.orchestrators.request_shutdown(owner.orchestrator_id, reason="again")
    for _ in range(2):
        answer = await db.orchestrators.heartbeat(owner)
        assert (answer.shutdown_requested, answer.shutdown_reason) == (True, "deploy")
    assert not (await db.orchestrators.heartbeat(other)).shutdown_requested
    (still, _) = await db.orchestrators.list()
    assert still.shutdown_requested_at == asked.shutdown_requested_at is not None


async def test_nobody_can_be_asked_that_is_not_there(db: Harness) -> None:
    assert not await db.orchestrators.request_shutdown(new_id(), reason="deploy")


@pytest.mark.parametrize("reason", ["nul \x00", "\ud800"])
async def test_a_reason_that_cannot_be_stored_is_refused(db: Harness, reason: str) -> None:
    owner = await db.register()
    with pytest.raises(InvalidInput, match="reason"):
        await db.orchestrators.request_shutdown(owner.orchestrator_id, reason=reason)
    with pytest.raises(InvalidInput, match="reason"):
        await db.orchestrators.sweep(below_version=9, reason=reason)


async def test_a_sweep_asks_those_that_know_too_little(db: Harness) -> None:
    """A6: again and again, until they have left."""
    one = await db.register(schema_version=1)
    two = await db.register(schema_version=2)
    three = await db.register(schema_version=3)
    swept = await db.orchestrators.sweep(below_version=3, reason="revision 0003")
    assert [found.id for found in swept] == [one.orchestrator_id, two.orchestrator_id]
    assert {found.shutdown_reason for found in swept} == {"revision 0003"}
    assert not (await db.orchestrators.heartbeat(three)).shutdown_requested
    await db.orchestrators.leave(one)
    late = await db.register(schema_version=1)
    swept = await db.orchestrators.sweep(below_version=3, reason="revision 0003")
    assert [found.id for found in swept] == [two.orchestrator_id, late.orchestrator_id]
    await db.orchestrators.leave(two)
    await db.orchestrators.leave(late)
    assert await db.orchestrators.sweep(below_version=3, reason="revision 0003") == []


async def test_a_sweep_before_a_downgrade_asks_those_that_need_more(db: Harness) -> None:
    await db.set_schema(installed=3, floor=0)
    needs = [
        (await db.orchestrators.register(schema_version=3, schema_required=required))
        for required in (1, 2, 3)
    ]
    swept = await db.orchestrators.sweep(above_required=1, reason="back to revision 0001")
    assert [found.id for found in swept] == [one.orchestrator_id for one in needs[1:]]
    assert not (await db.orchestrators.heartbeat(needs[0])).shutdown_requested


async def test_the_evicted_hold_nothing_and_are_told(db: Harness) -> None:
    """I1: what they write afterwards changes nothing."""
    owner = await db.register()
    one = await db.invoke("task")
    (held,) = await db.fetch(owner)
    recovery = await db.orchestrators.evict(owner.orchestrator_id)
    assert recovery == Recovery(frozenset({owner.orchestrator_id}), available=1)
    row = await db.get(one)
    assert (row.state, row.attempts, row.crashes) == (ExecutionState.AVAILABLE, 0, 1)
    with pytest.raises(NotRegistered):
        await db.orchestrators.heartbeat(owner)
    verdict = await db.complete(held)
    assert verdict.disposition is Disposition.LOST
    assert (await db.orchestrators.evict(owner.orchestrator_id)) == Recovery()


async def test_all_can_be_asked_at_once(db: Harness) -> None:
    owners = [(await db.register()).orchestrator_id for _ in range(3)]
    async with db.notifications() as sent, db.begin() as repositories:
        asked = await repositories.orchestrators.request_shutdown(reason="closing")
        assert sorted(asked) == owners
    assert sorted(sent) == [("pgconductor_control", str(one)) for one in owners]


async def test_one_can_be_asked_if_it_knows_too_little(db: Harness) -> None:
    owner = await db.register(schema_version=2)
    async with db.begin() as repositories:
        for below, expected in ((2, []), (3, [owner.orchestrator_id])):
            asked = await repositories.orchestrators.request_shutdown(
                reason="r", orchestrator_id=owner.orchestrator_id, below_version=below
            )
            assert asked == expected


async def test_the_fleet_says_what_everybody_is_at(db: Harness) -> None:
    idle = await db.orchestrators.register(queues=["mail"])
    db.advance(timedelta(seconds=7))
    busy = await db.register()
    await db.invoke_several(3)
    first, *_ = await db.fetch(busy, limit=2)
    await db.complete(first)
    fleet = await db.orchestrators.fleet()
    assert fleet.schema == SchemaStatus(KNOWN_REVISION, 0)
    assert [one.orchestrator for one in fleet.members] == await db.orchestrators.list()
    assert [one.orchestrator.queues for one in fleet.members] == [("mail",), ()]
    assert [one.running for one in fleet.members] == [0, 1]
    silent = [one.silent_for for one in fleet.members]
    assert timedelta(seconds=7) <= silent[0] < timedelta(seconds=9)
    assert timedelta(0) <= silent[1] < timedelta(seconds=2)
    await db.orchestrators.heartbeat(idle)
    again = (await db.orchestrators.fleet()).members[0]
    assert timedelta(0) <= again.silent_for < timedelta(seconds=2)


async def test_the_fleet_says_who_drains_and_why(db: Harness) -> None:
    await db.set_schema(installed=5, floor=0)
    asked, old, new = [await db.register(schema_version=version) for version in (9, 2, 4)]
    await db.orchestrators.request_shutdown(asked.orchestrator_id, reason="the host goes")

    async def reasons() -> list[str | None]:
        fleet = await db.orchestrators.fleet()
        return [fleet.why_draining(one) for one in fleet.members]

    assert await reasons() == ["the host goes", None, None]
    await db.set_intent(floor=3, expires_after=timedelta(minutes=1))
    assert await reasons() == [
        "the host goes",
        "the breaking revision 0003 is being prepared",
        None,
    ]
    await db.set_schema(installed=5, floor=4)
    assert await reasons() == [
        "the host goes",
        "the breaking revision 0004 is there, which it does not know",
        None,
    ]
    fleet = await db.orchestrators.fleet()
    assert [one.orchestrator.id for one in fleet.not_knowing(5)] == [
        old.orchestrator_id,
        new.orchestrator_id,
    ]
    assert fleet.not_knowing(2) == []


async def test_the_fleet_says_who_needs_more_than_there_will_be(db: Harness) -> None:
    await db.set_schema(installed=5, floor=0)
    await db.orchestrators.register(schema_version=5, schema_required=4)
    await db.orchestrators.register(schema_version=5, schema_required=3)

    async def reasons() -> list[str | None]:
        fleet = await db.orchestrators.fleet()
        return [fleet.why_draining(one) for one in fleet.members]

    assert await reasons() == [None, None]
    await db.set_intent(ceiling=3, expires_after=timedelta(minutes=1))
    assert await reasons() == ["it needs revision 0004, and the database goes back", None]
