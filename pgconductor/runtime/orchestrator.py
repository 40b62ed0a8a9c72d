"""An orchestrator: one process run with an identity of its own, and one worker a queue."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import Any, Final, TypeVar

from pgconductor.domain.backoff import Backoff
from pgconductor.domain.claims import Registration
from pgconductor.domain.orchestrators import Heartbeat
from pgconductor.domain.outcomes import Verdict
from pgconductor.domain.revisions import KNOWN_REVISION
from pgconductor.exceptions import ConfigurationError, NotRegistered, PgconductorError
from pgconductor.runtime.attempt import Runnable, Stop
from pgconductor.runtime.completer import Completer
from pgconductor.runtime.gate import StartGate
from pgconductor.runtime.heartbeat import HeartbeatThread
from pgconductor.runtime.maintenance import Maintenance
from pgconductor.runtime.signals import stop_on_signals
from pgconductor.runtime.worker import Process, Worker
from pgconductor.services.backend import Backend
from pgconductor.services.listener import AVAILABLE, CONTROL
from pgconductor.runtime.wording import describe
from pgconductor.settings import Settings

__all__ = ["ExitReason", "Orchestrator"]

logger = logging.getLogger("pgconductor.orchestrator")

_T = TypeVar("_T")
_FLUSH_SECONDS: Final = 10.0
_LEAVE_SECONDS: Final = 5.0
#: Without notifications, cancellations are only learnt from heartbeats.
_UNHEARD_INTERVAL: Final = 1.0


class ExitReason(StrEnum):
    """Why an orchestrator has ended.

    Attributes:
        CLEAN: It was stopped, or drained, and everything ended or was given back in time.
        FORCED: Some handler did not end within the grace period, or a second signal came.
        SHUTDOWN: The database asked for it, for instance because of a breaking migration.
        EVICTED: Others found it stale and took its executions.
    """

    CLEAN = "clean"
    FORCED = "forced"
    SHUTDOWN = "shutdown"
    EVICTED = "evicted"


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
        self._registration: Registration | None = None
        self._process: Process | None = None
        self._heartbeat: HeartbeatThread | None = None
        self._workers: list[Worker] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._stopped = asyncio.Event()
        self._stop_asked = asyncio.Event()
        self._hurry = asyncio.Event()
        self._drained = asyncio.Event()
        self._first_beat = asyncio.Event()
        self._stopping: asyncio.Task[None] | None = None
        self._reason: ExitReason | None = None
        self._draining = False

    @property
    def registration(self) -> Registration:
        """Its identity.

        Raises:
            ConfigurationError: It has not started.
        """
        if self._registration is None:
            raise ConfigurationError("the orchestrator has not started")
        return self._registration

    async def start(self) -> None:
        """Register, prove the heartbeat, and start the workers.

        Raises:
            SchemaError: The database's schema and this release do not fit.
            ConfigurationError: It was started before.
            TimeoutError: The database stayed out of reach for ``startup_timeout``.
        """
        if self._backend is not None:
            raise ConfigurationError("an orchestrator starts once; make another")
        self._backend = self._make_backend()
        try:
            async with asyncio.timeout(self._settings.startup_timeout.total_seconds()):
                self._registration = await self._insistently(self._backend.orchestrators.register)
                await self._begin(self._backend, self._registration)
        except BaseException:
            await asyncio.shield(self._undo_start())
            raise

    async def _begin(self, backend: Backend, registration: Registration) -> None:
        self._process = process = Process(
            backend=backend,
            settings=self._settings,
            registration=registration,
            runnables=self._runnables,
            completer=Completer(backend, self._on_written),
            gate=StartGate(self._on_gate_open),
            threads=ThreadPoolExecutor(
                self._concurrency * len(self._queues), thread_name_prefix="pgconductor-handler"
            ),
        )
        self._heartbeat = HeartbeatThread(
            lambda: backend.heartbeat_link(registration),
            self._settings,
            asyncio.get_running_loop(),
            on_answer=self._on_answer,
            on_evicted=self._on_evicted,
            on_fence=self._on_fence,
        )
        self._heartbeat.start()
        await self._first_beat.wait()
        options = [runnable.options for runnable in self._runnables.values()]
        await self._insistently(lambda: backend.orchestrators.declare(options, self._queues))
        self._workers = [
            Worker(process, queue, self._concurrency, self._on_worker_drained)
            for queue in self._queues
        ]
        maintenance = Maintenance(process, self._workers)
        self._spawn(process.completer.run(), "completer")
        self._spawn(maintenance.run(), "maintenance")
        self._spawn(self._tick(self._heartbeat), "ticker")
        if self._settings.listen:
            listener = backend.listener(self._on_notify, self._wake_all)
            self._spawn(listener.run(), "listener")
            self._spawn(self._follow(listener.healthy, self._heartbeat), "listener-watch")
        else:
            self._heartbeat.interval = min(self._heartbeat.interval, _UNHEARD_INTERVAL)
        for worker in self._workers:
            self._spawn(worker.run(), f"worker-{worker.queue}")
        logger.info(
            "orchestrator %s serves %s",
            registration.orchestrator_id,
            ", ".join(self._queues),
            extra={"orchestrator_id": str(registration.orchestrator_id)},
        )

    async def _insistently(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Call until it succeeds; only errors that may pass are tried again."""
        backoff = Backoff()
        backend = self._require_backend()
        while True:
            try:
                return await call()
            except PgconductorError:
                raise
            except Exception as error:
                if not backend.is_transient(error):
                    raise
                logger.warning(
                    "starting is delayed, the database is out of reach: %s", describe(error)
                )
            await asyncio.sleep(backoff.next())

    def _require_backend(self) -> Backend:
        if self._backend is None:
            raise ConfigurationError("the orchestrator has not started")
        return self._backend

    def _spawn(self, work: Any, name: str) -> None:
        task = asyncio.create_task(work, name=f"pgconductor-{name}")
        task.add_done_callback(self._on_loop_ended)
        self._tasks.append(task)

    def _on_loop_ended(self, task: asyncio.Task[None]) -> None:
        """A loop of ours must not die silently: the process would look alive and do nothing."""
        if task.cancelled() or task.exception() is None:
            return
        logger.critical("%s ended unexpectedly", task.get_name(), exc_info=task.exception())
        self._begin_stop(ExitReason.FORCED)

    # What is learnt from the heartbeat's thread and from notifications, on the main loop.

    def _on_answer(self, answer: Heartbeat) -> None:
        self._first_beat.set()
        if answer.shutdown_requested or answer.schema_floor > KNOWN_REVISION:
            logger.warning("asked to shut down: %s", answer.shutdown_reason or "breaking migration")
            self._begin_stop(ExitReason.SHUTDOWN)
        for execution_id in answer.cancellations:
            for worker in self._workers:
                if worker.cancel(execution_id):
                    break

    def _on_evicted(self) -> None:
        if self._reason is None or self._registration is not None:
            logger.error("evicted: found stale by others, who took its executions")
        self._first_beat.set()
        if self._process is not None:
            dropped = self._process.completer.discard()
            logger.error("%d outcomes are dropped, their executions belong to others", dropped)
        for worker in self._workers:
            worker.stop_attempts(Stop.LOST)
        self._reason = ExitReason.EVICTED
        self._begin_stop(ExitReason.EVICTED)

    def _on_fence(self, fenced: bool) -> None:
        if self._process is None:
            return
        if fenced:
            logger.error("no heartbeat was acknowledged for too long: handlers are interrupted")
            self._process.gate.close("fence")
            for worker in self._workers:
                worker.stop_attempts(Stop.INTERRUPTED)
        else:
            logger.warning("heartbeats are acknowledged again")
            self._process.gate.reopen("fence")

    def _on_notify(self, channel: str, payload: str) -> None:
        if channel == AVAILABLE:
            for worker in self._workers:
                if worker.queue == payload:
                    worker.wake()
        elif channel == CONTROL and payload == str(self.registration.orchestrator_id):
            if self._heartbeat is not None:
                self._heartbeat.beat_now()

    def _wake_all(self) -> None:
        self._wake_workers()
        if self._heartbeat is not None:
            self._heartbeat.beat_now()

    def _wake_workers(self) -> None:
        for worker in self._workers:
            worker.wake()

    def _on_gate_open(self) -> None:
        for worker in self._workers:
            worker.reopened()

    def _on_written(self, verdicts: list[Verdict]) -> None:
        if self._process is not None:
            self._process.activity += len(verdicts)
        if self._draining:
            self._wake_workers()

    def _on_worker_drained(self) -> None:
        process = self._process
        if (
            process is not None
            and process.completer.idle
            and all(w.quiet and w.drained_at == process.activity for w in self._workers)
        ):
            self._drained.set()

    async def _tick(self, heartbeat: HeartbeatThread) -> None:
        while True:
            heartbeat.main_is_alive()
            await asyncio.sleep(1.0)

    async def _follow(self, healthy: asyncio.Event, heartbeat: HeartbeatThread) -> None:
        usual = heartbeat.interval
        while True:
            heartbeat.interval = usual if healthy.is_set() else min(usual, _UNHEARD_INTERVAL)
            await asyncio.sleep(1.0)

    # Stopping.

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
            await self._stopped.wait()
        return self._reason or ExitReason.CLEAN

    async def drain(self) -> ExitReason:
        """Start, execute until nothing is left that is due, then stop.

        Executions that are due later, and those of tasks that are not declared here, are left.

        Returns:
            Why it ended; ``CLEAN`` if everything that was due is done.
        """
        self._draining = True
        with stop_on_signals(self._on_signal):
            await self.start()
            drained = asyncio.create_task(self._drained.wait())
            ended = asyncio.create_task(self._stopped.wait())
            try:
                await asyncio.wait([drained, ended], return_when=asyncio.FIRST_COMPLETED)
                await self.stop()
            finally:
                drained.cancel()
                ended.cancel()
        return self._reason or ExitReason.CLEAN

    def _on_signal(self) -> None:
        if self._stop_asked.is_set():
            logger.warning("hurrying")
            self._hurry.set()
        else:
            self._begin_stop(ExitReason.CLEAN)

    async def stop(self) -> None:
        """Stop: give back what has not started, let handlers end, flush, leave.

        Handlers have ``shutdown_grace`` to reach their end or their next boundary; then they are
        cancelled and their executions given back. Calling it again waits for the same end.
        """
        self._begin_stop(ExitReason.CLEAN)
        await self._stopped.wait()

    def _begin_stop(self, reason: ExitReason) -> None:
        if self._process is None or not self._workers:
            # Not yet under way: start() fails or undoes itself.
            self._reason = self._reason or reason
            if self._backend is None:
                self._stopped.set()
                return
        if not self._stop_asked.is_set():
            self._reason = self._reason or reason
            self._stop_asked.set()
            self._stopping = asyncio.create_task(self._stop(), name="pgconductor-stop")

    async def _stop(self) -> None:
        try:
            for worker in self._workers:
                worker.stop_fetching()
            if not await self._handlers_ended():
                self._reason = (
                    ExitReason.FORCED if self._reason is ExitReason.CLEAN else self._reason
                )
            await self._flush()
            await self._leave()
        finally:
            await self._close()
            self._stopped.set()

    async def _handlers_ended(self) -> bool:
        """Wait for the handlers, at most for the grace; whether all ended by themselves."""
        everything = asyncio.create_task(self._all_ended())
        hurried = asyncio.create_task(self._hurry.wait())
        try:
            grace = self._settings.shutdown_grace.total_seconds()
            await asyncio.wait(
                [everything, hurried], timeout=grace, return_when=asyncio.FIRST_COMPLETED
            )
            if everything.done():
                return True
            for worker in self._workers:
                worker.stop_attempts(Stop.INTERRUPTED)
            await asyncio.wait([everything], timeout=min(grace, 2.0))
            left = sum(worker.abandon_attempts() for worker in self._workers)
            if left:
                logger.error("%d handlers did not end; their executions are given back", left)
            return False
        finally:
            everything.cancel()
            hurried.cancel()

    async def _all_ended(self) -> None:
        for worker in self._workers:
            await worker.ended()

    async def _flush(self) -> None:
        if self._process is None or self._reason is ExitReason.EVICTED:
            return
        try:
            async with asyncio.timeout(_FLUSH_SECONDS):
                await self._process.completer.flushed()
        except TimeoutError:
            logger.error("outcomes could not be written in time; others will take them over")

    async def _leave(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.stop()
        if self._registration is None or self._reason is ExitReason.EVICTED:
            return
        backoff = Backoff()
        try:
            async with asyncio.timeout(_LEAVE_SECONDS):
                while True:
                    try:
                        await self._require_backend().orchestrators.leave(self._registration)
                        return
                    except NotRegistered:
                        return
                    except Exception as error:
                        if not self._require_backend().is_transient(error):
                            raise
                        logger.warning(
                            "leaving is delayed, the database is out of reach: %s", error
                        )
                    await asyncio.sleep(backoff.next())
        except TimeoutError:
            logger.error("could not leave in time; others will find this orchestrator stale")

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                logger.debug("a loop ended with %r", outcome)
        if self._heartbeat is not None:
            self._heartbeat.stop()
            await asyncio.to_thread(self._heartbeat.join, 5.0)
        if self._process is not None:
            self._process.threads.shutdown(wait=False, cancel_futures=True)
        if self._backend is not None:
            await self._backend.aclose()

    async def _undo_start(self) -> None:
        """A start that failed leaves no row behind."""
        self._stop_asked.set()
        try:
            await self._leave()
        finally:
            await self._close()
            self._stopped.set()
