"""pgconductor's own figures."""

from __future__ import annotations

import asyncio
import statistics
import time
from datetime import timedelta

from sqlalchemy import text

from pgconductor import Conductor, Settings, TaskContext

__all__ = ["Ours"]


class Ours:
    """One conductor with a no-op task.

    Args:
        url: The database, which has our schema.
    """

    def __init__(self, url: str) -> None:
        self._conductor = Conductor(Settings.model_validate({"database_url": url}))
        self._picked_up: asyncio.Queue[float] = asyncio.Queue()

        async def noop(_: TaskContext, payload: dict[str, int]) -> None:
            del payload

        async def pick_up(_: TaskContext) -> None:
            self._picked_up.put_nowait(time.perf_counter())

        self._noop = self._conductor.task()(noop)
        self._pick_up = self._conductor.task(queue="pick-up")(pick_up)

    async def invoke_one(self, count: int) -> float:
        """Invokes a second, awaited one by one, each in a transaction of its own."""
        started = time.perf_counter()
        for _ in range(count):
            await self._noop.invoke({"n": 1})
        return count / (time.perf_counter() - started)

    async def bulk(self, batches: int, size: int) -> float:
        """Invokes a second by ``invoke_many``."""
        payloads = [{"n": 1}] * size
        started = time.perf_counter()
        for _ in range(batches):
            await self._noop.invoke_many(payloads)
        return batches * size / (time.perf_counter() - started)

    async def drain(self, count: int, concurrency: int = 100) -> float:
        """Executions a second, start and stop of the orchestrator included."""
        async with self._conductor.engine.begin() as connection:
            await connection.execute(text("ANALYZE pgconductor.executions"))
        started = time.perf_counter()
        await self._conductor.orchestrator(["default"], concurrency=concurrency).drain()
        return count / (time.perf_counter() - started)

    async def pick_up(self, count: int) -> tuple[float, float]:
        """Milliseconds from before the invoke to the handler's start, idle: median and p95."""
        orchestrator = self._conductor.orchestrator(["pick-up"])
        await orchestrator.start()
        try:
            delays: list[float] = []
            for _ in range(count):
                started = time.perf_counter()
                handle = await self._pick_up.invoke()
                delays.append((await self._picked_up.get() - started) * 1000)
                await handle.result(timedelta(seconds=10))
            return statistics.median(delays), statistics.quantiles(delays, n=20)[-1]
        finally:
            await orchestrator.stop()

    async def clear(self) -> None:
        """Empty the table."""
        async with self._conductor.engine.begin() as connection:
            await connection.execute(text("TRUNCATE pgconductor.executions CASCADE"))

    async def close(self) -> None:
        """Close the connections."""
        await self._conductor.close()
