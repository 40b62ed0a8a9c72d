"""A worker: fetches from one queue and keeps a number of handlers busy."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final
from uuid import UUID

from pgconductor.domain.backoff import Backoff
from pgconductor.domain.claims import Fetched
from pgconductor.domain.outcomes import Outcome, Released
from pgconductor.runtime.attempt import Attempt, Stop
from pgconductor.runtime.frontier import Frontier
from pgconductor.runtime.mishaps import mishap
from pgconductor.runtime.prefetch import Prefetch
from pgconductor.runtime.process import Process
from pgconductor.runtime.relay import Relay
from pgconductor.runtime.slots import Slots
from pgconductor.runtime.wording import trouble

__all__ = ["Process", "Worker"]

#: A larger batch takes no less time an execution, and holds the handlers up for longer.
_BATCH: Final = 200

#: Seconds for which a worker starts no plain handler before it says so.
_PATIENCE: Final = 5.0

#: So many fetches take one execution each, after one that could not be read.
_CAREFUL: Final = 100

logger = logging.getLogger("pgconductor.worker")


class Worker:
    """Serves one queue.

    Args:
        process: What it shares with the other workers.
        queue: The queue.
        concurrency: How many handlers at once.
        on_drained: Called whenever it found nothing to do and has nothing under way.
    """

    def __init__(
        self, process: Process, queue: str, concurrency: int, on_drained: Callable[[], None]
    ) -> None:
        self.queue = queue
        self.process = process
        self._concurrency = concurrency
        self._on_drained = on_drained
        self._ready: deque[tuple[Fetched, float]] = deque()
        # By owner too: a plain handler that has outlived its time-out keeps its slot, while its
        # execution may be tried again here.
        self._attempts: dict[tuple[UUID, int], Attempt] = {}
        self._slots = Slots(
            concurrency,
            queue,
            process.crowd,
            process.settings.give_back_after.total_seconds(),
            on_free=self._freed,
            on_stay=process.gate.stays,
        )
        self._relay = Relay(self._take, self._waits, self._ended, self._start_ready)
        self._prefetch = Prefetch()
        self._frontier = Frontier()
        self._task_keys = list(process.runnables)
        self._async_keys = [name for name, one in process.runnables.items() if one.handler.is_async]
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = False
        # Waiting for room, not for work: the end of a handler is what it waits for.
        self._starved = False
        # How many fetches to come take one execution only.
        self._careful = 0
        # Since when no plain handler is started, for want of threads.
        self._threadless_since: float | None = None
        #: The claims of fetches whose answer is awaited.
        self.fetching: set[int] = set()
        #: The counts of activity and of looks at waits at which it found nothing to do, or None.
        self.drained_at: tuple[int, int] | None = None

    @property
    def quiet(self) -> bool:
        """Whether it has nothing under way."""
        return not self._ready and not self._attempts

    def knows(self, execution_id: UUID) -> bool:
        """Whether it holds this execution, started or not."""
        return any(held == execution_id for held, _ in self._attempts) or any(
            fetched.id == execution_id for fetched, _ in self._ready
        )

    def wake(self) -> None:
        """There may be something to do."""
        self._wake.set()

    def stop_fetching(self) -> None:
        """Fetch and start nothing more, and give back what has not started."""
        self._stopping = True
        self._give_back()
        for attempt in self._attempts.values():
            attempt.context.tell_stopping()
        self._wake.set()

    def stop_attempts(self, why: Stop) -> None:
        """End everything that is under way."""
        if why is Stop.LOST:
            self._ready.clear()
            self._mark_idle()
        for attempt in list(self._attempts.values()):
            attempt.stop(why)

    def abandon_attempts(self) -> int:
        """Give back what does not end; returns how many handlers are left behind."""
        for attempt in self._attempts.values():
            attempt.abandon()
        return len(self._attempts)

    def cancel(self, execution_id: UUID) -> bool:
        """End an execution whose cancellation is asked for; False if it is not here."""
        here = [one for (held, _), one in self._attempts.items() if held == execution_id]
        for attempt in here:
            attempt.stop(Stop.CANCELLED)
        if here:
            return True
        for entry in self._ready:
            if entry[0].id == execution_id:
                self._ready.remove(entry)
                self._report(Released(execution_id, entry[0].claim))
                self._mark_idle()
                return True
        return False

    async def ended(self) -> None:
        """Wait until nothing is under way."""
        await self._idle.wait()

    async def run(self) -> None:
        """Fetch and start until told to stop."""
        backoff = Backoff()
        poll = self.process.settings.poll_interval.total_seconds()
        while not self._stopping:
            # Cleared before looking: whatever happens from now on is looked at again.
            self._wake.clear()
            self._start_ready()
            self._return_stale()
            self._return_plain()
            room = self._room()
            self._starved = room <= 0
            pause = poll
            if room > 0:
                try:
                    async with self.process.turn:
                        room = 1 if self._careful else room
                        more = self.process.gate.open and await self._fetch(room)
                    backoff.reset()
                    if more:
                        continue
                    pause = min(poll, self._frontier.patience(time.monotonic()))
                except Exception as error:
                    self.process.on_error(error)
                    if self.process.backend.is_transient(error):
                        logger.warning("fetching is delayed, %s", trouble(error))
                    else:
                        logger.exception("fetching failed; it will be tried again")
                    pause = backoff.next()
            await self._wait(pause)

    async def _wait(self, seconds: float) -> None:
        if self._ready:
            # What waits for a slot is given back in time.
            seconds = min(seconds, self.process.settings.give_back_after.total_seconds() / 4)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()

    @property
    def _startable(self) -> list[str]:
        """The tasks that there are threads for."""
        return self._async_keys if self.process.crowd.full else self._task_keys

    def _is_plain(self, fetched: Fetched) -> bool:
        runnable = self.process.runnables.get(fetched.task_key)
        return runnable is not None and not runnable.handler.is_async

    def _room(self) -> int:
        """How many to fetch now: none while enough is held ready, so that batches stay large."""
        process = self.process
        if not process.gate.open or process.completer.full or not self._startable:
            return 0
        size = self._prefetch.size
        wanted = size + self._slots.free - len(self._ready)
        if self._ready and wanted * 4 < self._concurrency + size:
            return 0
        return min(wanted, max(_BATCH, self._concurrency))

    async def _fetch(self, room: int) -> bool:
        """Fetch a batch and start it; whether there is likely to be more at once."""
        process = self.process
        seen = process.activity, process.lookout.looks
        began = time.monotonic()
        self._prefetch.look(began)
        after = self._frontier.place(began, hasty=process.draining and self.quiet)
        claim = process.registration.next_claim()
        self.fetching.add(claim.number)
        try:
            batch = await process.backend.fetching.fetch(
                process.registration,
                queue=self.queue,
                limit=room,
                task_keys=self._startable,
                claim=claim,
                after=after,
            )
            if batch and batch[0].alone:
                # Nothing else starts before it has ended: others may start it meanwhile.
                self._give_back()
            self._careful = max(self._careful - 1, 0)
            kept = not batch or process.gate.admit(batch[0])
            now = time.monotonic()
            self._ready.extend([(fetched, now) for fetched in batch])
        except Exception as error:
            if not process.backend.is_transient(error):
                # One of them may be what cannot be read: by one at a time, it is found alone.
                process.unread[claim.number] = error
                self._careful = _CAREFUL
            raise
        finally:
            self.fetching.discard(claim.number)
        self._frontier.fetched(batch, after=after, began=began, ended=now)
        self._prefetch.answered(now - began)
        if batch:
            process.activity += 1
            self._idle.clear()
        if self._stopping or not kept:
            self._give_back()
            return False
        self._start_ready()
        if not batch and self.quiet and after is None:
            self.drained_at = seen
            self._on_drained()
        if len(batch) == room:
            return True
        if not batch and after is not None and process.draining and self.quiet:
            return True  # Now for the whole queue.
        # Part of the batch may have been left to keep a suspect alone.
        return bool(batch) and batch[0].alone

    def _start_ready(self) -> None:
        if self._may_start():
            self._relay.start()

    def _may_start(self) -> bool:
        return (
            bool(self._ready)
            and not self._stopping
            and self._slots.free > 0
            and self.process.gate.lets_start(self._ready[0][0])
            and (not self.process.crowd.full or not self._is_plain(self._ready[0][0]))
        )

    def _freed(self) -> None:
        """There may be a slot for somebody new."""
        self._start_ready()
        if self._starved or self._stopping:
            self._wake.set()

    def _take(self) -> Attempt | None:
        """The next attempt, which starts at once; None if nothing may."""
        process = self.process
        while self._may_start():
            fetched, _ = self._ready.popleft()
            try:
                return self._begun(fetched)
            except Exception as error:  # noqa: BLE001 - a mistake of ours: it is not started
                self._report(mishap(fetched, error, process.retry_of(fetched.task_key)))
                self._mark_idle()
        return None

    def _begun(self, fetched: Fetched) -> Attempt:
        process = self.process
        attempt = Attempt(
            fetched,
            process.runnables[fetched.task_key],
            threads=process.threads,
            report=process.completer.add,
            max_result_bytes=process.settings.max_result_bytes,
            durability=process.durability,
        )
        attempt.desk.room = self._slots
        if fetched.parent_id is not None:
            process.parents[fetched.id] = fetched.parent_id
        process.gate.started(fetched)
        if attempt.plain:
            process.crowd.enter()
        return attempt

    def _waits(self, attempt: Attempt) -> None:
        """Its handler waits for something: from now on others see that it is under way."""
        self._attempts[_key(attempt)] = attempt
        self._slots.enter()
        self._start_ready()

    def _ended(self, attempt: Attempt, waited: bool) -> None:
        self._prefetch.ended()
        self.process.activity += 1
        if attempt.plain:
            self.process.crowd.leave()
        had_slot = waited and self._attempts.pop(_key(attempt), None) is not None
        try:
            self.process.gate.ended(attempt.fetched)
        finally:
            if had_slot:
                self._slots.leave(attempt.desk)
            elif self._starved or self._stopping:
                self._wake.set()
            self._mark_idle()

    def reopened(self) -> None:
        """The gate has opened."""
        self._start_ready()
        self.wake()

    def _report(self, outcome: Outcome) -> None:
        self.process.completer.add(outcome)

    def _return_stale(self) -> None:
        """Give back what has been waiting for a slot for too long: others may be free."""
        limit = time.monotonic() - self.process.settings.give_back_after.total_seconds()
        # A suspect stays: the gate sees to it that it starts in time.
        if self._ready and self._ready[0][1] < limit and not self._ready[0][0].alone:
            self._prefetch.shrink()
            self._give_back()

    def _return_plain(self) -> None:
        """Give back what there are no threads for: they have all been taken, perhaps for long."""
        if not self.process.crowd.full:
            self._threadless_since = None
            return
        now = time.monotonic()
        if self._threadless_since is None:
            self._threadless_since = now
        elif now > self._threadless_since + _PATIENCE:
            self._threadless_since = None
            logger.warning(
                "queue %s: no plain handler is started, for %d are in memory and wait beside "
                "something that cannot be suspended; each has a thread",
                self.queue,
                self.process.crowd.threads,
            )
        for entry in [one for one in self._ready if self._is_plain(one[0])]:
            self._ready.remove(entry)
            self._report(Released(entry[0].id, entry[0].claim))
        self._mark_idle()

    def _give_back(self) -> None:
        while self._ready:
            fetched, _ = self._ready.popleft()
            self._report(Released(fetched.id, fetched.claim))
        self._mark_idle()

    def _mark_idle(self) -> None:
        if self.quiet:
            self._idle.set()


def _key(attempt: Attempt) -> tuple[UUID, int]:
    return attempt.fetched.id, attempt.fetched.claim.number
