"""``bench``: how fast we are on a server, beside what bare asyncpg reaches there."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pgconductor.cli.options import given_url
from pgconductor.cli.output import print_table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import URL

    from pgconductor.bench.contestants import Contestant
    from pgconductor.bench.harness import Outcome, Plan

__all__ = ["bench_command", "bench_options", "execute_plan", "make_plan", "publish"]

F = TypeVar("F", bound="Callable[..., Any]")

_SERVER_SETTINGS = {
    # No checkpoint by size in the middle of somebody's measure; each begins with one.
    "max_wal_size": "8GB",
    "checkpoint_timeout": "1h",
    "shared_buffers": "512MB",
    "max_connections": "200",
}


_OPTIONS = (
    click.option("--rounds", type=click.IntRange(1), default=3, show_default=True),
    click.option(
        "--scale",
        type=click.FloatRange(0, min_open=True),
        default=4.0,
        show_default=True,
        help="How much work a measure is.",
    ),
    click.option(
        "--conditions",
        is_flag=True,
        help="Also beside finished rows, rows of next month, and a transaction held open.",
    ),
    click.option(
        "--seeded-rows",
        type=click.IntRange(1),
        default=1_000_000,
        show_default=True,
        help="How many rows a condition puts there.",
    ),
    click.option(
        "--measure",
        "wanted",
        multiple=True,
        metavar="NAME",
        help="Only this one, as JSON names it; may be repeated.",
    ),
    click.option(
        "--json",
        "json_file",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Write all figures there too.",
    ),
)


def bench_options(command: F) -> F:
    """The options of ``bench``, for another command that measures more.

    Args:
        command: The function that takes them.
    """
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command("bench")
@bench_options
@click.option("--database-url", metavar="URL", help="A database of the server to measure.")
def bench_command(
    *,
    rounds: int,
    scale: float,
    conditions: bool,
    seeded_rows: int,
    wanted: tuple[str, ...],
    json_file: Path | None,
    database_url: str | None,
) -> None:
    """Measure pgconductor beside bare asyncpg, on your server or on an embedded one.

    Works in scratch databases, which are dropped at the end; the role must be allowed to create
    databases. The database of --database-url is only connected to. Without it an embedded
    Postgres is started, with the durability of a real one; PGCONDUCTOR_DATABASE_URL is not used.
    """
    from pgconductor.bench.contestants import ours_and_raw

    plan = make_plan(
        ours_and_raw(),
        rounds=rounds,
        scale=scale,
        conditions=conditions,
        seeded_rows=seeded_rows,
        wanted=wanted,
    )
    publish(execute_plan(plan, given_url(database_url)), json_file)


def make_plan(
    contestants: Sequence[Contestant],
    *,
    rounds: int,
    scale: float,
    conditions: bool,
    seeded_rows: int,
    wanted: Sequence[str],
) -> Plan:
    """What the options ask for.

    Args:
        contestants: Who is measured.
        rounds: How often.
        scale: How much work each time.
        conditions: Whether the conditions are among the measures.
        seeded_rows: How many rows a condition puts there.
        wanted: The keys of the measures to take; empty for all.

    Raises:
        BadParameter: There is no such measure.
    """
    from pgconductor.bench.harness import Plan
    from pgconductor.bench.measures import CONDITIONS, MEASURES

    every = {one.key: one for one in (*MEASURES, *CONDITIONS)}
    for name in wanted:
        if name not in every:
            raise click.BadParameter(f"no measure {name!r}; known: {', '.join(every)}")
    chosen = [every[name] for name in wanted] or [*MEASURES, *(CONDITIONS if conditions else ())]
    return Plan(contestants, chosen, rounds, scale, seeded_rows)


def execute_plan(plan: Plan, url: str | None) -> Outcome:
    """Measure on the server that was named, or on an embedded one.

    Args:
        plan: What to measure.
        url: A database of the server, or None.

    Raises:
        EmbeddedServerError: There is no server to be had.
        ConfigurationError: The URL cannot be read.
    """
    from pgconductor.settings import normalise_url

    if url is not None:
        return _measure(plan, normalise_url(url), None)
    from pgconductor.dev import EmbeddedServer

    with EmbeddedServer.start(tcp=True, settings=_SERVER_SETTINGS) as server:
        return _measure(plan, normalise_url(server.url), server.pid)


def _measure(plan: Plan, url: URL, server_pid: int | None) -> Outcome:
    from pgconductor.bench.harness import Benchmark

    def say(line: str) -> None:
        click.echo(line, err=True)

    return asyncio.run(Benchmark(plan, url, server_pid, say).measure())


def publish(outcome: Outcome, json_file: Path | None) -> None:
    """Print the tables, and write the file if one is wanted.

    Args:
        outcome: What came of it.
        json_file: Where all figures go, or None.
    """
    import json

    from pgconductor.bench.report import HEADS, as_json, introductions, tables

    for name, value in outcome.machine.items():
        click.echo(f"{name} {value}")
    click.echo()
    for line in introductions(outcome):
        click.echo(line)
    for title, rows in tables(outcome):
        click.echo(f"\n{title}")
        measured = [row for row in rows if len(row) == len(HEADS)]
        used = [at for at in range(len(HEADS)) if not at or any(row[at] for row in measured)]
        heads = [HEADS[at] for at in used]
        print_table(heads, ([row[at] for at in used] for row in measured))
        for name, reason in (row for row in rows if len(row) != len(HEADS)):
            click.echo(f"{name}: {reason}")
    if json_file is not None:
        json_file.write_text(json.dumps(as_json(outcome), indent=1) + "\n", encoding="utf-8")
