"""A worker loop of your own, on the services alone: no Conductor, no Orchestrator.

It registers, beats, fetches, completes, recovers the dead and leaves. What the real one has beyond
this: a heartbeat that a blocking handler cannot starve, notifications, prefetching, batches that
clock themselves, a grace period, and what docs/own-worker-loop.md lists.

Execute it with `python examples/own_worker_loop.py`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from database import database
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from pgconductor.domain.claims import Fetched, Registration
from pgconductor.domain.orchestrators import StaleObserver
from pgconductor.domain.outcomes import Completed, Failed, Failure, Outcome
from pgconductor.domain.retry import RetryPolicy
from pgconductor.domain.tasks import TaskOptions
from pgconductor.exceptions import NotRegistered
from pgconductor.services import ExecutionService, OrchestratorService

QUEUE = "letters"
RETRY = RetryPolicy.constant(timedelta(seconds=1))

Handler = Callable[[Any], Awaitable[Any]]


async def count_letters(payload: Any) -> dict[str, int]:
    return {letter: payload.count(letter) for letter in sorted(set(payload))}


async def refuse(payload: Any) -> None:
    raise ValueError(f"cannot read {payload!r}")


HANDLERS: dict[str, Handler] = {"count_letters": count_letters, "refuse": refuse}
TASKS = [TaskOptions("count_letters", QUEUE), TaskOptions("refuse", QUEUE, max_attempts=2)]


async def execute(fetched: Fetched) -> Outcome:
    """One attempt. Whatever goes wrong belongs to this execution, never to the loop."""
    try:
        payload = None if fetched.payload is None else json.loads(fetched.payload)
        result = await HANDLERS[fetched.task_key](payload)
        return Completed(fetched.id, fetched.claim, json.dumps(result))
    except Exception as error:  # noqa: BLE001 - a handler may raise anything
        retry_after = RETRY.decide(error, fetched.attempt)
        return Failed(fetched.id, fetched.claim, Failure.from_exception(error), retry_after)


class Loop:
    def __init__(self, engine: AsyncEngine) -> None:
        # Given an engine, each call is a transaction of its own.
        self.executions = ExecutionService(engine)
        self.orchestrators = OrchestratorService(engine)
        self.ready = asyncio.Event()
        self.stop = asyncio.Event()

    async def run(self) -> None:
        registration = await self.orchestrators.register()  # committed before anything is fetched
        await self.orchestrators.declare(TASKS, [QUEUE])
        self.ready.set()
        chores = asyncio.create_task(self.chores(registration))
        try:
            while not self.stop.is_set():
                batch = await self.executions.fetch(
                    registration, queue=QUEUE, limit=10, task_keys=list(HANDLERS)
                )
                if batch:
                    outcomes = await asyncio.gather(*(execute(one) for one in batch))
                    for verdict in await self.executions.complete(outcomes):
                        if not verdict.accepted:
                            print(f"{verdict.execution_id} belongs to somebody else by now")
                else:
                    await asyncio.sleep(0.2)
        finally:
            chores.cancel()
            await self.orchestrators.leave(registration)  # gives back whatever is still held

    async def chores(self, registration: Registration) -> None:
        """Every five seconds: prove that we live, and take back what the dead hold."""
        observer = StaleObserver(stale_after=timedelta(seconds=30))
        while True:
            try:
                answer = await self.orchestrators.heartbeat(registration)
            except NotRegistered:
                # Others found us stale: our executions are theirs, and we do not come back.
                self.stop.set()
                return
            if answer.shutdown_requested:
                self.stop.set()
            # A loop with long handlers would look at answer.cancellations here.
            await self.orchestrators.recover_stale(observer, registration=registration)
            await asyncio.sleep(5)


async def main(url: str) -> None:
    engine = create_async_engine(url)
    loop = Loop(engine)
    working = asyncio.create_task(loop.run())
    await loop.ready.wait()  # the limits of the tasks are declared

    one = await loop.executions.invoke("count_letters", "postgres", queue=QUEUE)
    other = await loop.executions.invoke("refuse", None, queue=QUEUE)
    while not all([(await loop.executions.get(i.id)).state.finished for i in (one, other)]):  # noqa: ASYNC110 - no event tells
        await asyncio.sleep(0.2)
    for invoked in (one, other):
        found = await loop.executions.get(invoked.id)
        outcome = found.result or f"{found.last_error_type}: {found.last_error}"
        print(f"{found.task_key}: {found.state} after {found.attempts} attempts: {outcome}")

    loop.stop.set()
    await working
    print(f"{len(await loop.orchestrators.list())} orchestrators are left")
    await engine.dispose()


if __name__ == "__main__":
    with database() as url:
        asyncio.run(main(url))
