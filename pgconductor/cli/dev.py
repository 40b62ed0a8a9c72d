"""``dev``: a Postgres server to develop on."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pgconductor.cli.exit_codes import ExitCode
from pgconductor.cli.options import as_json
from pgconductor.cli.output import print_fields, print_json

if TYPE_CHECKING:
    from pgconductor.dev import EmbeddedServer

__all__ = ["dev_command"]

_LOOK_SECONDS = 0.5


@click.command("dev")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the data there; else it is removed at the end.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="Listen on this port of 127.0.0.1 too; else on a Unix socket only.",
)
@click.option(
    "--migrate/--no-migrate",
    default=True,
    show_default=True,
    help="Bring it to the newest revision.",
)
@as_json
def dev_command(data_dir: Path | None, port: int | None, migrate: bool, as_json: bool) -> ExitCode:
    """Start a Postgres server and keep it up until Ctrl-C; prints how to reach it.

    With --port, the URL holds the password that the server was given at random.
    """
    from pgconductor.dev import EmbeddedServer

    stop = threading.Event()
    with EmbeddedServer.start(data_dir, tcp=port is not None, port=port) as server:
        before = {
            one: signal.signal(one, lambda _number, _frame: stop.set())
            for one in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            if migrate:
                _migrate(server.url)
            _announce(server, as_json)
            if not server.owned:
                click.echo("another process keeps this server up", err=True)
                return ExitCode.OK
            return _stay(server, stop)
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)


def _migrate(url: str) -> None:
    from alembic import command

    from pgconductor.schema import alembic_config

    command.upgrade(alembic_config(url), "head")


def _announce(server: EmbeddedServer, as_json: bool) -> None:
    psql = server.url.replace("postgresql+asyncpg://", "postgresql://", 1)
    found: dict[str, Any] = {
        "url": server.url,
        "psql": psql,
        "version": server.version,
        "pid": server.pid,
        "home": str(server.home),
    }
    if as_json:
        print_json(found)
    else:
        print_fields(
            {
                "Postgres": f"{server.version}, process {server.pid}, in {server.home}",
                "SQLAlchemy": server.url,
                "psql": f"psql '{psql}'",
                "worker": f"export PGCONDUCTOR_DATABASE_URL='{server.url}'",
            }
        )
        click.echo("Ctrl-C stops it.", err=True)
    sys.stdout.flush()


def _stay(server: EmbeddedServer, stop: threading.Event) -> ExitCode:
    from pgconductor.dev.processes import alive

    while not stop.wait(_LOOK_SECONDS):
        if not alive(server.pid):
            click.echo("pgconductor: the server has ended; its log says:", err=True)
            click.echo("\n".join(server.log_tail()), err=True)
            return ExitCode.ERROR
    return ExitCode.OK
