"""A service on plain SQLAlchemy: the order and the execution that confirms it commit together.

Execute it with `python examples/order_service.py`.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from database import database
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from pgconductor import Conductor, TaskContext


class Base(DeclarativeBase):
    pass


class OrderRow(Base):
    __tablename__ = "example_orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]


class Order(BaseModel):
    id: int
    email: str


class OutOfStock(Exception):
    pass


async def main(url: str) -> None:
    engine = create_async_engine(url)
    sessionmaker = async_sessionmaker(engine)
    conductor = Conductor(sessionmaker=sessionmaker)

    @conductor.task(queue="mail", max_attempts=5)
    async def confirm(ctx: TaskContext, order: Order) -> str:
        ctx.logger.info("attempt %s of %s", ctx.attempt, ctx.max_attempts)
        return f"To {order.email}: your order {order.id} is confirmed."

    async def place_order(session: AsyncSession, order: Order, *, in_stock: bool = True) -> None:
        async with session.begin():
            session.add(OrderRow(id=order.id, email=order.email))
            await confirm.invoke(order, session=session, dedupe_key=f"order-{order.id}")
            if not in_stock:
                raise OutOfStock  # neither the order nor the execution is ever seen

    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)
        await connection.run_sync(Base.metadata.create_all)

    async with sessionmaker() as session:
        await place_order(session, Order(id=1, email="ada@example.org"))
        try:
            await place_order(session, Order(id=2, email="bob@example.org"), in_stock=False)
        except OutOfStock:
            print("order 2 was rolled back")

    # A process of its own does this, see docs/deploying.md; drain() ends when nothing is due.
    await conductor.orchestrator().drain()

    page = await conductor.executions.list()
    for execution in page.items:
        print(f"{execution.state}: {execution.result}")

    # Without a session, the invocation is a transaction of its own, and the handle can wait.
    handle = await confirm.invoke(Order(id=3, email="eve@example.org"))
    async with asyncio.TaskGroup() as group:
        group.create_task(conductor.orchestrator().drain())
        print(await handle.result(timeout=timedelta(seconds=30)))

    await conductor.close()
    await engine.dispose()  # what the conductor was given, it never closes


if __name__ == "__main__":
    with database() as url:
        asyncio.run(main(url))
