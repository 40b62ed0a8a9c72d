"""What the SQLAlchemy repositories need of a session: that it executes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Executable, Row
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from pgconductor.repositories.errors import translated

__all__ = ["Executor", "SqlRepository"]

Executor = AsyncSession | AsyncConnection


class SqlRepository:
    """Base of the SQLAlchemy repositories: statements on the caller's session, never a commit.

    Args:
        session: An ``AsyncSession`` or an ``AsyncConnection``.
    """

    def __init__(self, session: Executor) -> None:
        self._session = session

    async def _rows(
        self, statement: Executable, parameters: Mapping[str, Any] | None = None
    ) -> list[Row[Any]]:
        with translated():
            result = await self._session.execute(statement, parameters)
            return list(result.all())

    async def _write(
        self, statement: Executable, parameters: Mapping[str, Any] | None = None
    ) -> None:
        with translated():
            await self._session.execute(statement, parameters)
