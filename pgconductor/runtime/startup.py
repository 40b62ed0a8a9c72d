"""Registering, when the database's schema is one that this release can work on."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from pgconductor.domain.backoff import Backoff
from pgconductor.domain.claims import Registration
from pgconductor.domain.migrations import MigrationOutcome, StartupPolicy
from pgconductor.domain.revisions import KNOWN_REVISION, SchemaStatus
from pgconductor.exceptions import PgconductorError, SchemaBehind, SchemaMissing
from pgconductor.runtime.wording import trouble
from pgconductor.services.backend import Backend
from pgconductor.settings import Settings

__all__ = ["StartUp"]

logger = logging.getLogger("pgconductor.orchestrator")

T = TypeVar("T")

_LONGEST_PAUSE: Final = 0.5
_TELL_EVERY: Final = 30.0
_ANSWER_WITHIN: Final = 5.0


class StartUp:
    """The way of an orchestrator to its registration.

    Args:
        backend: The database.
        settings: What to do where the schema is not there yet, and how patient to be.
        queues: What it is going to serve.
    """

    def __init__(self, backend: Backend, settings: Settings, queues: Sequence[str]) -> None:
        self._backend = backend
        self._settings = settings
        self._queues = queues

    async def register(self) -> Registration:
        """Register, after waiting for the schema or upgrading it if that is the policy.

        Raises:
            SchemaMissing: There is no schema, and nobody has made it in time.
            SchemaBehind: It lacks revisions, and nobody has applied them in time.
            SchemaTooNew: It has a breaking revision that this release does not know.
            MigrationUnderWay: Such a revision is about to be applied.
            MigrationError: Upgrading it has failed.
            TimeoutError: The database stayed out of reach for ``startup_timeout``.
        """
        if self._settings.startup_policy is StartupPolicy.UPGRADE:
            await self._upgrade()
        began, told = time.monotonic(), float("-inf")
        backoff = Backoff(0.1, _LONGEST_PAUSE)
        while True:
            try:
                return await self._registered()
            except (SchemaMissing, SchemaBehind, TimeoutError) as error:
                waited = time.monotonic() - began
                if isinstance(error, TimeoutError) and not await self._gate_is_locked():
                    raise
                left = self._settings.startup_wait.total_seconds() - waited
                if self._settings.startup_policy is not StartupPolicy.WAIT or left <= 0:
                    raise
                if waited - told >= _TELL_EVERY:
                    told = waited
                    what = str(error) or "a revision is being applied"
                    logger.warning("%s; waiting for it, %.0f s left", what, left)
            await asyncio.sleep(min(backoff.next(), max(left, 0.05)))

    async def _registered(self) -> Registration:
        orchestrators = self._backend.orchestrators
        # Asked first, for the statement that registers is made for this release's own schema. What
        # changes between the two, the gate decides.
        status = await self.insistently(orchestrators.schema_status)
        status.check()
        registration = await self.insistently(lambda: orchestrators.register(queues=self._queues))
        _tell_difference(status)
        return registration

    async def _gate_is_locked(self) -> bool:
        """Whether the database answers, and it was the gate that did not let us in."""
        try:
            async with asyncio.timeout(_ANSWER_WITHIN):
                await self._backend.orchestrators.schema_status()
        except Exception as error:
            if not (isinstance(error, TimeoutError) or Backend.is_transient(error)):
                raise
            return False
        return True

    async def _upgrade(self) -> None:
        try:
            status = await self.insistently(self._backend.orchestrators.schema_status)
        except SchemaMissing:
            installed = 0
        else:
            installed = status.installed
        if installed < KNOWN_REVISION:
            logger.info("the database's schema: %s", await self._upgraded())

    async def _upgraded(self) -> MigrationOutcome:
        """Upgrade; a database that is out of reach for a moment is tried again."""
        deadline = time.monotonic() + self._settings.startup_timeout.total_seconds()
        backoff = Backoff()
        while True:
            try:
                return await self._backend.upgrade_schema(self._settings)
            except PgconductorError:
                raise
            except Exception as error:
                if not Backend.is_transient(error) or time.monotonic() > deadline:
                    raise
                logger.warning("upgrading is delayed, %s", trouble(error))
            await asyncio.sleep(backoff.next())

    async def insistently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call until it succeeds; only errors that may pass are tried again.

        Args:
            call: What to call.

        Raises:
            TimeoutError: It has not succeeded within ``startup_timeout``.
        """
        backoff = Backoff()
        async with asyncio.timeout(self._settings.startup_timeout.total_seconds()):
            while True:
                try:
                    return await call()
                except PgconductorError:
                    raise
                except Exception as error:
                    if not Backend.is_transient(error):
                        raise
                    logger.warning("starting is delayed, %s", trouble(error))
                await asyncio.sleep(backoff.next())


def _tell_difference(status: SchemaStatus) -> None:
    """Not an error, but whoever reads the log of a deployment should know."""
    if status.installed > KNOWN_REVISION:
        logger.warning(
            "the database is at revision %04d, ahead of this release, which knows %04d: none of "
            "the revisions between is breaking",
            status.installed,
            KNOWN_REVISION,
        )
    elif status.installed < KNOWN_REVISION:
        logger.warning(
            "the database is at revision %04d, behind this release, which knows %04d and can work "
            "on it",
            status.installed,
            KNOWN_REVISION,
        )
