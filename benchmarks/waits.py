"""``python -m benchmarks.waits``: what many waits cost, beside other builds of ours.

Each build is a checkout, measured by the same probe in processes and a database of its own; the
builds take turns within each round. What is of interest is how the cost grows, and the ratio of two
builds in the same round.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click
from sqlalchemy import URL

from pgconductor.bench.databases import Databases, plain
from pgconductor.cli.output import print_table
from pgconductor.dev import EmbeddedServer
from pgconductor.settings import normalise_url

_PROBE = Path(__file__).with_name("waits_probe.py")
_HERE = Path(__file__).parents[1]
_LIMIT = 900
_SIZES = (150, 1_000, 2_000)
_MATCHES = ("none", "same", "each", "mixed")
_FEW = 1_000


@dataclass
class Build:
    """A checkout, and what was measured of it: milliseconds, None for what took too long."""

    name: str
    path: Path
    url: str = ""
    values: dict[tuple[str, ...], list[float | None]] = field(
        default_factory=dict[tuple[str, ...], list[float | None]]
    )

    def probe(self, *arguments: str) -> str:
        """Execute the probe with this build on the path; what it prints."""
        done = subprocess.run(
            [sys.executable, "-P", str(_PROBE), *arguments],
            env={**os.environ, "PYTHONPATH": str(self.path)},
            cwd=self.path,
            stdout=subprocess.PIPE,
            text=True,
            timeout=_LIMIT,
            check=True,
        )
        return done.stdout

    def measure(self, what: tuple[str, ...]) -> None:
        """Measure once; what took too long is not tried again."""
        there = self.values.setdefault(what, [])
        if None in there:
            return
        seconds = json.loads(self.probe(what[0], self.url, *what[1:]).splitlines()[-1])
        there.append(None if seconds is None else seconds * 1000)
        click.echo(f"{self.name}: {' '.join(what)}: {there[-1]} ms", err=True)

    def median(self, what: tuple[str, ...]) -> float | None:
        """The median of the rounds."""
        there = [one for one in self.values.get(what, []) if one is not None]
        return statistics.median(there) if there and None not in self.values[what] else None


def measures(events: int, deliveries: int) -> list[tuple[str, ...]]:
    """What is measured, as the probe's arguments; each is compared with the one before it."""
    settled = [("settle", match, str(size)) for match in _MATCHES for size in _SIZES]
    return [*settled, *(("busy", str(size), str(deliveries)) for size in (_FEW, events))]


@contextmanager
def _server(url: str | None) -> Iterator[URL]:
    if url is not None:
        yield normalise_url(url)
        return
    settings = {"max_wal_size": "8GB", "checkpoint_timeout": "1h", "shared_buffers": "512MB"}
    with EmbeddedServer.start(tcp=True, settings=settings) as made:
        yield normalise_url(made.url)


async def _measured(
    builds: list[Build], server: URL, what: list[tuple[str, ...]], rounds: int, largest: int
) -> None:
    async with Databases(server) as databases:
        for number, build in enumerate(builds):
            build.url = plain(databases.url_of(await databases.create(f"waits_{number}")))
            await asyncio.to_thread(build.probe, "install", build.url)
        for number in range(rounds):
            at = number % len(builds)
            for one in what:
                for build in (*builds[at:], *builds[:at]):
                    if build is builds[0] or one[0] == "busy" or int(one[2]) <= largest:
                        await asyncio.to_thread(build.measure, one)


def _shown(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _ratio(one: float | None, other: float | None) -> float | None:
    return None if one is None or not other else one / other


@click.command()
@click.option("--database-url", envvar="PGCONDUCTOR_BENCH_URL", metavar="URL")
@click.option(
    "--beside",
    "others",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A checkout of another build, as `git worktree add` makes one; may be repeated.",
)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--events", type=click.IntRange(_FEW + 1), default=1_000_000, show_default=True)
@click.option("--deliveries", type=click.IntRange(1, 400), default=20, show_default=True)
@click.option(
    "--largest",
    type=click.IntRange(1),
    default=_SIZES[0],
    show_default=True,
    help="How many waits of one execution the other builds get, at most.",
)
def main(
    *,
    database_url: str | None,
    others: tuple[Path, ...],
    rounds: int,
    events: int,
    deliveries: int,
    largest: int,
) -> None:
    """Measure what many waits for events cost, here and with other builds."""
    builds = [Build("here", _HERE), *(Build(one.name, one.resolve()) for one in others)]
    what = measures(events, deliveries)
    with _server(database_url) as server:
        asyncio.run(_measured(builds, server, what, rounds, largest))
    heads = ["", "here, ms", "÷ smaller"]
    heads += [text for one in builds[1:] for text in (f"{one.name}, ms", f"{one.name} ÷ here")]
    rows: list[list[str]] = []
    for before, one in zip([None, *what], what, strict=False):
        here = builds[0].median(one)
        alike = (
            before is not None and before[0] == one[0] and (one[0] == "busy" or before[1] == one[1])
        )
        smaller = builds[0].median(before) if before is not None and alike else None
        title = (
            f"{int(one[2]):,} waits of one execution, match: {one[1]}"
            if one[0] == "settle"
            else f"an event to one of 400 waits, beside {int(one[1]):,} events"
        )
        row = [title, _shown(here), _shown(_ratio(here, smaller), 2)]
        for build in builds[1:]:
            there = build.median(one)
            row += [_shown(there), _shown(_ratio(there, here))]
        rows.append(row)
    print_table(heads, rows)


if __name__ == "__main__":
    main()
