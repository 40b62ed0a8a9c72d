"""Move the clock of a real database, for everything that goes through one engine."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.ext.asyncio import AsyncEngine

from pgconductor.repositories.driver import before_each_statement

__all__ = ["DatabaseClock"]

_MICROSECOND = timedelta(microseconds=1)


class DatabaseClock:
    """Moves ``pgconductor.clock()`` under an engine's connections, all of them at once.

    Before each statement the engine's connection is told the offset, so that a connection that is
    pinned, in the middle of a transaction, or not yet made sees the same time as every other. That
    holds for the connections that an orchestrator derives from the engine, too, and costs a round
    trip a statement, from the first :meth:`advance` on. Statements of your own that are sent to the
    driver past SQLAlchemy go by the offset that their connection was told last. Other engines, and
    other processes, keep their time.

    Args:
        engine: Whose connections see another time; for as long as it lives.
    """

    def __init__(self, engine: AsyncEngine | Engine) -> None:
        self._offset = timedelta(0)
        self._moved = False
        sync_engine: Engine = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
        # Events of the dialect, not of the engine: an orchestrator's engines share the dialect.
        event.listen(sync_engine, "do_execute", self._before)
        event.listen(sync_engine, "do_executemany", self._before)
        event.listen(sync_engine, "do_execute_no_params", self._before_no_parameters)
        before_each_statement(sync_engine.dialect, self._statement)

    @property
    def offset(self) -> timedelta:
        """How far the database's clock is ahead of the server's."""
        return self._offset

    def advance(self, by: timedelta) -> timedelta:
        """Move the clock.

        Args:
            by: How far; a negative value sets it back, as a failover may do.

        Returns:
            The offset now.
        """
        self._offset += by
        self._moved = True
        return self._offset

    def reset(self) -> None:
        """Put the clock right again."""
        self._offset = timedelta(0)

    def _before(self, _cursor: Any, _statement: str, _parameters: Any, context: Any) -> None:
        self._tell(context)

    def _before_no_parameters(self, _cursor: Any, _statement: str, context: Any) -> None:
        self._tell(context)

    def _statement(self) -> str | None:
        if not self._moved:
            return None
        return (
            "SELECT pg_catalog.set_config('pgconductor.clock_offset',"
            f" '{self._offset // _MICROSECOND} microseconds', false)"
        )

    def _tell(self, context: Any) -> None:
        # The dialect's own statements have no context, and no need of a clock.
        statement = self._statement()
        if statement is not None and context is not None:
            cursor = context.root_connection.connection.cursor()
            try:
                # In a rolled-back transaction it is forgotten, hence again before each statement.
                cursor.execute(statement)
            finally:
                cursor.close()
