"""The whole of a benchmark: every measure of every contestant, interleaved, round after round."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from sqlalchemy import URL

from pgconductor.bench.contestants import Contestant
from pgconductor.bench.databases import Databases, Watcher, plain
from pgconductor.bench.figures import Figures
from pgconductor.bench.measures import Bout, Measure
from pgconductor.bench.process import ContestantProcess, NotMeasured
from pgconductor.bench.proxy import CountingProxy

__all__ = ["Benchmark", "Outcome", "Plan", "in_order"]

_COUNTED = 1_000


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured.

    Attributes:
        contestants: Who; ours is among them.
        measures: What.
        rounds: How often.
        scale: How much work each time.
        seeded_rows: How many rows a condition puts beside the work.
    """

    contestants: Sequence[Contestant]
    measures: Sequence[Measure]
    rounds: int
    scale: float
    seeded_rows: int


@dataclass(slots=True)
class Outcome:
    """What came of it.

    Attributes:
        plan: What was to be measured.
        figures: The figures.
        about: Version and settings of each contestant, by name.
        machine: Where it was measured.
    """

    plan: Plan
    figures: Figures = field(default_factory=Figures)
    about: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    machine: dict[str, str] = field(default_factory=dict[str, str])


def in_order(contestants: Sequence[Contestant], number: int) -> list[Contestant]:
    """The order of a round: each begins with another, so that nobody is always the first.

    Args:
        contestants: All of them.
        number: The round, from 0.
    """
    at = number % len(contestants) if contestants else 0
    return [*contestants[at:], *contestants[:at]]


class Benchmark:
    """Carries out a plan on one server, in scratch databases that are dropped at the end.

    Args:
        plan: What to measure.
        server: A database to connect to; the role may create others.
        server_pid: The postmaster, where it runs on this machine.
        say: Told what is going on, in one line.
    """

    def __init__(
        self,
        plan: Plan,
        server: URL,
        server_pid: int | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._plan = plan
        self._server = server
        self._server_pid = server_pid
        self._say = say
        self._outcome = Outcome(plan)
        self._templates: dict[str, str] = {}
        self._seeded: dict[tuple[str, str], str] = {}

    async def measure(self) -> Outcome:
        """Measure everything.

        A contestant that fails is left out from there on, with the reason; the others go on.

        Returns:
            The figures.
        """
        async with Databases(self._server) as databases:
            self._outcome.machine = {
                "python": platform.python_version(),
                "system": platform.platform(),
                "cpus": str(_cpus()),
                **await databases.settings(),
            }
            for contestant in self._plan.contestants:
                await self._install(databases, contestant)
            for number in range(self._plan.rounds):
                await self._round(databases, number)
            await self._count(databases)
        return self._outcome

    # Preparing.

    async def _install(self, databases: Databases, contestant: Contestant) -> None:
        """Make a database with the contestant's schema, to be copied for each measurement."""
        self._say(f"{contestant.name}: installing its schema")
        try:
            if contestant.unavailable:
                raise NotMeasured(contestant.unavailable)
            place = self._plan.contestants.index(contestant)
            name = await databases.create(f"{place}_template")
            async with ContestantProcess(contestant) as process:
                self._outcome.about[contestant.name] = await process.ask("about")
                url = plain(databases.url_of(name))
                await process.ask("open", url=url, options=dict(contestant.options))
                await process.ask("install")
            self._templates[contestant.name] = name
        except NotMeasured as reason:
            for measure in self._plan.measures:
                self._leave_out(measure, contestant, reason)

    async def _database(self, databases: Databases, measure: Measure, who: Contestant) -> str:
        """A database for one measurement; one with seeded rows is used in every round."""
        place = self._plan.contestants.index(who)
        template = self._templates[who.name]
        if not measure.seed:
            return await databases.create(f"{place}_{measure.key}", template)
        found = self._seeded.get((who.name, measure.seed))
        if found is not None:
            return found
        rows = self._plan.seeded_rows
        self._say(f"{who.name}: seeding {rows:,} rows, {measure.seed}")
        name = await databases.create(f"{place}_{measure.seed}", template)
        async with ContestantProcess(who) as process:
            url = databases.url_of(name)
            await process.ask("open", url=plain(url), options=dict(who.options))
            await process.ask("seed", what=measure.seed, rows=rows)
        async with Watcher.of(url) as watcher:
            await watcher.vacuum()
        self._seeded[who.name, measure.seed] = name
        return name

    # Measuring.

    async def _round(self, databases: Databases, number: int) -> None:
        for measure in self._plan.measures:
            self._say(f"round {number + 1} of {self._plan.rounds}: {measure.title}")
            entered = [one for one in self._plan.contestants if measure.key in one.measures]
            for contestant in in_order(entered, number):
                where = (measure.key, contestant.name)
                if where in self._outcome.figures.reasons:
                    continue
                samples = self._outcome.figures.samples.setdefault(where, [])
                try:
                    samples.append(await self._taken(databases, measure, contestant))
                except (NotMeasured, asyncpg.PostgresError, OSError) as reason:
                    self._leave_out(measure, contestant, reason)

    async def _taken(self, databases: Databases, measure: Measure, contestant: Contestant) -> Any:
        name = await self._database(databases, measure, contestant)
        try:
            bout = Bout(contestant, measure, databases, name, self._server_pid)
            return await bout.take(self._plan.scale)
        finally:
            if not measure.seed:
                await databases.drop(name)

    async def _count(self, databases: Databases) -> None:
        """Count commits and round trips, once, apart from what is timed."""
        self._say("counting commits and round trips")
        for measure in (one for one in self._plan.measures if one.counted):
            scale = min(self._plan.scale, _COUNTED / measure.units)
            for contestant in self._plan.contestants:
                where = (measure.key, contestant.name)
                if not self._outcome.figures.samples.get(where):
                    continue
                name = await self._database(databases, measure, contestant)
                try:
                    async with CountingProxy(self._server) as proxy:
                        bout = Bout(contestant, measure, databases, name)
                        counted = await bout.count(scale / contestant.share, proxy)
                        self._outcome.figures.counted[where] = counted
                except (NotMeasured, asyncpg.PostgresError, OSError) as reason:
                    self._say(f"{contestant.name}: not counted: {reason}")
                finally:
                    await databases.drop(name)

    def _leave_out(self, measure: Measure, contestant: Contestant, reason: Exception) -> None:
        if measure.key in contestant.measures:
            self._say(f"{contestant.name}: not measured: {reason}")
            self._outcome.figures.reasons[measure.key, contestant.name] = str(reason)


def _cpus() -> int:
    import os

    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 0
