"""Tests of durable handlers: `pytest examples/testing_durable`."""

# ruff: noqa: S101 - asserts are what tests are made of

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Literal

import pytest
from orders import Bank, Base, Booking, Order, Parcel, bank, checkout, conductor, send_mail, shipped
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import create_async_engine

from pgconductor.testing import Rehearsal, assert_survives_crashes

pytestmark = pytest.mark.asyncio
ORDER = Order(id=7, email="ada@example.org")


class Books:
    """What stands for sessions where there is no database: it knows what was committed."""

    def __init__(self) -> None:
        self.committed: list[Booking] = []

    def __call__(self) -> Any:
        return _Session(self)


class _Session:
    def __init__(self, books: Books) -> None:
        self._books = books
        self._added: list[Booking] = []

    def add(self, booking: Booking) -> None:
        self._added.append(booking)

    async def commit(self) -> None:
        self._books.committed += self._added


# --- without a database: no waiting, no server ---------------------------------------------------


async def test_an_order_is_charged_shipped_and_thanked_for() -> None:
    async with Rehearsal(conductor, sessions=Books()) as rehearsal:
        handle = await checkout.invoke(ORDER)
        drained = await rehearsal.drain(at_most=timedelta(days=1))
        assert [str(one) for one in drained.waiting] == [
            "checkout waits for event 'shipped' as 'parcel', for 14 days, 0:00:00 at most"
        ]
        await rehearsal.emit(shipped, Parcel(order_id=7, carrier="mule"))
        await rehearsal.pass_time(timedelta(days=1))
        assert await rehearsal.invoked(send_mail) == []
        await rehearsal.pass_time(timedelta(days=1))
        assert await handle.result() == "charge of order 7, sent by mule"
        assert await rehearsal.invoked(send_mail) == ["Thank you, ada@example.org"]


async def test_a_parcel_that_is_lost() -> None:
    async with Rehearsal(conductor, sessions=Books()) as rehearsal:
        handle = await checkout.invoke(ORDER)
        drained = await rehearsal.drain()
        assert drained.passed == timedelta(days=14)
        assert await handle.result() == "charge of order 7, lost"
        await rehearsal.assert_invoked(send_mail, "Where is order 7?", times=1)


async def test_a_crash_between_the_charge_and_its_record() -> None:
    bank.charges.clear()
    async with Rehearsal(conductor, sessions=Books()) as rehearsal:
        crash = rehearsal.crash_at("charge", when="before")
        handle = await checkout.invoke(ORDER)
        await handle.result()
        assert crash.struck == 1
        assert len(bank.charges) == 1


async def everything(rehearsal: Rehearsal, booked: Callable[[], Awaitable[int]]) -> Any:
    """A whole order; returns what must not depend on crashes."""
    bank.charges.clear()
    handle = await checkout.invoke(ORDER)
    await rehearsal.emit(shipped, Parcel(order_id=7, carrier="mule"))
    result = await handle.result()
    await rehearsal.drain()
    return result, len(bank.charges), await booked(), await rehearsal.invoked(send_mail)


async def test_it_survives_a_crash_anywhere() -> None:
    books = Books()

    async def scenario(rehearsal: Rehearsal) -> Any:
        books.committed.clear()

        async def booked() -> int:
            return len(books.committed)

        return await everything(rehearsal, booked)

    points = await assert_survives_crashes(lambda: Rehearsal(conductor, sessions=books), scenario)
    assert len(points) > 10


async def test_a_bank_without_idempotency_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    async def charge(_self: Bank, key: str, order: Order) -> str:
        bank.charges[f"{key} {len(bank.charges)}"] = order.id
        return f"charge of order {order.id}"

    monkeypatch.setattr(Bank, "charge", charge)
    with pytest.raises(AssertionError, match="checkout: before 'charge' was on record"):
        await test_it_survives_a_crash_anywhere()


# --- with a database: an own clone for each test -------------------------------------------------


@pytest.fixture(scope="session")
def pgconductor_prepare() -> Callable[[str], Any]:
    """The application's tables, in the template that is cloned."""

    async def prepare(url: str) -> None:
        engine = create_async_engine(url)
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        await engine.dispose()

    return prepare


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_booking_is_made_exactly_once(
    pgconductor_database: str, when: Literal["before", "after"]
) -> None:
    async def booked() -> int:
        async with conductor.sessionmaker() as session:
            return await session.scalar(select(func.count()).select_from(Booking)) or 0

    async with Rehearsal(conductor, pgconductor_database) as rehearsal:
        rehearsal.crash_at("book", when=when)
        _, charges, bookings, _ = await everything(rehearsal, booked)
        assert (charges, bookings) == (1, 1)
