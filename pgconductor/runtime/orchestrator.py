"""An orchestrator: one process run with an identity of its own, and one worker a queue."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from pgconductor.domain.claims import Registration
from pgconductor.exceptions import ConfigurationError, NotRegistered
from pgconductor.runtime import shutdown
from pgconductor.runtime.attempt import Runnable
from pgconductor.runtime.machine import ExitReason, Machine
from pgconductor.runtime.signals import stop_on_signals
from pgconductor.runtime.startup import StartUp
from pgconductor.services.backend import Backend
from pgconductor.settings import Settings

__all__ = ["ExitReason", "Orchestrator"]

logger = logging.getLogger("pgconductor.orchestrator")


class Orchestrator:
    """Executes tasks of some queues until stopped. Made by ``Conductor.orchestrator()``.

    Each start is a new identity; an orchestrator is used for one start only.

    Args:
        make_backend: Opens the database, in the event loop that will use it.
        settings: Intervals and limits.
        runnables: The tasks, by name.
        queues: The queues to serve.
        concurrency: How many handlers each worker executes at once.
    """

    def __init__(
        self,
        make_backend: Callable[[], Backend],
        settings: Settings,
        runnables: Mapping[str, Runnable],
        *,
        queues: Sequence[str],
        concurrency: int,
    ) -> None:
        if not queues:
            raise ConfigurationError("an orchestrator needs a queue to serve")
        self._make_backend = make_backend
        self._settings = settings
        self._runnables = dict(runnables)
        self._queues = tuple(dict.fromkeys(queues))
        self._concurrency = concurrency
        self._backend: Backend | None = None
        self._machine: Machine | None = None
        self._at_work = False
        self._draining = False
        self._reason: ExitReason | None = None
        self._started = asyncio.Event()
        self._stop_asked = asyncio.Event()
        self._hurry = asyncio.Event()
        self._drained = asyncio.Event()
        self._stopped = asyncio.Event()
        self._stopping: asyncio.Task[None] | None = None

    @property
    def registration(self) -> Registration:
        """Its identity.

        Raises:
            ConfigurationError: It is not registered yet.
        """
        if self._machine is None:
            raise ConfigurationError("the orchestrator has not started")
        return self._machine.registration

    @property
    def exit_reason(self) -> ExitReason | None:
        """Why it has ended or is ending; None while it is at work."""
        return self._reason

    async def start(self) -> None:
        """Register, prove the heartbeat, and start the workers.

        If :meth:`stop` is called meanwhile, or was before, it returns without having started.

        Raises:
            SchemaError: The database's schema and this release do not fit, see
                ``startup_policy``.
            RegistrationRefused: A migration is being prepared that shuts this release out.
            ConfigurationError: It was started before.
            TimeoutError: The database stayed out of reach for ``startup_timeout``.
        """
        if self._backend is not None:
            raise ConfigurationError("an orchestrator starts once; make another")
        if self._stop_asked.is_set():
            self._stopped.set()
            return
        self._backend = self._make_backend()
        beginning = asyncio.create_task(self._begin(self._backend), name="pgconductor-start")
        asked = asyncio.create_task(self._stop_asked.wait())
        try:
            await asyncio.wait([beginning, asked], return_when=asyncio.FIRST_COMPLETED)
            if not beginning.done():
                beginning.cancel()
            await asyncio.wait([beginning])
            if not beginning.cancelled():
                beginning.result()
        except BaseException:
            beginning.cancel()
            await asyncio.wait([beginning])
            await asyncio.shield(self._end())
            raise
        finally:
            asked.cancel()
        if beginning.cancelled():
            await asyncio.shield(self._end())
            return
        self._at_work = True
        self._started.set()
        if self._stop_asked.is_set():
            self._begin_stop()

    async def started(self) -> None:
        """Wait until :meth:`start` has succeeded, for whoever has to report it.

        It waits for ever where the start fails or is given up.
        """
        await self._started.wait()

    async def _begin(self, backend: Backend) -> None:
        start_up = StartUp(backend, self._settings, self._queues)
        registration = await start_up.register()
        async with asyncio.timeout(self._settings.startup_timeout.total_seconds()):
            self._machine = machine = Machine(
                backend,
                self._settings,
                registration,
                self._runnables,
                queues=self._queues,
                concurrency=self._concurrency,
                on_stop=self._ask_stop,
                on_drained=self._drained.set,
                draining=self._draining,
            )
            machine.heartbeat.start()
            await machine.first_beat.wait()
            if self._reason is ExitReason.EVICTED:
                raise NotRegistered(registration.orchestrator_id)
            options = [runnable.options for runnable in self._runnables.values()]
            await start_up.insistently(lambda: backend.orchestrators.declare(options, self._queues))
            machine.start_loops()
        logger.info(
            "orchestrator %s serves %s",
            registration.orchestrator_id,
            ", ".join(self._queues),
            extra={"orchestrator_id": str(registration.orchestrator_id)},
        )

    async def run(self) -> ExitReason:
        """Start, and execute until a signal or the database says to stop.

        SIGTERM and SIGINT stop it gracefully, a second one hurries it, a third ends the process.

        Returns:
            Why it ended.

        Raises:
            SchemaError: The database's schema and this release do not fit.
        """
        with stop_on_signals(self._on_signal):
            await self.start()
            try:
                await self._stopped.wait()
            finally:
                await self.stop()
        return self._reason or ExitReason.CLEAN

    async def drain(self) -> ExitReason:
        """Start, execute until nothing is left that is due, then stop.

        Executions that are due later, and those of tasks that are not declared here, are left.

        Returns:
            Why it ended; ``CLEAN`` if everything that was due is done.

        Raises:
            SchemaError: The database's schema and this release do not fit.
        """
        self._draining = True
        with stop_on_signals(self._on_signal):
            await self.start()
            drained = asyncio.create_task(self._drained.wait())
            ended = asyncio.create_task(self._stopped.wait())
            try:
                await asyncio.wait([drained, ended], return_when=asyncio.FIRST_COMPLETED)
            finally:
                drained.cancel()
                ended.cancel()
                await self.stop()
        return self._reason or ExitReason.CLEAN

    async def stop(self) -> None:
        """Stop: give back what has not started, let handlers end, flush, leave.

        Handlers have ``shutdown_grace`` to reach their end or their next boundary; then they are
        cancelled and their executions given back. Calling it again waits for the same end. Called
        before :meth:`start`, it returns at once, and nothing is started any more: a task that
        was about to call :meth:`run` ends too.
        """
        self._ask_stop(ExitReason.CLEAN)
        if self._backend is not None:
            await self._stopped.wait()

    def _on_signal(self) -> None:
        if self._stop_asked.is_set():
            logger.warning("hurrying")
            self._hurry.set()
        else:
            self._ask_stop(ExitReason.CLEAN)

    def _ask_stop(self, reason: ExitReason) -> None:
        """Stop for a reason; the first one stands, but for an eviction, which overrules all."""
        if reason is ExitReason.EVICTED:
            self._reason = reason
            self._hurry.set()
        self._reason = self._reason or reason
        self._stop_asked.set()
        if self._at_work:
            self._begin_stop()

    def _begin_stop(self) -> None:
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(), name="pgconductor-stop")

    async def _stop(self) -> None:
        try:
            if self._machine is not None:
                grace = self._settings.shutdown_grace.total_seconds()
                calm = await shutdown.end_handlers(
                    self._machine.workers, grace=grace, hurry=self._hurry
                )
                if self._reason is not ExitReason.EVICTED:
                    calm = await shutdown.flush(self._machine) and calm
                self._note(calm)
        finally:
            await self._end()

    def _note(self, calm: bool) -> None:
        """Whoever waits for a clean end is told if something had to be left to others."""
        if not calm and self._reason is ExitReason.CLEAN:
            self._reason = ExitReason.FORCED

    async def _end(self) -> None:
        """Leave and close; a start that failed leaves no row behind either."""
        try:
            if self._machine is not None:
                self._machine.heartbeat.stop()
                if self._reason is not ExitReason.EVICTED:
                    self._note(await shutdown.leave(self._machine))
        finally:
            if self._machine is not None:
                await shutdown.close(self._machine)
            if self._backend is not None:
                await self._backend.aclose()
            self._stopped.set()
