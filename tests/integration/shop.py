"""An application of a user's: a base, a schema and a table of its own."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, MetaData, func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from pgconductor.models import Execution

__all__ = ["Order", "ShopBase", "open_shop", "orders", "payloads"]


class ShopBase(DeclarativeBase):
    """An application's own base, with a schema and metadata of its own."""

    metadata = MetaData(schema="shop")


class Order(ShopBase):
    __tablename__ = "orders"
    __table_args__ = (CheckConstraint("total > 0"),)

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    total: Mapped[int]
    execution_id: Mapped[UUID | None] = mapped_column(ForeignKey(Execution.id))
    execution: Mapped[Execution | None] = relationship(Execution)


async def open_shop(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("CREATE SCHEMA shop"))
        await connection.run_sync(ShopBase.metadata.create_all)


async def payloads(engine: AsyncEngine) -> list[Any]:
    """What is committed."""
    async with engine.connect() as connection:
        rows = await connection.execute(select(Execution.payload).order_by(Execution.id))
        return list(rows.scalars())


async def orders(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return await connection.scalar(select(func.count()).select_from(Order)) or 0
