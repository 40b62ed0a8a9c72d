"""The parts of a registered orchestrator at work, and how they react to what is learnt."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from pgconductor.domain.claims import Registration
from pgconductor.domain.orchestrators import Heartbeat
from pgconductor.domain.outcomes import Verdict
from pgconductor.domain.revisions import KNOWN_REVISION, REQUIRED_REVISION
from pgconductor.exceptions import SchemaBehind, SchemaMissing, SchemaTooNew
from pgconductor.runtime.attempt import Runnable, Stop
from pgconductor.runtime.completer import Completer
from pgconductor.runtime.gate import StartGate
from pgconductor.runtime.heartbeat import HeartbeatThread
from pgconductor.runtime.journal import Journal
from pgconductor.runtime.lookout import Lookout
from pgconductor.runtime.maintenance import Maintenance
from pgconductor.runtime.retention import RetentionLoop
from pgconductor.runtime.slots import Crowd
from pgconductor.runtime.threads import Threads
from pgconductor.runtime.worker import Process, Worker
from pgconductor.services.backend import Backend
from pgconductor.services.listener import AVAILABLE, CONTROL, FINISHED, WAITS, Listener
from pgconductor.settings import Settings

__all__ = ["ExitReason", "Machine"]

logger = logging.getLogger("pgconductor.orchestrator")

#: Without notifications, cancellations are only learnt from heartbeats, so these come oftener.
_UNHEARD_INTERVAL: Final = 1.0


class ExitReason(StrEnum):
    """Why an orchestrator has ended.

    Attributes:
        CLEAN: It was stopped, or drained, and everything ended or was given back in time.
        FORCED: Some handler was interrupted, or left behind, because the grace period was over or a
            second signal came; or outcomes could not be written, and others take them over.
        SHUTDOWN: The database asked for it, for instance because of a breaking migration.
        EVICTED: Others found it stale and took its executions.
    """

    CLEAN = "clean"
    FORCED = "forced"
    SHUTDOWN = "shutdown"
    EVICTED = "evicted"


class Machine:
    """Workers, completer, heartbeat, listener and maintenance of one registration.

    Args:
        backend: The database.
        settings: Intervals and limits.
        registration: The identity.
        runnables: The tasks, by name.
        queues: The queues, a worker each.
        concurrency: How many handlers each worker executes at once.
        on_stop: Called with the reason when the machine finds that it has to stop.
        on_drained: Called when nothing is left that is due, and nothing is under way.
        draining: Somebody waits for that, so look again after every batch of outcomes.
    """

    def __init__(
        self,
        backend: Backend,
        settings: Settings,
        registration: Registration,
        runnables: Mapping[str, Runnable],
        *,
        queues: Sequence[str],
        concurrency: int,
        on_stop: Callable[[ExitReason], None],
        on_drained: Callable[[], None],
        draining: bool,
    ) -> None:
        self.settings = settings
        self.registration = registration
        self.first_beat = asyncio.Event()
        self.loops: list[asyncio.Task[None]] = []
        self._on_stop = on_stop
        self._on_drained = on_drained
        self._told = False
        self._asking = False
        self.lookout = Lookout(
            backend,
            settings.poll_interval.total_seconds(),
            activity=lambda: self.process.activity,
            on_looked=self._on_looked,
        )
        slots = concurrency * len(queues)
        crowd = Crowd(slots)
        self.process = Process(
            backend=backend,
            settings=settings,
            registration=registration,
            runnables=runnables,
            completer=Completer(backend, self._on_written, self._on_refused),
            gate=StartGate(self._on_gate_open, settings.stale_after.total_seconds()),
            threads=Threads.of(handlers=crowd.threads, steps=slots),
            crowd=crowd,
            journal=Journal(backend),
            lookout=self.lookout,
            on_error=self._on_refused,
            draining=draining,
        )
        self.workers = [
            Worker(self.process, queue, concurrency, self._check_drained) for queue in queues
        ]
        crowd.on_room = self._on_gate_open
        self.heartbeat = HeartbeatThread(
            lambda: backend.heartbeat_link(registration),
            settings,
            asyncio.get_running_loop(),
            on_answer=self._on_answer,
            on_evicted=self._on_evicted,
            on_failure=self._on_refused,
            on_fence=self._on_fence,
        )
        self._listener: Listener | None = None

    def start_loops(self) -> None:
        """Begin to work; the heartbeat must have been proven before."""
        process = self.process
        self._spawn(process.completer.run(), "completer")
        self._spawn(Maintenance(process, self.workers).run(), "maintenance")
        self._spawn(RetentionLoop(process).run(), "retention")
        self._spawn(self.lookout.run(), "lookout")
        if self.settings.listen:
            self._listener = process.backend.listener(self._on_notify, self._on_restored)
            self._spawn(self._listener.run(), "listener")
        self._spawn(self._tick(), "ticker")
        for worker in self.workers:
            self._spawn(worker.run(), f"worker-{worker.queue}")

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=f"pgconductor-{name}")
        task.add_done_callback(self._on_loop_ended)
        self.loops.append(task)

    def _on_loop_ended(self, task: asyncio.Task[None]) -> None:
        """A loop of ours must not die silently: the process would look alive and do nothing."""
        if task.cancelled() or (error := task.exception()) is None:
            return
        logger.critical("%s ended unexpectedly", task.get_name(), exc_info=error)
        self._on_stop(ExitReason.FORCED)

    async def _tick(self) -> None:
        """Tell the heartbeat's thread that this loop lives, and how often to beat."""
        usual = self.settings.heartbeat_interval.total_seconds()
        while True:
            heard = self._listener is not None and self._listener.healthy.is_set()
            self.heartbeat.interval = usual if heard else min(usual, _UNHEARD_INTERVAL)
            self.heartbeat.main_is_alive()
            await asyncio.sleep(1.0)

    # Reactions to the heartbeat, called on the main loop.

    def _on_answer(self, answer: Heartbeat) -> None:
        self.first_beat.set()
        for execution_id in answer.cancellations:
            self._cancel(execution_id)
        told = (
            answer.shutdown_requested
            or answer.schema_floor > KNOWN_REVISION
            or answer.schema_ceiling < REQUIRED_REVISION
        )
        if told and not self._told:
            self._told = True
            logger.warning("asked to shut down: %s", answer.shutdown_reason or "a migration")
            self._on_stop(ExitReason.SHUTDOWN)

    def _cancel(self, execution_id: UUID) -> None:
        try:
            any(worker.cancel(execution_id) for worker in self.workers)
        except Exception:
            # The next answer asks again; the others, and a stop, are not to wait for it.
            logger.exception(
                "execution %s could not be cancelled",
                execution_id,
                extra={"execution_id": str(execution_id)},
            )

    def _on_evicted(self) -> None:
        dropped = self.process.completer.discard()
        logger.error(
            "evicted: found stale by others, who took its executions; %d outcomes are dropped",
            dropped,
        )
        for worker in self.workers:
            worker.stop_attempts(Stop.LOST)
        self.first_beat.set()
        self._on_stop(ExitReason.EVICTED)

    def _on_refused(self, error: Exception) -> None:
        """A statement that names what is not there may have been overtaken by a migration."""
        if self.process.backend.is_undefined(error) and not self._told and not self._asking:
            self._asking = True
            self._spawn(self._ask_schema(), "schema")

    async def _ask_schema(self) -> None:
        try:
            status = await self.process.backend.orchestrators.schema_status()
            status.check()
        except (SchemaTooNew, SchemaBehind, SchemaMissing) as error:
            self._told = True
            logger.error("stopping: %s", error)
            self._on_stop(ExitReason.SHUTDOWN)
        except Exception as error:
            if not self.process.backend.is_transient(error):
                raise
        finally:
            self._asking = False

    def _on_fence(self, fenced: bool) -> None:
        if fenced:
            logger.error("no heartbeat was acknowledged for too long: handlers are interrupted")
            self.process.gate.close("fence")
            for worker in self.workers:
                worker.stop_attempts(Stop.INTERRUPTED)
        else:
            logger.warning("heartbeats are acknowledged again")
            self.process.gate.reopen("fence")

    # Reactions to notifications and to one another.

    def _on_notify(self, channel: str, payload: str) -> None:
        if channel == AVAILABLE:
            for worker in self.workers:
                if worker.queue == payload:
                    worker.wake()
        elif channel == CONTROL and payload == str(self.registration.orchestrator_id):
            self.heartbeat.beat_now()
            self.lookout.look_at_all()
        elif channel == FINISHED:
            self.lookout.child_ended(payload)
        elif channel == WAITS:
            self.lookout.kick()

    def _on_restored(self) -> None:
        """Notifications may have been missed: look at once."""
        self.wake_workers()
        self.heartbeat.beat_now()
        self.lookout.look_at_all()
        self.lookout.kick()

    def wake_workers(self) -> None:
        """Have every worker look for something to do."""
        for worker in self.workers:
            worker.wake()

    def _on_gate_open(self) -> None:
        """What could not start may start now."""
        for worker in self.workers:
            worker.reopened()

    def _on_written(self, verdicts: list[Verdict]) -> None:
        self.process.activity += len(verdicts)
        for verdict in verdicts:
            try:
                self._on_verdict(verdict)
            except Exception:
                # It is written: the others are not to be written again because of it.
                logger.exception(
                    "the end of execution %s is not noticed here",
                    verdict.execution_id,
                    extra={"execution_id": str(verdict.execution_id)},
                )
        if self.process.draining and all(worker.quiet for worker in self.workers):
            # What was just given back, or is to be retried at once, may be due.
            self.wake_workers()

    def _on_verdict(self, verdict: Verdict) -> None:
        parents = self.process.parents
        self.process.gate.settle(verdict.execution_id)
        parent = parents.pop(verdict.execution_id, None) if parents else None
        if parent is not None and verdict.state is not None and verdict.state.finished:
            self.lookout.look(parent)

    def _on_looked(self) -> None:
        """What was waiting may be available."""
        if self.process.draining:
            self.wake_workers()

    def _check_drained(self) -> None:
        """Nothing is left if all have found nothing since the waits were looked at last."""
        process, lookout = self.process, self.lookout
        if not process.completer.idle or not all(worker.quiet for worker in self.workers):
            return
        if process.unread:
            return  # What could not be read is held, until it has been told apart.
        if lookout.looked_at != process.activity:
            lookout.kick()
        elif all(worker.drained_at == (process.activity, lookout.looks) for worker in self.workers):
            self._on_drained()
