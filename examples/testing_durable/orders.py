"""What is tested: a handler that charges, books, waits for a parcel and thanks."""

from __future__ import annotations

from datetime import timedelta

from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from pgconductor import Conductor, TaskContext
from pgconductor.exceptions import WaitTimeout

conductor = Conductor()  # PGCONDUCTOR_DATABASE_URL; the tests need none


class Base(DeclarativeBase):
    pass


class Booking(Base):
    __tablename__ = "bookings"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int]


class Order(BaseModel):
    id: int
    email: str


class Parcel(BaseModel):
    order_id: int
    carrier: str


class Bank:
    """The payment provider: a charge of a key that it knows is no second charge."""

    def __init__(self) -> None:
        self.charges: dict[str, int] = {}

    async def charge(self, key: str, order: Order) -> str:
        self.charges[key] = order.id
        return f"charge of order {order.id}"


bank = Bank()
shipped = conductor.event("shipped", Parcel)


async def book(session: AsyncSession, order: Order) -> None:
    session.add(Booking(order_id=order.id))


@conductor.task
async def send_mail(ctx: TaskContext, text: str) -> None:
    ctx.logger.info("sent: %s", text)


@conductor.task
async def checkout(ctx: TaskContext, order: Order) -> str:
    charge = await ctx.step("charge", bank.charge, f"{ctx.execution_id}/charge", order)
    await ctx.transact("book", book, order)
    try:
        parcel = await ctx.wait_for(
            "parcel", shipped, match={"order_id": order.id}, timeout=timedelta(days=14)
        )
    except WaitTimeout:
        await ctx.spawn("complain", send_mail, f"Where is order {order.id}?")
        return f"{charge}, lost"
    await ctx.sleep("let it arrive", timedelta(days=2))
    await ctx.spawn("thank", send_mail, f"Thank you, {order.email}")
    return f"{charge}, sent by {parcel.carrier}"
