"""``list``, ``cancel``, ``retry``, ``fork``: executions for those who operate them."""

from __future__ import annotations

import shlex
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import click

from pgconductor.cli.database import with_conductor
from pgconductor.cli.errors import CommandFailed
from pgconductor.cli.exit_codes import ExitCode
from pgconductor.cli.options import as_json, database_url, execution_id, instant
from pgconductor.cli.output import moment, plain, print_json, print_table
from pgconductor.types import ExecutionState

if TYPE_CHECKING:
    from pgconductor import Conductor
    from pgconductor.domain.snapshots import ExecutionSnapshot

__all__ = ["cancel_command", "fork_command", "list_command", "retry_command"]


@click.command("list")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([state.value for state in ExecutionState]),
    help="Only in this state; may be given several times.",
)
@click.option("--task", help="Only of this task.")
@click.option("--queue", help="Only of this queue.")
@click.option("--since", type=instant, help="Only if invoked at this instant or later.")
@click.option("--until", type=instant, help="Only if invoked before this instant.")
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many at most."
)
@click.option("--after", type=click.UUID, metavar="ID", help="Go on behind this execution.")
@as_json
@database_url
def list_command(
    *,
    states: tuple[str, ...],
    task: str | None,
    queue: str | None,
    since: datetime | None,
    until: datetime | None,
    limit: int,
    after: UUID | None,
    as_json: bool,
    database_url: str | None,
) -> None:
    """List executions, newest first.

    For the next page, pass the last id as --after.
    """
    from pgconductor.domain.snapshots import ExecutionFilter

    where = ExecutionFilter(
        states=tuple(ExecutionState(state) for state in states),
        task_key=task,
        queue=queue,
        created_after=since,
        created_before=until,
    )
    page = with_conductor(
        database_url, lambda conductor: conductor.executions.list(where, limit=limit, after=after)
    )
    if as_json:
        print_json([plain(one) for one in page.items])
        return
    heads = ("ID", "STATE", "TASK", "QUEUE", "ATTEMPTS", "INVOKED", "ERROR")
    print_table(heads, [_row(one) for one in page.items])
    if page.next is not None:
        click.echo(f"more: --after {page.next}", err=True)


def _row(one: ExecutionSnapshot) -> tuple[object, ...]:
    attempts = f"{one.attempts}/{one.max_attempts}"
    when = moment(one.created_at)
    return one.id, one.state, one.task_key, one.queue, attempts, when, _error(one)


def _error(one: ExecutionSnapshot) -> str | None:
    if one.state is ExecutionState.CANCELLED:
        return one.cancel_reason
    if one.last_error is None or one.last_error_type is None:
        return one.last_error
    return f"{one.last_error_type}: {one.last_error}"


@click.command("cancel")
@execution_id
@click.option("--reason", help="Why; kept with the execution.")
@click.option("--keep-children", is_flag=True, help="Let the children that it waits for go on.")
@as_json
@database_url
def cancel_command(
    *,
    execution_id: UUID,
    reason: str | None,
    keep_children: bool,
    as_json: bool,
    database_url: str | None,
) -> None:
    """Cancel an execution: at once if no worker holds it, else at its next boundary.

    The children that it waits for, and theirs, are cancelled with it.
    """

    async def cancel(conductor: Conductor) -> ExecutionSnapshot:
        done = await conductor.executions.cancel(
            execution_id, reason=reason, children=not keep_children
        )
        found = await conductor.executions.get(execution_id)
        if not done:
            raise CommandFailed(
                f"execution {execution_id} is {found.state} already", ExitCode.REFUSED
            )
        return found

    _say(with_conductor(database_url, cancel), as_json, asked="cancellation asked for")


@click.command("retry")
@execution_id
@click.option("--from-scratch", is_flag=True, help="Drop all recorded steps.")
@click.option("--from-step", metavar="KEY", help="Drop this step and all that began later.")
@as_json
@database_url
def retry_command(
    *,
    execution_id: UUID,
    from_scratch: bool,
    from_step: str | None,
    as_json: bool,
    database_url: str | None,
) -> None:
    """Retry a failed or cancelled execution, with all its attempts anew.

    It resumes behind its recorded steps, but for those that are dropped: the recorded errors that
    it has ended by, and children that have failed or were cancelled. An error after which something
    began is kept, for the handler has dealt with it, and named here.
    """

    async def errors(conductor: Conductor) -> dict[str, datetime]:
        steps = (await conductor.executions.tree(execution_id, depth=0)).steps
        return {one.key: one.created_at for one in steps if one.error is not None}

    async def retry(conductor: Conductor) -> tuple[ExecutionSnapshot, list[str]]:
        before = await errors(conductor)
        done = await conductor.executions.retry(
            execution_id, from_scratch=from_scratch, from_step=from_step
        )
        found = await conductor.executions.get(execution_id)
        if not done:
            raise CommandFailed(
                f"execution {execution_id} is {found.state}; only a failed or cancelled one can "
                "be retried",
                ExitCode.REFUSED,
            )
        # A worker may have called a step again by now, which has failed again.
        after = await errors(conductor)
        return found, [key for key, began in before.items() if after.get(key) == began]

    found, kept = with_conductor(database_url, retry)
    _say(found, as_json)
    for key in kept:
        click.echo(
            f"kept: the error of {key!r}, after which something began; if it ends by that "
            f"again, retry it with --from-step {shlex.quote(key)}",
            err=True,
        )


@click.command("fork")
@execution_id
@click.option("--from-step", metavar="KEY", help="Begin at this step, with what came before it.")
@as_json
@database_url
def fork_command(
    *, execution_id: UUID, from_step: str | None, as_json: bool, database_url: str | None
) -> None:
    """Make a new execution like another one, and print its id.

    It has the same task, queue, payload, priority and limits, and remembers what the other had on
    record before the step. Without --from-step it begins at the start. The other one may be in any
    state, and stays as it is.
    """
    made = with_conductor(
        database_url, lambda conductor: conductor.executions.fork(execution_id, from_step=from_step)
    )
    if as_json:
        print_json({"id": made})
        return
    click.echo(str(made))


def _say(found: ExecutionSnapshot, as_json: bool, *, asked: str | None = None) -> None:
    if as_json:
        print_json(found)
        return
    held = found.state is ExecutionState.RUNNING and asked is not None
    click.echo(f"{found.id} {f'running, {asked}' if held else found.state}")
