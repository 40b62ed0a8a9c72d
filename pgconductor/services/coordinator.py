"""Migrations from Python: what ``alembic upgrade head`` does, as a call with a value."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.config import Config
from sqlalchemy import URL, Connection, NullPool
from sqlalchemy.ext.asyncio import AsyncEngine

from pgconductor.domain.migrations import MigrationOptions, MigrationOutcome, MigrationResult
from pgconductor.exceptions import InvalidInput, LeaseTimeout, MigrationAborted
from pgconductor.schema import alembic_config, revisions
from pgconductor.services.engines import check_driver
from pgconductor.services.interrupts import ABORTED
from pgconductor.services.migrating import Migration
from pgconductor.services.pinned import sibling_engine
from pgconductor.services.pooling import make_engine
from pgconductor.settings import Settings, normalise_url

__all__ = ["MigrationCoordinator"]

logger = logging.getLogger("pgconductor.migration")

# Alembic's context is one for the whole process: two migrations in it would use each other's.
_ALEMBIC: Final = threading.Lock()
_TURN: Final = 0.05


class MigrationCoordinator:
    """Brings a database to a revision, and has orchestrators leave that it breaks.

    Args:
        bind: An engine on asyncpg, whose address is used and which is not closed; or the database's
            URL; the default is what the settings say.
        settings: All settings; the default reads the environment.
        options: How patient it is; the default is what the settings say.
        report: Called with a line for people about what is waited for; the default logs it.
        location: A folder of revisions; the default is that of this release.

    Raises:
        ConfigurationError: There is no database, or the engine cannot be used.
    """

    def __init__(
        self,
        bind: AsyncEngine | URL | str | None = None,
        *,
        settings: Settings | None = None,
        options: MigrationOptions | None = None,
        report: Callable[[str], None] | None = None,
        location: Path | None = None,
    ) -> None:
        self._settings = settings or Settings()
        self._options = options or self._settings.migration_options
        self._report = report or logger.warning
        self._location = location
        self._engine: AsyncEngine | None = None
        if isinstance(bind, str | URL):
            self._url = normalise_url(bind)
        elif bind is None:
            self._url = self._settings.require_url(direct=True)
        else:
            check_driver(bind)
            self._engine, self._url = bind, bind.url

    async def upgrade(
        self, target: str | int = "head", *, abort: asyncio.Event | None = None
    ) -> MigrationOutcome:
        """Apply what is pending.

        Two at once, in one process or in many, are safe: one works, the others wait for it.

        Args:
            target: The revision to stop at; the default is the newest one.
            abort: Set it to have the migration stop, within a second or so, at a revision's
                boundary.

        Returns:
            What was done. Where the database is too new for this release, nothing was, and
            ``should_shutdown`` is set.

        Raises:
            InvalidInput: There is no such revision.
            LeaseTimeout: Another migration was at work for too long.
            DrainTimeout: Orchestrators that a revision shuts out have not left in time.
            LockWaitTimeout: A revision did not get its locks in time.
            RevisionFailed: A revision failed; those before it stay.
            MigrationAborted: ``abort`` was set.
            MigrationError: It cannot be done here; see the other kinds.
        """
        return await self._move(command.upgrade, self._revision(target, "head"), abort)

    async def downgrade(
        self, target: str | int, *, abort: asyncio.Event | None = None
    ) -> MigrationOutcome:
        """Take revisions back. Data that only they can hold is lost.

        Args:
            target: The revision to go back to; 0, or ``base``, for nothing.
            abort: As for :meth:`upgrade`.

        Returns:
            What was done.

        Raises:
            InvalidInput: There is no such revision.
            DowngradeRefused: A revision cannot be taken back.
            MigrationError: As for :meth:`upgrade`.
        """
        return await self._move(command.downgrade, self._revision(target, "base"), abort)

    async def _move(
        self, move: Callable[[Config, str], None], target: str, abort: asyncio.Event | None
    ) -> MigrationOutcome:
        config = alembic_config()
        working = asyncio.create_task(
            self._work(config, move, target), name="pgconductor-migration"
        )
        told = asyncio.create_task(abort.wait()) if abort is not None else None
        waiting = {working} if told is None else {working, told}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            working.cancel()
            with suppress(asyncio.CancelledError):
                # It may have come to its end, or failed, at the same moment.
                return await working
            raise _aborted(config)
        finally:
            for one in waiting:
                one.cancel()
            await asyncio.wait([working])

    async def _work(
        self, config: Config, move: Callable[[Config, str], None], target: str
    ) -> MigrationOutcome:
        outcomes: list[MigrationOutcome] = []
        if self._location is not None:
            config.set_main_option("script_location", str(self._location).replace("%", "%%"))
        config.attributes.update(
            configure_logger=False,
            migration_options=self._options,
            report=self._report,
            finished=outcomes.append,
            pooled=self._settings.pooled,
        )

        def moved(connection: Connection) -> None:
            config.attributes["connection"] = connection
            move(config, target)

        await self._turn()
        try:
            engine = self._made()
            try:
                async with engine.connect() as made:
                    # Whatever the engine's own transactions are like.
                    connection = await made.execution_options(isolation_level="READ COMMITTED")
                    await connection.run_sync(moved)
            finally:
                await engine.dispose()
        finally:
            _ALEMBIC.release()
        (outcome,) = outcomes
        return outcome

    async def _turn(self) -> None:
        """Wait for other migrations of this process."""
        deadline = time.monotonic() + self._options.lease_wait.total_seconds()
        while not _ALEMBIC.acquire(blocking=False):
            if time.monotonic() > deadline:
                raise LeaseTimeout("another migration is at work in this process, and does not end")
            await asyncio.sleep(_TURN)

    def _made(self) -> AsyncEngine:
        """An engine for one connection, which connects as the given one does."""
        options: dict[str, Any] = {"poolclass": NullPool}
        if self._engine is None:
            return make_engine(self._url, pooled=self._settings.pooled, **options)
        return sibling_engine(self._engine)

    def _revision(self, target: str | int, word: str) -> str:
        """A revision's id as Alembic has it."""
        known = [word, *(f"{one.version:04d}" for one in revisions(self._location))]
        given = str(target)
        named = given.zfill(4) if given.isdigit() else given
        if word == "base" and named == "0000":
            named = word
        if named not in known:
            raise InvalidInput("target", f"no revision {given!r}; known: {', '.join(known)}")
        return named


def _aborted(config: Config) -> MigrationAborted:
    error = MigrationAborted(ABORTED)
    migration: Migration | None = config.attributes.get("migration")
    if migration is not None:
        error.outcome = migration.outcome(MigrationResult.ABORTED)
    return error
