"""``invoke``: a task, by name."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pgconductor.cli.database import settings_for
from pgconductor.cli.errors import CommandFailed
from pgconductor.cli.locate import app_dir, locate
from pgconductor.cli.options import as_json, database_url, duration, given_url, instant
from pgconductor.cli.output import print_json

if TYPE_CHECKING:
    from pgconductor import Conductor
    from pgconductor.domain.invocations import Invocation, Invoked

__all__ = ["given_payload", "invoke_command"]


@click.command("invoke")
@click.argument("task")
@click.option("--payload", metavar="JSON", help="The payload; - reads it from standard input.")
@click.option(
    "--payload-file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    help="A file with the payload; - is standard input.",
)
@click.option("--app", metavar="MODULE:ATTRIBUTE", help="Check the payload by this conductor.")
@app_dir
@click.option("--queue", help="The queue; else the task's own with --app, or default.")
@click.option("--run-at", type=instant, help="Not before this instant.")
@click.option("--delay", type=duration, help="Not before so long from now: 90, or PT1M30S.")
@click.option("--priority", type=int, default=0, show_default=True, help="Higher is sooner.")
@click.option("--dedupe-key", help="An unfinished execution of this key stands for this one.")
@click.option(
    "--dedupe-scope",
    type=click.Choice(["unfinished", "retained", "unstarted"]),
    help="Which executions of the key count: retained counts finished ones too, unstarted only "
    "those that no worker has fetched yet.",
)
@click.option(
    "--dedupe-replace",
    is_flag=True,
    help="With the scope unstarted: the execution that is there gets this payload.",
)
@click.option("--max-attempts", type=int, help="How often it may be tried.")
@click.option("--wait", type=duration, help="Wait so long for the result, and print it.")
@as_json
@database_url
def invoke_command(
    *,
    task: str,
    payload: str | None,
    payload_file: Path | None,
    app: str | None,
    app_dir: Path,
    wait: timedelta | None,
    as_json: bool,
    database_url: str | None,
    **options: Any,
) -> None:
    """Invoke TASK and print the execution's id.

    With --wait its result follows. Without --app, only the database checks the payload: it must
    be JSON.
    """
    import asyncio

    from pgconductor import Conductor
    from pgconductor.domain.limits import check_task_key

    given = given_payload(payload, payload_file)
    check_task_key(task)
    declared = None if app is None else locate(app, app_dir)
    if declared is not None and given_url(database_url) is None:
        conductor = declared
    else:
        conductor = Conductor(settings_for(database_url))
    invocation = _invocation(declared, conductor, task, given, options)
    invoked, result = asyncio.run(_invoke(conductor, invocation, wait))
    if as_json:
        found: dict[str, Any] = {"id": invoked.id, "created": invoked.created}
        print_json(found if wait is None else {**found, "state": "completed", "result": result})
        return
    click.echo(str(invoked.id))
    if not invoked.created:
        click.echo("not new: an execution that counts has this dedupe key", err=True)
    if wait is not None:
        print_json(result)


def given_payload(text: str | None, file: Path | None) -> Any:
    """The payload that the options give; None for none.

    Args:
        text: JSON, or ``-`` for standard input.
        file: Where it is instead, likewise.

    Raises:
        CommandFailed: It is no JSON, or cannot be read.
    """
    from pydantic_core import from_json

    if text is not None and file is not None:
        raise CommandFailed("give --payload or --payload-file, not both")
    if text == "-" or file == Path("-"):
        text = sys.stdin.read()
    elif file is not None:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CommandFailed(f"{file} cannot be read: {error}") from error
    if text is None:
        return None
    try:
        return from_json(text)
    except ValueError as error:
        raise CommandFailed(f"the payload is no JSON: {error}") from error


def _invocation(
    declared: Conductor | None, conductor: Conductor, task: str, payload: Any, options: Any
) -> Invocation:
    from pgconductor.domain.invocations import Invocation
    from pgconductor.domain.payloads import encode

    options = {name: value for name, value in options.items() if value is not None}
    if declared is not None:
        return declared.get_task(task).invocation(payload, **options)
    limit = conductor.max_payload_bytes
    text = None if payload is None else encode(payload, max_bytes=limit)
    return Invocation(task_key=task, payload=text, **options)


async def _invoke(
    conductor: Conductor, invocation: Invocation, wait: timedelta | None
) -> tuple[Invoked, Any]:
    async with conductor:
        (invoked,) = await conductor.write([invocation], None)
        if wait is None:
            return invoked, None
        try:
            return invoked, await conductor.handle(invoked.id).result(timeout=wait)
        except BaseException:
            # Whatever comes of it, the id is what the user goes on with.
            click.echo(str(invoked.id), err=True)
            raise
