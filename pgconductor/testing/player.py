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
from pgconductor.runtime.threads import Threads
from pgconductor.testing.boundaries import Crashes
from pgconductor.testing.memory import RehearsedMemory
from pgconductor.testing.playing import Played, RehearsedSentry
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


@dataclass(slots=True)
class _Count:
    """What a drain has done."""

    attempts: int = 0
    resumed: int = 0
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
        self._threads = Threads.of(handlers=_MOST, steps=_THREADS)
        self._registration: Registration | None = None
        self._declared: set[str] = set()
        #: The queue that something was fetched from last; there may be more.
        self._queue: str | None = None
        #: Those that stay in memory while others are executed.
        self._resting: list[Played] = []
        self._left_behind: set[asyncio.Task[None]] = set()

    @property
    def inside(self) -> bool:
        """Whether a handler of this player asks."""
        return _playing.get() is self

    async def __aenter__(self) -> Self:
        await self._registered()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._resting:
            await self._cut_off()
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
            if await self._go_on(count) or await self._play_next(count):
                continue
            await self._stage.steps.settle_due()
            if await self._go_on(count) or await self._play_next(count):
                continue
            by = await self._next()
            if await self._part(count, by):
                continue
            if by is None or (at_most is not None and count.passed + by > at_most):
                if await self._part(count, None):
                    continue
                break
            self._stage.advance(by)
            count.passed += by
            for one in self._resting:
                one.sentry.linger -= by
            await self._stage.orchestrators.heartbeat(await self._registered())
        await self._part(count, None)
        return await self._report(count)

    async def _part(self, count: _Count, by: timedelta | None) -> bool:
        """Have those leave memory that stay for what may come soon; whether any does.

        Args:
            count: What was done.
            by: Only those that do not stay for so long; None for all.
        """
        parting = [
            one for one in self._resting if one.lingers and (by is None or by > one.sentry.linger)
        ]
        for one in parting:
            self._resting.remove(one)
            one.leave()
            await self._play_on(one, count)
        return bool(parting)

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
        waiting = await all_executions(self._stage.executions, where)
        for one in self._resting:
            waiting.append(await self._stage.executions.get(one.fetched.id))
        return await all_waiting(self._stage.steps, waiting)

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
        await self._check_end(count, fetched)
        count.attempts += 1
        await self._play_on(self._begun(fetched), count)
        return True

    async def _check_end(self, count: _Count, fetched: Fetched) -> None:
        if count.attempts + count.resumed >= _MOST:
            await self._cut_off()
            raise AssertionError(
                f"no end after {_MOST} attempts: {fetched.task_key} is due again; say how far to "
                "go by at_most"
            )

    async def _go_on(self, count: _Count) -> bool:
        """Go on with a handler that has stayed in memory, if it can."""
        for played in self._resting:
            snapshot = await self._stage.executions.get(played.fetched.id)
            if snapshot.cancel_requested_at is not None and not played.attempt.stopped:
                played.attempt.stop(Stop.CANCELLED)
            elif not await played.may_go_on():
                continue
            await self._check_end(count, played.fetched)
            count.resumed += 1
            self._resting.remove(played)
            played.rest(resting=False)
            await self._play_on(played, count)
            return True
        return False

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

    def _begun(self, fetched: Fetched) -> Played:
        memory = RehearsedMemory(self._stage, fetched.task_key, self._crashes)
        outcomes: list[Outcome] = []
        sentry = RehearsedSentry(self._stage.steps)
        attempt = self._attempt(fetched, memory, sentry, outcomes)
        played = Played(fetched, attempt, memory, sentry, outcomes)
        token = _playing.set(self)
        try:
            played.task = asyncio.create_task(
                attempt.execute(), name=f"rehearsed-{fetched.task_key}"
            )
        finally:
            _playing.reset(token)
        return played

    async def _play_on(self, played: Played, count: _Count) -> None:
        """Execute one until it has ended, or can do nothing before others have."""
        try:
            await played.until_calm(self._stage, self._patience)
            if not played.ended:
                played.rest(resting=True)
                self._resting.append(played)
                return
            if not played.memory.crashed.is_set():
                await played.sentry.aclose()
        except TimeoutError:
            why = self._why(played)
            await self._cut_off(played)
            raise TimeoutError(
                f"{played.fetched.task_key} has not ended after {self._patience}: {why}"
            ) from None
        except BaseException:
            await self._cut_off(played)
            raise
        if played.memory.dies(None, "before"):
            await self._part(count, None)
            await self._cut_off(played, crashed=True)
            # Its look may have waited for the turn that the dead handler had.
            await played.sentry.aclose()
            count.crashes += 1
            return
        await self._stage.executions.complete(played.outcomes)

    def _why(self, played: Played) -> str:
        if played.attempt.hopeless:
            return "it catches the BaseException that ends it, and goes on"
        why = "it waits for something that is no wait of its context"
        if played.waits_for:
            why += f", beside its waits {', '.join(map(repr, sorted(played.waits_for)))}"
        return why

    async def _cut_off(self, *played: Played, crashed: bool = False) -> None:
        """End a handler whose outcome nobody wants, with all in memory; take executions back."""
        all_of_them = [*played, *self._resting]
        self._resting.clear()
        frozen = {task for one in all_of_them for task in one.memory.frozen}
        for one in all_of_them:
            one.memory.crashed.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(_PARTING):
                await self._stage.quiet(frozen)
        for one in all_of_them:
            one.attempt.stop(Stop.LOST)
            for frozen_one in one.memory.frozen - {one.task}:
                frozen_one.cancel()
        if all_of_them:
            _, going_on = await asyncio.wait({one.task for one in all_of_them}, timeout=_PARTING)
            self._left_behind |= going_on
        await self._leave(crashed=crashed)

    def _attempt(
        self,
        fetched: Fetched,
        memory: RehearsedMemory,
        sentry: RehearsedSentry,
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
