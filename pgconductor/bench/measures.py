"""What is measured, and how each measure is carried out for one contestant."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from pgconductor.bench.contestants import Contestant
from pgconductor.bench.databases import Databases, Watcher, plain
from pgconductor.bench.figures import Costs, Sample, percentile
from pgconductor.bench.meter import Meter
from pgconductor.bench.process import ContestantProcess, NotMeasured
from pgconductor.bench.proxy import CountingProxy

__all__ = ["CONDITIONS", "MEASURES", "Bout", "Measure"]

_STEPS = 10
_FILL = 1_000
_LEAST_DELAYS = 5
_DRAIN_LIMIT = 240.0
_LOOK = (0.001, 0.02)


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure that is taken of several contestants.

    Attributes:
        key: What it is called in JSON.
        title: What it is called in the table.
        act: The method of :class:`Bout` that takes it.
        units: How many executions or steps at scale 1.
        unit: What is counted: executions or steps a second, or milliseconds.
        workers: How many processes drain.
        seed: What was put into the database before; empty for nothing.
        held: Whether a transaction is held open meanwhile.
        counted: Whether commits and round trips are counted too.
        against: The measure without the condition that this one is about.
    """

    key: str
    title: str
    act: str
    units: int
    unit: str = "executions/s"
    workers: int = 1
    seed: str = ""
    held: bool = False
    counted: bool = True
    against: str = ""


def _condition(
    key: str,
    title: str,
    units: int = 5_000,
    against: str = "drain",
    *,
    seed: str = "",
    held: bool = False,
) -> Measure:
    return Measure(key, title, "drain", units, against=against, seed=seed, held=held, counted=False)


MEASURES = (
    Measure("invoke_one", "Invoke one, awaited, one connection", "invoke_one", 200),
    Measure("bulk", "Invoke 1,000 a call", "bulk", 5_000),
    Measure("bulk_large", "Invoke 10,000 a call", "bulk_large", 10_000, counted=False),
    Measure("drain", "Drain, one process", "drain", 5_000),
    Measure("drain_two", "Drain, two processes", "drain", 5_000, workers=2, counted=False),
    Measure("pick_up", "Idle pick-up", "pick_up", 20, "ms", counted=False),
    Measure("steps", "Ten steps an execution", "steps", 500, "steps/s"),
    Measure("chain", "Ten children, one after the other", "chain", 10, "ms"),
)
CONDITIONS = (
    _condition("drain_retained", "Drain beside finished rows", seed="retained"),
    _condition("drain_future", "Drain beside rows of next month", seed="future"),
    _condition("drain_large", "Drain, ten times as many", 50_000, ""),
    _condition("drain_held", "The same, a transaction held open", 50_000, "drain_large", held=True),
)


