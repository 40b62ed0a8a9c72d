"""``demo``: the command."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING

import click

from pgconductor.cli.errors import CommandFailed
from pgconductor.cli.exit_codes import ExitCode
from pgconductor.cli.options import as_json, given_url
from pgconductor.cli.output import print_json

if TYPE_CHECKING:
    from pgconductor.cli.demo.play import Script
    from pgconductor.cli.demo.proof import Proof
    from pgconductor.cli.demo.view import Display, Figures, View

__all__ = ["demo_command"]


@click.command("demo")
@click.argument(
    "folder",
    required=False,
    type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path),
)
@click.option(
    "--files", type=click.IntRange(1, 10_000), default=1500, show_default=True, help="At most."
)
@click.option(
    "--workers", type=click.IntRange(1, 16), default=2, show_default=True, help="Processes."
)
@click.option("--no-kill", is_flag=True, help="Let every worker live.")
@click.option(
    "--pause",
    type=click.FloatRange(0, 60),
    help="Seconds that each execution waits before it counts; else so many that one can watch.",
)
@click.option(
    "--database-url", metavar="URL", help="A migrated database to use; else one is started."
)
@as_json
def demo_command(
    *,
    folder: Path | None,
    files: int,
    workers: int,
    no_kill: bool,
    pause: float | None,
    database_url: str | None,
    as_json: bool,
) -> ExitCode:
    """Count the words and symbols of the text files in FOLDER, and prove that none was lost.

    One execution counts one file. A few fail and are retried, one worker process is killed with
    kill -9 on the way, a last execution sums up; then a plain count in a single process must
    come to the same totals. FOLDER is the source of Python's standard library by default.
    """
    from pgconductor.cli.demo.counting import default_folder, read_folder
    from pgconductor.cli.demo.play import Script
    from pgconductor.cli.demo.view import View

    chosen = folder or default_folder()
    sources = read_folder(chosen, files)
    if not sources:
        raise CommandFailed(f"there is no text file in {chosen}")
    view = View(f"pgconductor demo: {len(sources):,} files, an execution each")
    queue = f"demo-{token_hex(4)}"
    script = Script(sources, queue, workers, kill=not no_kill, pause=pause)
    url = given_url(database_url)
    # A terminal that closes, or somebody who terminates us, is like Ctrl-C: clean up and go.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: signal.raise_signal(signal.SIGINT))
    display = _display(view, as_json)
    with display:
        display.say(f"words and symbols are counted in {chosen}")
        with _database(url, display) as ready:
            proof, figures = asyncio.run(_perform(script, ready, display))
    _report(display, proof, figures, as_json=as_json)
    if url is not None:
        click.echo(f"they are kept: pgconductor list --queue {queue}", err=True)
    return ExitCode.OK if proof.ok else ExitCode.UNPROVEN


def _display(view: View, as_json: bool) -> Display:
    from pgconductor.cli.demo.plain import PlainDisplay

    if as_json:
        return PlainDisplay(view, sys.stderr)
    if not sys.stdout.isatty():
        return PlainDisplay(view)
    try:
        from pgconductor.cli.demo.live import LiveDisplay
    except ImportError:
        click.echo('for a live view: pip install "pgconductor[dev]"', err=True)
        return PlainDisplay(view)
    return LiveDisplay(view)


@contextmanager
def _database(url: str | None, display: Display) -> Generator[str]:
    """The database that was given, or an embedded server that goes at the end."""
    if url is not None:
        display.say("on the database that was given")
        yield url
        return
    from alembic import command

    from pgconductor.dev import EmbeddedServer
    from pgconductor.schema import alembic_config

    began = display.view.elapsed
    with EmbeddedServer.start() as server:
        took = display.view.elapsed - began
        display.say(f"Postgres {server.version} started for this demo alone, {took:.1f} s")
        command.upgrade(alembic_config(server.url), "head")
        display.say("its schema is migrated by Alembic, as in a deployment")
        yield server.url


async def _perform(script: Script, url: str, display: Display) -> tuple[Proof, Figures]:
    from pydantic import SecretStr

    from pgconductor import Conductor, Settings
    from pgconductor.cli.demo.play import Play

    async with Conductor(Settings(database_url=SecretStr(url), direct_url=None)) as conductor:
        (await conductor.orchestrators.schema_status()).check()
        return await Play(script, conductor, url, display).perform()


def _report(display: Display, proof: Proof, figures: Figures, *, as_json: bool) -> None:
    display.report(proof, figures)
    if not as_json:
        return
    totals = {
        check.name.removesuffix(" in the summary"): {
            "measured": check.measured,
            "expected": check.expected,
        }
        for check in proof.checks
        if check.name.endswith(" in the summary")
    }
    checks = [{**asdict(check), "ok": check.ok} for check in proof.checks]
    print_json(
        {
            "ok": proof.ok,
            "totals": totals,
            **asdict(figures),
            "checks": checks,
            "suspects": list(proof.suspects),
        }
    )
