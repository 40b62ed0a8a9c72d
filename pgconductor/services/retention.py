"""Retention: the removal of executions that finished long ago, and of old events."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from pgconductor.domain.limits import check_count, check_duration
from pgconductor.domain.retention import RETAIN_EVENTS, Removal, Retention
from pgconductor.services.pinned import PinnedUnitOfWork, sibling_engine
from pgconductor.services.unit_of_work import Bind, unit_of_work

__all__ = ["REMOVAL_BATCH", "RetentionLink", "RetentionService"]

#: How many executions are looked at in one transaction, and how many rows are removed at most.
REMOVAL_BATCH: Final = 1_000
_MOST: Final = 100_000


class RetentionService:
    """Removes executions and events that are older than they are kept.

    Orchestrators do so by themselves. Give it an engine or a sessionmaker, so that each call
    commits by itself: what is removed stays locked until then.

    Args:
        bind: See :func:`pgconductor.services.unit_of_work.unit_of_work`.
    """

    def __init__(self, bind: Bind) -> None:
        self._work = unit_of_work(bind)

    async def remove_expired(
        self, retention: Retention | None = None, *, limit: int = REMOVAL_BATCH
    ) -> Removal | None:
        """Go on with the walk through the executions, by one piece.

        There is one walk for all who call this: it begins at most once an hour, or oftener where
        something is kept for less than twelve hours.

        Args:
            retention: What holds for executions of tasks that nobody has declared; the default is
                seven days for completed ones and thirty for the others.
            limit: At how many executions to look, at most.

        Returns:
            What was done; None if the next walk is not due, or somebody else is at it.

        Raises:
            InvalidInput: The limit is out of range.
        """
        check_count(limit, "limit", most=_MOST)
        async with self._work.begin() as repositories:
            return await repositories.retention.remove_expired(
                retention or Retention(), limit=limit
            )

    async def remove_events(
        self, retain: timedelta = RETAIN_EVENTS, *, limit: int = REMOVAL_BATCH
    ) -> int:
        """Remove events that were emitted longer ago than they are kept.

        An event that nobody has looked at stays: an execution may wait for it.

        Args:
            retain: How long they are kept.
            limit: How many to remove, at most.

        Returns:
            How many were removed; come again if it is the limit.

        Raises:
            InvalidInput: An argument is out of range.
        """
        check_duration(retain, "retain")
        check_count(limit, "limit", most=_MOST)
        async with self._work.begin() as repositories:
            return await repositories.retention.remove_events(retain, limit=limit)


class RetentionLink:
    """An orchestrator's way to remove, on a connection that nothing else waits for.

    Args:
        engine: Whose address is used; not its pool.
        timeout: How long one piece may take.
    """

    def __init__(self, engine: AsyncEngine, timeout: timedelta) -> None:
        self._engine = sibling_engine(engine)
        self._pinned = PinnedUnitOfWork(self._engine, timeout=timeout, role="retention")
        self._service = RetentionService(self._pinned)

    async def remove_expired(self, retention: Retention) -> Removal | None:
        """Go on by one piece; see the service."""
        return await self._service.remove_expired(retention)

    async def remove_events(self, retain: timedelta) -> int:
        """Remove old events; see the service."""
        return await self._service.remove_events(retain)

    async def rest(self) -> None:
        """Give the connection up until it is needed again."""
        await self._pinned.aclose()

    async def aclose(self) -> None:
        """Close the connection."""
        await self._pinned.aclose()
        await self._engine.dispose()