class Bout:
    """One contestant, one measure, once.

    Args:
        contestant: Who.
        measure: What.
        databases: The server.
        database: The name of a database of its own, installed and idle.
        server_pid: The postmaster, where it runs on this machine.
    """

    def __init__(
        self,
        contestant: Contestant,
        measure: Measure,
        databases: Databases,
        database: str,
        server_pid: int | None = None,
    ) -> None:
        self._contestant = contestant
        self._measure = measure
        self._databases = databases
        self._database = database
        self._server_pid = server_pid
        self._url = databases.url_of(database)
        self._proxy: CountingProxy | None = None
        self._units = 1
        self._commits_before = 0
        self._round_trips_before = 0

    async def count(self, scale: float, proxy: CountingProxy) -> Costs:
        """Carry it out with everything counted and nothing timed.

        Args:
            scale: How much work.
            proxy: In front of the server.

        Returns:
            Commits and round trips of a unit; the workers' start-up is part of them.

        Raises:
            NotMeasured: The contestant could not do it.
        """
        self._proxy = proxy
        await self.take(scale)
        await self._databases.wait_until_left(self._database)
        commits = await self._databases.commits(self._database) - self._commits_before
        round_trips = proxy.round_trips - self._round_trips_before
        return Costs(commits=commits / self._units, round_trips=round_trips / self._units)

    async def take(self, scale: float) -> Sample:
        """Carry it out.

        Args:
            scale: How much work.

        Raises:
            NotMeasured: The contestant gave no figure.
        """
        units = max(round(self._measure.units * scale * self._contestant.share), 1)
        self._units = units
        await self._databases.checkpoint()
        sample: Sample = await getattr(self, f"_{self._measure.act}")(units)
        return sample

    # The measures.

    async def _invoke_one(self, units: int) -> Sample:
        return await self._called(units, "invoke_one", count=units)

    async def _bulk(self, units: int) -> Sample:
        calls = max(units // _FILL, 1)
        size = min(units, _FILL)
        return await self._called(calls * size, "bulk", calls=calls, size=size)

    async def _bulk_large(self, units: int) -> Sample:
        calls = max(units // 10_000, 1)
        size = min(units, 10_000)
        return await self._called(calls * size, "bulk", calls=calls, size=size)

    async def _called(self, units: int, command: str, **given: Any) -> Sample:
        async with self._process() as process:
            if self._proxy is None:
                # The first calls prepare statements and open connections.
                few = {name: min(value, 10) for name, value in given.items()}
                await process.ask(command, **few)
            meter = await self._meter([process])
            seconds = await process.ask(command, **given)
            return Sample(units / seconds, await meter.costs(units))

    async def _pick_up(self, units: int) -> Sample:
        async with self._process() as process:
            await process.ask("work_idle")
            await process.ask("pick_up", count=2)
            found = await process.ask("pick_up", count=max(units, _LEAST_DELAYS))
            delays = [delay * 1000 for delay in found]
            return Sample(statistics.median(delays), p95=percentile(delays, 95))

    async def _chain(self, units: int) -> Sample:
        async with self._process() as process:
            await process.ask("work_idle")
            if self._proxy is None:
                await process.ask("chain", count=2)
            meter = await self._meter([process])
            count = max(units, _LEAST_DELAYS)
            delays = [delay * 1000 for delay in await process.ask("chain", count=count)]
            costs = await meter.costs(count)
            return Sample(statistics.median(delays), costs, percentile(delays, 95))

    async def _drain(self, units: int) -> Sample:
        return await self._drained(units, units, "work")

    async def _steps(self, units: int) -> Sample:
        executions = max(units // _STEPS, 1)
        return await self._drained(executions, executions * _STEPS, "work_steps")

    async def _drained(self, executions: int, units: int, work: str) -> Sample:
        async with AsyncExitStack() as stack:
            if self._measure.held:
                holder = await stack.enter_async_context(Watcher.of(self._url))
                await holder.hold_open()
            unfinished = await self._filled(executions, steps=work == "work_steps")
            watcher = await stack.enter_async_context(Watcher.of(self._url))
            workers = [
                await stack.enter_async_context(self._process())
                for _ in range(self._measure.workers)
            ]
            meter = await self._meter(workers)
            await asyncio.gather(*(worker.ask(work) for worker in workers))
            seconds = await _until_done(workers, executions, watcher, unfinished)
            sample = Sample(units / seconds, await meter.costs(units))
        self._commits_before += watcher.transactions
        return sample

    async def _filled(self, executions: int, *, steps: bool) -> str:
        """Invoke executions in a process that ends afterwards.

        Returns:
            A query that tells whether they are unfinished.
        """
        async with self._process() as process:
            left = executions
            while left:
                size = min(left, _FILL)
                await process.ask("invoke_steps" if steps else "invoke_many", count=size)
                left -= size
            unfinished = str(await process.ask("unfinished"))
        async with Watcher.of(self._url) as watcher:
            await watcher.analyze()
        if self._proxy is not None:
            await self._databases.wait_until_left(self._database)
            self._commits_before = await self._databases.commits(self._database)
        return unfinished

    # Processes and costs.

    @asynccontextmanager
    async def _process(self) -> AsyncGenerator[ContestantProcess]:
        async with ContestantProcess(self._contestant) as process:
            options = dict(self._contestant.options)
            url = self._url if self._proxy is None else self._proxy.url_of(self._url)
            await process.ask("open", url=plain(url), options=options)
            yield process

    async def _meter(self, processes: list[ContestantProcess]) -> Meter:
        meter = Meter(self._databases, self._server_pid, processes)
        await meter.begin()
        if self._proxy is not None:
            self._round_trips_before = self._proxy.round_trips
        return meter


async def _until_done(
    workers: list[ContestantProcess], executions: int, watcher: Watcher, unfinished: str
) -> float:
    """Seconds from the first handler's start until everything is recorded as done.

    The handlers are asked how far they are, and only when all have started, the database; so
    looking costs the contestant next to nothing while it is at work.
    """
    began = time.monotonic()
    first: float | None = None
    handled = 0
    while handled < executions:
        told = [await worker.ask("progress") for worker in workers]
        handled = sum(one["handled"] for one in told)
        starts = [one["first"] for one in told if one["first"] is not None]
        first = min(starts, default=None)
        now = time.monotonic()
        if now - began > _DRAIN_LIMIT:
            raise NotMeasured(f"only {handled} of {executions} after {_DRAIN_LIMIT:.0f} s")
        rest = (executions - handled) * (now - (first or now)) / max(handled, 1)
        await asyncio.sleep(min(max(rest / 2, _LOOK[0]), _LOOK[1]))
    while not await watcher.finished(unfinished):
        if time.monotonic() - began > _DRAIN_LIMIT:
            raise NotMeasured(f"handled, but not finished after {_DRAIN_LIMIT:.0f} s")
        await asyncio.sleep(_LOOK[0])
    return time.monotonic() - (began if first is None else first)
