"""``python -m benchmarks``: what ``pgconductor bench`` measures, and the peers beside it."""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.registry import PEERS
from pgconductor.bench.contestants import ours_and_raw
from pgconductor.cli.bench import bench_options, execute_plan, make_plan, publish


def chosen(_context: click.Context, _option: click.Parameter, given: str) -> list[str]:
    """The names that an option gives: ``all``, or some with commas between."""
    names = list(PEERS) if given == "all" else [one for one in given.split(",") if one]
    for name in names:
        if name not in PEERS:
            raise click.BadParameter(f"no peer {name!r}; known: all, {', '.join(PEERS)}")
    return names


@click.command()
@click.option(
    "--peers",
    callback=chosen,
    default="",
    metavar="all|NAME,...",
    help="Whom to measure beside us; their environments are made when they are first named.",
)
@click.option("--database-url", envvar="PGCONDUCTOR_BENCH_URL", metavar="URL")
@bench_options
def main(
    *,
    peers: list[str],
    database_url: str | None,
    rounds: int,
    scale: float,
    conditions: bool,
    seeded_rows: int,
    wanted: tuple[str, ...],
    json_file: Path | None,
) -> None:
    """Measure pgconductor, bare asyncpg and other engines, interleaved on one server."""
    contestants = ours_and_raw()
    for name in peers:
        click.echo(f"{name}: preparing its environment", err=True)
        contestants.append(PEERS[name].contestant())
    plan = make_plan(
        contestants,
        rounds=rounds,
        scale=scale,
        conditions=conditions,
        seeded_rows=seeded_rows,
        wanted=wanted,
    )
    publish(execute_plan(plan, database_url), json_file)


if __name__ == "__main__":
    main()
