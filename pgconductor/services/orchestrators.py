"""The life of orchestrators: register, heartbeat, recover the dead, leave, sweep."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

from pgconductor._version import __version__
from pgconductor.domain.claims import Registration
from pgconductor.domain.fleet import Fleet
from pgconductor.domain.ids import new_id
from pgconductor.domain.limits import check_text
from pgconductor.domain.orchestrators import (
    Beat,
    Heartbeat,
    OrchestratorSnapshot,
    Recovery,
    StaleObserver,
)
from pgconductor.domain.revisions import KNOWN_REVISION, REQUIRED_REVISION, SchemaStatus
from pgconductor.domain.tasks import TaskOptions
from pgconductor.exceptions import NotRegistered, PgconductorError, RegistrationRefused
from pgconductor.repositories import Repositories
from pgconductor.services.unit_of_work import Bind, JoinedUnitOfWork, unit_of_work

__all__ = ["RECOVERY_BATCH", "OrchestratorService"]

#: How many executions are recovered in one transaction.
RECOVERY_BATCH: Final = 500
_WITHDRAW_SECONDS: Final = 5.0
_WITHDRAW_PAUSES: Final = (0.0, 0.02, 0.08, 0.4)

logger = logging.getLogger("pgconductor.orchestrators")


class OrchestratorService:
    """Orchestrators, over whatever session, connection or engine the caller has.

    Give it an engine or a sessionmaker, so that each call commits by itself: a registration that is
    not committed lets nothing be fetched, and recovery works in several transactions.

    Args:
        bind: See :func:`pgconductor.services.unit_of_work.unit_of_work`.
    """

    def __init__(self, bind: Bind) -> None:
        self._work = unit_of_work(bind)

    async def register(
        self,
        *,
        version: str = __version__,
        schema_version: int = KNOWN_REVISION,
        schema_required: int | None = None,
        queues: Sequence[str] = (),
    ) -> Registration:
        """Become an orchestrator, with an identity that was never used before.

        Args:
            version: Version of the code.
            schema_version: The highest revision that the code knows.
            schema_required: The lowest revision that it can work on; the default is this release's.
            queues: What it is going to serve, for those who look at the fleet.

        Returns:
            The proof without which nothing can be fetched.

        Raises:
            SchemaMissing: The database has no pgconductor schema.
            SchemaBehind: It lacks revisions that this release needs.
            SchemaTooNew: It has a breaking revision that the code does not know.
            MigrationUnderWay: Such a revision is about to be applied.
            RegistrationRefused: The gate refused it for another reason.
        """
        registration = Registration(new_id(), schema_version)
        if schema_required is None:
            schema_required = min(REQUIRED_REVISION, schema_version)
        try:
            await self._add(registration, version, schema_required, queues)
        except PgconductorError:
            raise
        except BaseException:
            # Cancelled, or cut off: it may have committed all the same, and nobody would beat.
            await asyncio.shield(self._withdraw(registration))
            raise
        return registration

    async def _add(
        self,
        registration: Registration,
        version: str,
        schema_required: int,
        queues: Sequence[str],
    ) -> None:
        schema_version = registration.schema_version
        async with self._work.begin() as repositories:
            accepted = await repositories.orchestrators.add(
                registration.orchestrator_id,
                version=version,
                schema_version=schema_version,
                schema_required=schema_required,
                hostname=socket.gethostname(),
                pid=os.getpid(),
                queues=queues,
            )
            if not accepted:
                status = await repositories.schema.status()
                status.check(schema_version, schema_required)
                raise RegistrationRefused(
                    f"the gate refused an orchestrator of revision {schema_version:04d}; the "
                    f"database is at {status.installed:04d}; try again"
                )

    async def _withdraw(self, registration: Registration) -> None:
        if isinstance(self._work, JoinedUnitOfWork):
            return  # The caller's transaction decides.
        try:
            async with asyncio.timeout(_WITHDRAW_SECONDS):
                for pause in _WITHDRAW_PAUSES:
                    # What was sent before the connection was cut may be read by the server, and
                    # committed, after a look on another connection has found nothing.
                    await asyncio.sleep(pause)
                    if (await self.leave(registration)).orchestrators:
                        return
        except Exception as error:  # noqa: BLE001 - whatever it is, others will find it stale
            logger.info("a registration in doubt could not be withdrawn: %s", type(error).__name__)

    async def schema_status(self) -> SchemaStatus:
        """What the database says of its schema.

        Raises:
            SchemaMissing: There is none.
        """
        async with self._work.begin() as repositories:
            return await repositories.schema.status()

    async def declare(self, tasks: Sequence[TaskOptions], queues: Sequence[str]) -> None:
        """Make tasks and queues known to the database, for invokes from SQL and for operators.

        Args:
            tasks: What this process can execute.
            queues: What it serves.
        """
        async with self._work.begin() as repositories:
            if queues:
                await repositories.queues.declare_many(queues)
            if tasks:
                await repositories.tasks.declare_many(tasks)

    async def heartbeat(self, registration: Registration) -> Heartbeat:
        """Prove that the orchestrator lives, and learn what it has to know.

        Raises:
            NotRegistered: It has no row: it was found stale and removed. It must stop, drop its
                results and never come back under this identity.
        """
        async with self._work.begin() as repositories:
            answer = await repositories.orchestrators.heartbeat(registration.orchestrator_id)
        if answer is None:
            raise NotRegistered(registration.orchestrator_id)
        return answer

    async def recover_stale(
        self, observer: StaleObserver, *, registration: Registration | None = None
    ) -> Recovery:
        """Take back what dead orchestrators hold; call it every few seconds with one observer.

        Nobody is declared dead before this observer has watched for as long as its threshold.

        Args:
            observer: What the caller has seen so far.
            registration: The caller's own, who is not looked at.

        Returns:
            What was taken back.
        """
        own = registration.orchestrator_id if registration else None
        async with self._work.begin() as repositories:
            beats = await repositories.orchestrators.beats(own, stale_after=observer.stale_after)
            orphaned = await repositories.executions.orphan_owners()
        stale = observer.observe(beats, time.monotonic())
        total = Recovery()
        for beat in beats:
            if beat.orchestrator_id in stale:
                total += await self._recover(beat, observer.stale_after)
        for owner in orphaned:
            total += await self._recover_orphans(owner)
        return total

    async def _recover(self, beat: Beat, stale_after: timedelta) -> Recovery:
        """Empty a stale orchestrator in bounded transactions; its row goes with the last."""
        total = Recovery()
        while True:
            async with self._work.begin() as repositories:
                if not await repositories.orchestrators.lock_stale(beat, stale_after=stale_after):
                    return total
                batch = await repositories.executions.take_back(
                    beat.orchestrator_id, limit=RECOVERY_BATCH, crashed=True
                )
                total += batch
                if await repositories.orchestrators.remove(beat.orchestrator_id):
                    return total + Recovery(orchestrators=frozenset({beat.orchestrator_id}))
                if batch.executions == 0:
                    # The rest is locked by somebody: left for the next look.
                    return total

    async def _recover_orphans(self, owner: UUID) -> Recovery:
        total = Recovery()
        while True:
            async with self._work.begin() as repositories:
                batch = await repositories.executions.take_back(
                    owner, limit=RECOVERY_BATCH, crashed=True
                )
            total += batch
            if batch.executions == 0:
                return total

    async def leave(self, registration: Registration) -> Recovery:
        """Give back whatever the orchestrator still holds and remove its row.

        Calling it again does nothing.

        Returns:
            What was given back; no crash is counted. Where some of it is locked by others, the row
            stays: call it again.
        """
        return await self._clear_out(registration.orchestrator_id, crashed=False)

    async def _clear_out(self, identity: UUID, *, crashed: bool) -> Recovery:
        """Empty an orchestrator that fetches nothing meanwhile; its row goes with the last."""
        total = Recovery()
        while True:
            async with self._work.begin() as repositories:
                if not await repositories.orchestrators.lock(identity):
                    return total
                batch = await repositories.executions.take_back(
                    identity, limit=RECOVERY_BATCH, crashed=crashed
                )
                total += batch
                if await repositories.orchestrators.remove(identity):
                    return total + Recovery(orchestrators=frozenset({identity}))
                if batch.executions == 0:
                    await _forget_to_fetch(repositories, identity)
                    return total + Recovery(left=frozenset({identity}))

    async def sweep(
        self,
        *,
        reason: str,
        below_version: int | None = None,
        above_required: int | None = None,
    ) -> list[OrchestratorSnapshot]:
        """Ask every orchestrator to stop that could not go on after a migration.

        Call it again until it returns nothing: without an intent at the gate an orchestrator may
        register between two calls.

        Args:
            reason: What they are told.
            below_version: The revision of an upgrade; those that know it are left alone.
            above_required: The revision after a downgrade; those that can work on it are left
                alone.

        Returns:
            Those that are still there.

        Raises:
            InvalidInput: The reason cannot be stored.
        """
        check_text(reason, "reason")
        async with self._work.begin() as repositories:
            asked = await repositories.orchestrators.request_shutdown(
                reason=reason, below_version=below_version, above_required=above_required
            )
            there = await repositories.orchestrators.list()
        wanted = set(asked)
        return [one for one in there if one.id in wanted]

    async def evict(self, orchestrator_id: UUID) -> Recovery:
        """Take away what an orchestrator holds, and its registration, whether it lives or not.

        It counts as a crash, for its handlers may go on for a while. Whatever it writes from now on
        is refused, and its next heartbeat tells it to end.

        Args:
            orchestrator_id: Which one.

        Returns:
            What was taken back. Where some of it is locked by others, the row stays: call it again.
        """
        return await self._clear_out(orchestrator_id, crashed=True)

    async def request_shutdown(self, orchestrator_id: UUID, *, reason: str) -> bool:
        """Ask one orchestrator to stop.

        Returns:
            False if there is none of that id.

        Raises:
            InvalidInput: The reason cannot be stored.
        """
        check_text(reason, "reason")
        async with self._work.begin() as repositories:
            return bool(
                await repositories.orchestrators.request_shutdown(
                    reason=reason, orchestrator_id=orchestrator_id
                )
            )

    async def list(self) -> list[OrchestratorSnapshot]:
        """All registered orchestrators, the oldest first."""
        async with self._work.begin() as repositories:
            return await repositories.orchestrators.list()

    async def fleet(self) -> Fleet:
        """All registered orchestrators, what they are at, and what the gate says.

        Raises:
            SchemaMissing: The database has no pgconductor schema.
        """
        async with self._work.begin() as repositories:
            status = await repositories.schema.status()
            return Fleet(status, tuple(await repositories.orchestrators.members()))


async def _forget_to_fetch(repositories: Repositories, identity: UUID) -> None:
    """Something it holds is locked by others: it must fetch no more, and is recovered as stale."""
    await repositories.orchestrators.request_shutdown(reason="leaving", orchestrator_id=identity)
