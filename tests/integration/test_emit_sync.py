"""emit_sync: an event in a sync session of the caller's, there exactly if he commits."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from pgconductor import Conductor, TaskContext
from pgconductor.exceptions import InvalidInput, InvalidName, SchemaMissing, WrongSession
from pgconductor.services import EventService
from pgconductor.testing import Rehearsal
from tests.integration.runtime_world import SOON, World
from tests.support.servers import Server

EVENTS = "SELECT id, name, payload FROM pgconductor.events ORDER BY emitted_at, id"


class Payment(BaseModel):
    order: int


def test_it_is_there_exactly_if_the_caller_commits(
    world: World, conductor: Conductor, sync_session: Session
) -> None:
    """I3: also where a part of the transaction is rolled back."""
    paid = conductor.event("paid", Payment)
    first = paid.emit_sync(Payment(order=1), session=sync_session)
    with sync_session.begin_nested() as inner:
        paid.emit_sync(Payment(order=2), session=sync_session)
        inner.rollback()
    second = conductor.emit_sync(paid, Payment(order=3), session=sync_session)
    third = conductor.emit_sync("closed", session=sync_session)
    assert world.rows(EVENTS) == []
    sync_session.commit()
    conductor.emit_sync("paid", {"order": 4}, session=sync_session)
    sync_session.rollback()
    assert [(row["id"], row["name"], row["payload"]) for row in world.rows(EVENTS)] == [
        (first.id, "paid", {"order": 1}),
        (second.id, "paid", {"order": 3}),
        (third.id, "closed", None),
    ]


async def test_what_comes_twice_is_emitted_once(
    world: World, conductor: Conductor, sync_session: Session
) -> None:
    """By every way in."""
    paid = conductor.event("paid", Payment)
    first = paid.emit_sync(Payment(order=1), session=sync_session, dedupe_key="evt_1")
    assert first.created
    again = conductor.emit_sync("paid", {"order": 2}, session=sync_session, dedupe_key="evt_1")
    assert (again.id, again.created) == (first.id, False)
    sync_session.commit()
    third = await paid.emit(Payment(order=3), dedupe_key="evt_1")
    fourth = await conductor.emit(paid, Payment(order=3), dedupe_key="evt_1")
    async with conductor.sessionmaker.begin() as session:
        fifth = await conductor.emit("paid", session=session, dedupe_key="evt_1")
        sixth = await EventService(session).emit("paid", dedupe_key="evt_1")
    assert {one.id for one in (third, fourth, fifth, sixth)} == {first.id}
    assert not any(one.created for one in (third, fourth, fifth, sixth))
    assert [row["payload"] for row in world.rows(EVENTS)] == [{"order": 1}]
    for wrong, error in (("", InvalidName), ("a\n", InvalidName), ("\x00", InvalidInput)):
        with pytest.raises(error, match="dedupe_key"):
            await conductor.emit("paid", dedupe_key=wrong)
        with pytest.raises(error, match="dedupe_key"):
            conductor.emit_sync("paid", session=sync_session, dedupe_key=wrong)


async def test_a_handler_that_waits_takes_it(conductor: Conductor, sync_session: Session) -> None:
    paid = conductor.event("paid", Payment)

    @conductor.task
    async def checkout(ctx: TaskContext) -> int:
        return (await ctx.wait_for("payment", paid, match={"order": 7}, timeout=SOON)).order

    handle = await checkout.invoke()
    paid.emit_sync(Payment(order=6), session=sync_session)
    paid.emit_sync(Payment(order=7), session=sync_session)
    sync_session.commit()
    await conductor.orchestrator().drain()
    assert await handle.result(timedelta(seconds=10)) == 7


async def test_the_message_names_the_method_that_takes_such_a_session(
    conductor: Conductor, session: AsyncSession, sync_session: Session
) -> None:
    emit: Any = conductor.emit
    emit_sync: Any = conductor.emit_sync
    with pytest.raises(WrongSession, match="use emit_sync with it"):
        await emit("paid", session=sync_session)
    with pytest.raises(WrongSession, match=r"emit_sync takes a sync Session.*await emit\(\)"):
        emit_sync("paid", session=session)
    with pytest.raises(WrongSession, match="emit_sync takes a sync Session, not NoneType"):
        emit_sync("paid", session=None)
    service: Any = EventService
    with pytest.raises(WrongSession, match="invoke_sync or emit_sync"):
        service(sync_session)


def test_nothing_is_written_for_what_is_not_acceptable(
    world: World, conductor: Conductor, sync_session: Session
) -> None:
    paid: Any = conductor.event("paid", Payment)
    with pytest.raises(InvalidInput):
        paid.emit_sync({"order": "x"}, session=sync_session)
    with pytest.raises(InvalidInput):
        conductor.emit_sync("no such name", session=sync_session)
    sync_session.commit()
    assert world.rows(EVENTS) == []


def test_a_session_of_another_database(
    server: Server, template: str, conductor: Conductor, empty_database_url: str
) -> None:
    with server.database(template) as name:
        sync = create_engine(server.url_for(name, driver="psycopg"))
        with Session(sync) as other, pytest.raises(WrongSession, match="bound to"):
            conductor.emit_sync("paid", session=other)
        sync.dispose()
    sync = create_engine(empty_database_url.replace("+asyncpg", "+psycopg"))
    with Session(sync) as bare, pytest.raises(SchemaMissing):
        Conductor(database_url=empty_database_url).emit_sync("paid", session=bare)
    sync.dispose()


async def test_rehearsed_in_a_database_and_in_memory(
    database_url: str, conductor: Conductor, sync_session: Session
) -> None:
    @conductor.task
    async def checkout(ctx: TaskContext) -> Any:
        return await ctx.wait_for("payment", "paid")

    async with Rehearsal(conductor, database_url) as rehearsal:
        handle = await checkout.invoke()
        await rehearsal.drain()
        conductor.emit_sync("paid", 7, session=sync_session)
        sync_session.commit()
        await rehearsal.drain()
        assert await handle.result() == 7
    async with Rehearsal(conductor) as rehearsal:
        handle = await checkout.invoke()
        await rehearsal.drain()
        conductor.emit_sync("paid", 8, session=sync_session)
        sync_session.commit()
        await rehearsal.drain()
        assert await handle.result() == 8
