"""``python -m benchmarks``: interleaved rounds of us and of a bare asyncpg loop on one server."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
from pathlib import Path

from sqlalchemy import make_url

from benchmarks.ours import Ours
from benchmarks.raw import RawLoop

Figures = dict[str, list[float]]


async def measure(url: str, dsn: str, rounds: int, scale: int) -> Figures:
    """Every measure once a round, ours and the raw one next to each other."""
    figures: Figures = {}

    def note(name: str, value: float) -> None:
        figures.setdefault(name, []).append(value)

    ours = Ours(url)
    async with RawLoop(dsn) as raw:
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
            note("raw invoke one, /s", await raw.invoke_one(50 * scale))
            note("invoke one, /s", await ours.invoke_one(50 * scale))
            await raw.clear()
            await ours.clear()
            note("raw bulk of 1,000, /s", await raw.bulk(2 * scale, 1_000))
            note("bulk of 1,000, /s", await ours.bulk(2 * scale, 1_000))
            note("raw drain in 200s, /s", await raw.drain(200))
            note("drain, /s", await ours.drain(2_000 * scale))
            median, p95 = await ours.pick_up(10 * scale)
            note("pick-up, median ms", median)
            note("pick-up, p95 ms", p95)
            await raw.clear()
            await ours.clear()
    await ours.close()
    return figures


def show(figures: Figures) -> None:
    """Print a table: median, spread, and the ratio to the raw loop of the same run."""
    print(f"{'measure':<24}{'median':>12}{'min':>12}{'max':>12}{'of raw':>9}")
    for name, values in figures.items():
        median = statistics.median(values)
        raw = next((figures[key] for key in figures if key.startswith(f"raw {name[:6]}")), None)
        ratio = f"{median / statistics.median(raw):.2f}" if raw and "raw" not in name else ""
        row = f"{name:<24}{median:>12,.1f}{min(values):>12,.1f}{max(values):>12,.1f}{ratio:>9}"
        print(row)


def main() -> None:
    """Parse the arguments, start a server where none is given, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=int, default=10, help="how much work a round")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    arguments = parser.parse_args()
    url = os.environ.get("PGCONDUCTOR_BENCH_URL")
    if url:
        figures = _measure(url, arguments.rounds, arguments.scale)
    else:
        from pgconductor.dev import EmbeddedServer

        with EmbeddedServer.start() as server:
            figures = _measure(server.url, arguments.rounds, arguments.scale)
    show(figures)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=1), encoding="utf-8")


def _measure(url: str, rounds: int, scale: int) -> Figures:
    from alembic import command

    from pgconductor.schema import alembic_config

    command.upgrade(alembic_config(url), "head")
    dsn = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return asyncio.run(measure(url, dsn, rounds, scale))


if __name__ == "__main__":
    main()
