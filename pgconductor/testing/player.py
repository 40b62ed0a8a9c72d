"""Fetches, executes and completes, one execution after another, and lets processes die."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Self
from uuid import UUID

from pgconductor.conductor import Conductor
from pgconductor.domain.claims import Fetched, Registration
from pgconductor.domain.outcomes import Outcome
from pgconductor.domain.snapshots import ExecutionFilter, ExecutionSnapshot
from pgconductor.runtime.attempt import Attempt, Durability, Runnable, Stop
from pgconductor.runtime.threads import HandlerThreads
from pgconductor.runtime.waits import Waits
from pgconductor.services.steps import StepService
from pgconductor.testing.boundaries import Crashes
from pgconductor.testing.memory import RehearsedMemory
from pgconductor.testing.reading import all_executions, all_waiting
from pgconductor.testing.reports import Drained, Waiting
from pgconductor.testing.stages import Stage
from pgconductor.types import ExecutionState

__all__ = ["Player"]

#: After so many attempts there is no end to it.
_MOST: Final = 10_000
#: Seconds that a handler has to end after its process has died.
_PARTING: Final = 1.0
_THREADS: Final = 32

_playing: ContextVar[Player | None] = ContextVar("pgconductor_playing", default=None)


class _Sentry:
    """Looks once when it is asked: a handler that waits is suspended soon after.

    Args:
        steps: Where waits are settled.
    """

    def __init__(self, steps: StepService) -> None:
        self._steps = steps
        self._here: dict[UUID, Waits] = {}
        self._looking: asyncio.Task[None] | None = None

    def watch(self, waits: Waits, child_id: UUID | None) -> None:  # noqa: ARG002 - the protocol's
        """See the protocol."""
        self._here[waits.execution_id] = waits

    def forget(self, waits: Waits) -> None:
        """See the protocol."""
        self._here.pop(waits.execution_id, None)

    def look(self, execution_id: UUID) -> None:
        """See the protocol."""
        waits = self._here.get(execution_id)
        if waits is not None and (self._looking is None or self._looking.done()):
            self._looking = asyncio.create_task(self._look(waits))

    async def _look(self, waits: Waits) -> None:
        for settled in await self._steps.settle({waits.execution_id: waits.seen()}):
            waits.settled(settled)

    async def aclose(self) -> None:
        """Wait for a look that is under way: the handler may have ended before it has."""
        if self._looking is not None:
            await self._looking


@dataclass(slots=True)
class _Count:
    """What a drain has done."""

    attempts: int = 0
    crashes: int = 0
    passed: timedelta = timedelta(0)


class Player:
    """An orchestrator whose process dies when it is told to.

    Args:
        conductor: Whose tasks are executed.
        stage: Where.
        crashes: Where the process dies.
        patience: How long a handler may take by the real clock.
    """

    def __init__(
        self, conductor: Conductor, stage: Stage, crashes: Crashes, patience: timedelta
    ) -> None:
        self._conductor = conductor
        self._stage = stage
        self._crashes = crashes
        self._patience = patience
        self._threads = HandlerThreads(_THREADS)
        self._registration: Registration | None = None
        self._declared: set[str] = set()
        #: The queue that something was fetched from last; there may be more.
        self._queue: str | None = None
        self._left_behind: set[asyncio.Task[None]] = set()

    @property
    def inside(self) -> bool:
        """Whether a handler of this player asks."""
        return _playing.get() is self

    async def __aenter__(self) -> Self:
        await self._registered()
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._left_behind:
            task.cancel()
        if self._left_behind:
            await asyncio.wait(self._left_behind, timeout=_PARTING)
        self._threads.shutdown()
        await self._leave()

    async def _registered(self) -> Registration:
        if self._registration is None:
            self._registration = await self._stage.orchestrators.register()
        return self._registration

    async def _leave(self, *, crashed: bool = False) -> None:
        if self._registration is not None:
            gone, self._registration = self._registration, None
            if crashed:
                await self._stage.orchestrators.evict(gone.orchestrator_id)
            else:
                await self._stage.orchestrators.leave(gone)

    async def drain(self, at_most: timedelta | None, until: UUID | None) -> Drained:
        """See :meth:`Rehearsal.drain`."""
        await self._declare()
        count = _Count()
        while until is None or not await self._finished(until):
            if await self._play_next(count):
                continue
            await self._stage.steps.settle_due()
            if await self._play_next(count):
                continue
            by = await self._next()
            if by is None or (at_most is not None and count.passed + by > at_most):
                break
            self._stage.advance(by)
            count.passed += by
            await self._stage.orchestrators.heartbeat(await self._registered())
        return await self._report(count)

    async def _declare(self) -> None:
        tasks = self._conductor.tasks
        if set(tasks) != self._declared:
            options = [task.options for task in tasks.values()]
            await self._stage.orchestrators.declare(options, self._conductor.queues)
            self._declared = set(tasks)

    async def _finished(self, execution_id: UUID) -> bool:
        return (await self._stage.executions.progress(execution_id)).state.finished

    async def _available(self) -> list[ExecutionSnapshot]:
        where = ExecutionFilter(states=(ExecutionState.AVAILABLE,))
        return await all_executions(self._stage.executions, where)

    async def _waiting(self) -> list[Waiting]:
        where = ExecutionFilter(states=(ExecutionState.WAITING,))
        suspended = await all_executions(self._stage.executions, where)
        return await all_waiting(self._stage.steps, suspended)

    async def _next(self) -> timedelta | None:
        """How long it is until something is due; None if nothing will be."""
        now = await self._stage.now()
        times = [
            one.run_at - now
            for one in await self._available()
            if one.task_key in self._conductor.tasks and one.run_at > now
        ]
        soonest = timedelta(microseconds=1)
        times += [
            max(one.remaining, soonest)
            for one in await self._waiting()
            if one.remaining is not None
        ]
        return min(times, default=None)

    async def _report(self, count: _Count) -> Drained:
        now = await self._stage.now()
        available = await self._available()
        known = self._conductor.tasks
        return Drained(
            count.attempts,
            count.crashes,
            count.passed,
            waiting=await self._waiting(),
            later=[one for one in available if one.task_key in known and one.run_at > now],
            unknown=[one for one in available if one.task_key not in known],
        )

    # One execution.

    async def _play_next(self, count: _Count) -> bool:
        """Execute what is due first, if anything is."""
        fetched = await self._fetch()
        if fetched is None:
            return False
        if count.attempts >= _MOST:
            await self._leave()
            raise AssertionError(
                f"no end after {_MOST} attempts: {fetched.task_key} is due again; say how far to "
                "go by at_most"
            )
        count.attempts += 1
        if await self._play(fetched):
            count.crashes += 1
        return True

    async def _fetch(self) -> Fetched | None:
        known = list(self._conductor.tasks)
        if self._queue is not None and (found := await self._fetch_from(self._queue, known)):
            return found
        queues = {one.queue for one in await self._available() if one.task_key in known}
        for queue in sorted(queues - {self._queue}):
            if found := await self._fetch_from(queue, known):
                self._queue = queue
                return found
        return None

    async def _fetch_from(self, queue: str, known: list[str]) -> Fetched | None:
        registration = await self._registered()
        found = await self._stage.executions.fetch(registration, queue=queue, task_keys=known)
        return found[0] if found else None

    async def _play(self, fetched: Fetched) -> bool:
        """Execute one; whether its process has died."""
        memory = RehearsedMemory(self._stage, fetched.task_key, self._crashes)
        outcomes: list[Outcome] = []
        sentry = _Sentry(self._stage.steps)
        attempt = self._attempt(fetched, memory, sentry, outcomes)
        token = _playing.set(self)
        try:
            task = asyncio.create_task(attempt.execute(), name=f"rehearsed-{fetched.task_key}")
        finally:
            _playing.reset(token)
        try:
            await self._until_ended(task, memory)
            if not memory.crashed.is_set():
                await sentry.aclose()
        except TimeoutError:
            await self._cut_off(attempt, memory, task)
            why = (
                "it catches the BaseException that ends it, and goes on"
                if attempt.hopeless
                else "it waits for something that is no wait of its context"
            )
            raise TimeoutError(
                f"{fetched.task_key} has not ended after {self._patience}: {why}"
            ) from None
        except BaseException:
            await self._cut_off(attempt, memory, task)
            raise
        if memory.dies(None, "before"):
            await self._cut_off(attempt, memory, task, crashed=True)
            # Its look may have waited for the turn that the dead handler had.
            await sentry.aclose()
            return True
        await self._stage.executions.complete(outcomes)
        return False

    async def _until_ended(self, task: asyncio.Task[None], memory: RehearsedMemory) -> None:
        """Until the handler has ended, or its process."""
        crashed = asyncio.create_task(memory.crashed.wait())
        try:
            async with asyncio.timeout(self._patience.total_seconds()):
                await asyncio.wait({task, crashed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            crashed.cancel()

    async def _cut_off(
        self,
        attempt: Attempt,
        memory: RehearsedMemory,
        task: asyncio.Task[None],
        *,
        crashed: bool = False,
    ) -> None:
        """End a handler whose outcome nobody wants, and take its execution back."""
        memory.crashed.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(_PARTING):
                await self._stage.quiet(memory.frozen)
        attempt.stop(Stop.LOST)
        for frozen in memory.frozen - {task}:
            frozen.cancel()
        _, going_on = await asyncio.wait({task}, timeout=_PARTING)
        self._left_behind |= going_on
        await self._leave(crashed=crashed)

    def _attempt(
        self,
        fetched: Fetched,
        memory: RehearsedMemory,
        sentry: _Sentry,
        outcomes: list[Outcome],
    ) -> Attempt:
        settings = self._conductor.settings
        declared = self._conductor.get_task(fetched.task_key)
        return Attempt(
            fetched,
            Runnable(declared.options, declared.handler),
            threads=self._threads,
            report=outcomes.append,
            max_result_bytes=settings.max_result_bytes,
            durability=Durability(memory, sentry, 0.0, settings.max_payload_bytes),
        )
