"""What the repositories need of a session: that it executes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Executable, Result
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from pgconductor.repositories.autocommit import refuse_autocommit_of_async
from pgconductor.repositories.blocking import BlockingExecutor
from pgconductor.repositories.driver import DriverExecutor
from pgconductor.repositories.errors import translated

__all__ = ["Executor", "SqlRepository"]

Executor = AsyncSession | AsyncConnection | DriverExecutor | BlockingExecutor


class SqlRepository:
    """Base of the SQL repositories: statements on the caller's session, never a commit.

    Args:
        session: An ``AsyncSession``, an ``AsyncConnection``, or the driver's own connection. The
            first two are refused in autocommit mode, by each statement.
    """

    def __init__(self, session: Executor) -> None:
        self._session = session

    async def _rows(
        self, statement: Executable, parameters: Mapping[str, Any] | None = None
    ) -> Sequence[Any]:
        """Rows whose columns can be read by name and by position."""
        with translated():
            if isinstance(self._session, DriverExecutor):
                return await self._session.rows(statement, parameters)
            return (await self._executed(self._session, statement, parameters)).all()

    async def _write(
        self, statement: Executable, parameters: Mapping[str, Any] | None = None
    ) -> None:
        with translated():
            if isinstance(self._session, DriverExecutor):
                await self._session.rows(statement, parameters)
            else:
                await self._executed(self._session, statement, parameters)

    @staticmethod
    async def _executed(
        session: AsyncSession | AsyncConnection | BlockingExecutor,
        statement: Executable,
        parameters: Mapping[str, Any] | None,
    ) -> Result[Any]:
        if not isinstance(session, BlockingExecutor):
            await refuse_autocommit_of_async(session, statement)
        return await session.execute(statement, parameters)
