"""The group of commands, and how the process ends."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

from pgconductor.cli.errors import explain
from pgconductor.cli.exit_codes import ExitCode

__all__ = ["execute", "main", "root"]

_PROGRAM = "pgconductor"
_TRACEBACK = "PGCONDUCTOR_TRACEBACK"

# In the order of --help: what a newcomer needs first comes first.
_COMMANDS = {
    "demo": "demo.command",
    "dev": "dev",
    "bench": "bench",
    "migrate": "schema",
    "downgrade": "schema",
    "current": "schema",
    "grants": "grants",
    "worker": "worker",
    "invoke": "invoke",
    "list": "executions",
    "show": "tree",
    "waiting": "waits",
    "cancel": "executions",
    "retry": "executions",
    "fork": "executions",
    "emit": "waits",
    "queues": "fleet",
    "fleet": "fleet",
    "doctor": "doctor",
}


class _Commands(click.Group):
    """Imports the module of a command when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        """See click."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        """See click."""
        if cmd_name not in _COMMANDS:
            return None
        module = import_module(f"pgconductor.cli.{_COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        """See click; the exit codes, from their own description."""
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(int(c)), text) for c, text in ExitCode.meanings().items()])


def _version(ctx: click.Context, _param: click.Parameter, asked: bool) -> None:
    if asked:
        from pgconductor._version import __version__

        click.echo(f"{_PROGRAM} {__version__}")
        ctx.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--database-url", metavar="URL", help="The database, for the command that follows.")
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Print the version.",
)
def root(database_url: str | None) -> None:
    """Durable execution for Python on nothing but Postgres.

    The database is found in --database-url, PGCONDUCTOR_DATABASE_URL, DATABASE_URL or .env.
    """


def _ended(command: Any) -> int:
    """Call a command; errors go to standard error in one line."""
    try:
        code = command()
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output has gone, as `| head` does: nothing more to say, or to flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.ERROR
    except (click.Abort, KeyboardInterrupt):
        print(f"{_PROGRAM}: interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the outermost border
        if os.environ.get(_TRACEBACK):
            traceback.print_exception(error)
        line, failed = explain(error)
        print(f"{_PROGRAM}: {line}", file=sys.stderr)
        return failed
    return int(code) if isinstance(code, int) else ExitCode.OK


def execute(arguments: Sequence[str] | None = None) -> int:
    """Execute a command line.

    Args:
        arguments: Without the program's name; the default is the process's own.

    Returns:
        The exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that the terminal's encoding lacks is no reason to fail.
            stream.reconfigure(errors="replace")
    given = None if arguments is None else list(arguments)
    return _ended(lambda: root.main(given, prog_name=_PROGRAM, standalone_mode=False))


def main() -> NoReturn:
    """The entry point of the command ``pgconductor``."""
    sys.exit(execute())
