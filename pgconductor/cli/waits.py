"""``waiting`` and ``emit``: what executions wait for, and the events that some of them wait for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pgconductor.cli.database import with_conductor
from pgconductor.cli.invoke import given_payload
from pgconductor.cli.options import as_json, database_url
from pgconductor.cli.output import matched, moment, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgconductor import Conductor
    from pgconductor.domain.events import Emitted
    from pgconductor.domain.waiting import Waiting, WaitingExecution

__all__ = ["emit_command", "waiting_command"]


@click.command("waiting")
@click.option("--task", help="Only of this task.")
@click.option("--queue", help="Only of this queue.")
@click.option(
    "--limit",
    type=click.IntRange(1, 1000),
    default=50,
    show_default=True,
    help="How many executions at most.",
)
@click.option(
    "--waits",
    type=click.IntRange(1, 1000),
    default=3,
    show_default=True,
    help="How many waits of each at most.",
)
@click.option("--after", metavar="PLACE", help="Go on behind this place.")
@as_json
@database_url
def waiting_command(
    *,
    task: str | None,
    queue: str | None,
    limit: int,
    waits: int,
    after: str | None,
    as_json: bool,
    database_url: str | None,
) -> None:
    """List suspended executions and what they wait for, longest first.

    Each has a line for each of its first waits, and one that counts the others. For the next page,
    pass the place that is printed behind a page, or "next" of --json, as --after.
    """
    from pgconductor.domain.waiting import WaitingPlace

    place = None if after is None else WaitingPlace.parse(after)
    page = with_conductor(
        database_url,
        lambda conductor: conductor.executions.waiting(
            queue=queue, task_key=task, limit=limit, waits=waits, after=place
        ),
    )
    following = None if page.next is None else str(page.next)
    if as_json:
        print_json({"executions": page.items, "next": following})
        return
    heads = ("ID", "TASK", "QUEUE", "WAITS", "KEY", "KIND", "FOR", "SINCE", "UNTIL")
    print_table(heads, [row for one in page.items for row in _rows(one)])
    if following is not None:
        click.echo(f"more: --after {following}", err=True)


def _rows(of: WaitingExecution) -> Iterator[tuple[object, ...]]:
    head: tuple[object, ...] = of.execution_id, of.task_key, of.queue, of.count
    for one in of.waits:
        yield *head, *_cells(one)
        head = ("", "", "", "")
    if (left := of.count - len(of.waits)) > 0:
        yield *head, f"… {left} more"


def _cells(one: Waiting) -> tuple[object, ...]:
    more = matched(one.match) if one.child_id is None else str(one.child_id)
    what = " ".join(part for part in (one.detail, more) if part)
    until = None if one.until is None else moment(one.until)
    return one.key, one.kind, what, moment(one.since), until


@click.command("emit")
@click.argument("name")
@click.argument("payload", required=False)
@click.option("--dedupe-key", help="An event of this name and key stands for this one.")
@as_json
@database_url
def emit_command(
    *,
    name: str,
    payload: str | None,
    dedupe_key: str | None,
    as_json: bool,
    database_url: str | None,
) -> None:
    """Emit the event NAME, with PAYLOAD in JSON, and print its id.

    Executions that wait for it, now or later, take it. - as the payload reads standard input.
    """
    from pgconductor.domain.limits import check_dedupe_key, check_event

    check_event(name)
    if dedupe_key is not None:
        check_dedupe_key(dedupe_key)
    given = given_payload(payload, None)

    async def emit(conductor: Conductor) -> Emitted:
        return await conductor.emit(name, given, dedupe_key=dedupe_key)

    made = with_conductor(database_url, emit)
    if as_json:
        print_json({"id": made.id, "created": made.created})
        return
    click.echo(str(made.id))
    if not made.created:
        click.echo("not new: an event of this name has this dedupe key", err=True)
