"""``waiting`` and ``emit``: what executions wait for, and the events that some of them wait for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pgconductor.cli.database import with_conductor
from pgconductor.cli.invoke import given_payload
from pgconductor.cli.options import as_json, database_url
from pgconductor.cli.output import matched, moment, print_json, print_table

if TYPE_CHECKING:
    from uuid import UUID

    from pgconductor import Conductor
    from pgconductor.domain.trees import Waiting

__all__ = ["emit_command", "waiting_command"]


@click.command("waiting")
@click.option("--task", help="Only of this task.")
@click.option("--queue", help="Only of this queue.")
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many at most."
)
@as_json
@database_url
def waiting_command(
    *, task: str | None, queue: str | None, limit: int, as_json: bool, database_url: str | None
) -> None:
    """List what suspended executions wait for, longest first."""
    found = with_conductor(
        database_url,
        lambda conductor: conductor.executions.waiting(queue=queue, task_key=task, limit=limit),
    )
    if as_json:
        print_json(found)
        return
    heads = ("ID", "TASK", "QUEUE", "KEY", "KIND", "FOR", "SINCE", "UNTIL")
    print_table(heads, [_row(one) for one in found])


def _row(one: Waiting) -> tuple[object, ...]:
    more = matched(one.match) if one.child_id is None else str(one.child_id)
    what = " ".join(part for part in (one.detail, more) if part)
    until = None if one.until is None else moment(one.until)
    since = moment(one.since)
    return one.execution_id, one.task_key, one.queue, one.key, one.kind, what, since, until


@click.command("emit")
@click.argument("name")
@click.argument("payload", required=False)
@as_json
@database_url
def emit_command(
    *, name: str, payload: str | None, as_json: bool, database_url: str | None
) -> None:
    """Emit the event NAME, with PAYLOAD in JSON, and print its id.

    Executions that wait for it, now or later, take it. - as the payload reads standard input.
    """
    from pgconductor.domain.limits import check_event

    check_event(name)
    given = given_payload(payload, None)

    async def emit(conductor: Conductor) -> UUID:
        return await conductor.emit(name, given)

    made = with_conductor(database_url, emit)
    if as_json:
        print_json({"id": made})
        return
    click.echo(str(made))
