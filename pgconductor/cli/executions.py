"""``list``, ``show``, ``cancel``, ``retry``: executions for those who operate them."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from pgconductor.cli.database import with_conductor
from pgconductor.cli.errors import CommandFailed
from pgconductor.cli.exit_codes import ExitCode
from pgconductor.cli.options import as_json, database_url, execution_id, instant
from pgconductor.cli.output import plain, print_fields, print_json, print_table
from pgconductor.types import ExecutionState

if TYPE_CHECKING:
    from pgconductor import Conductor
    from pgconductor.domain.snapshots import ExecutionSnapshot

__all__ = ["cancel_command", "list_command", "retry_command", "show_command"]


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
    invoked = one.created_at.strftime("%Y-%m-%d %H:%M:%S%z")
    return one.id, one.state, one.task_key, one.queue, attempts, invoked, _error(one)


def _error(one: ExecutionSnapshot) -> str | None:
    if one.state is ExecutionState.CANCELLED:
        return one.cancel_reason
    if one.last_error is None or one.last_error_type is None:
        return one.last_error
    return f"{one.last_error_type}: {one.last_error}"


@click.command("show")
@execution_id
@as_json
@database_url
def show_command(execution_id: UUID, as_json: bool, database_url: str | None) -> None:
    """Show one execution with its steps."""
    found = with_conductor(database_url, lambda conductor: _with_steps(conductor, execution_id))
    if as_json:
        print_json(found)
        return
    steps = found.pop("steps")
    for name in ("payload", "result"):
        if found[name] is not None:
            found[name] = json.dumps(found[name], indent=2, ensure_ascii=False)
    found["attempts"] = f"{found['attempts']} of {found.pop('max_attempts')}"
    found["crashes"] = f"{found['crashes']} of {found.pop('max_crashes')}"
    print_fields(found)
    if steps:
        click.echo()
        rows = [(one["key"], one["created_at"], json.dumps(one["result"])) for one in steps]
        print_table(("STEP", "RECORDED", "RESULT"), rows)


async def _with_steps(conductor: Conductor, wanted: UUID) -> dict[str, Any]:
    from sqlalchemy import select

    from pgconductor.models import Step

    found: dict[str, Any] = plain(await conductor.executions.get(wanted))
    query = select(Step).where(Step.execution_id == wanted).order_by(Step.created_at, Step.key)
    async with conductor.sessionmaker() as session:
        steps = (await session.scalars(query)).all()
    found["steps"] = [
        plain({"key": one.key, "result": one.result, "created_at": one.created_at}) for one in steps
    ]
    return found


@click.command("cancel")
@execution_id
@click.option("--reason", help="Why; kept with the execution.")
@as_json
@database_url
def cancel_command(
    execution_id: UUID, reason: str | None, as_json: bool, database_url: str | None
) -> None:
    """Cancel an execution: at once if no worker holds it, else at its next boundary."""

    async def cancel(conductor: Conductor) -> ExecutionSnapshot:
        done = await conductor.executions.cancel(execution_id, reason=reason)
        found = await conductor.executions.get(execution_id)
        if not done:
            raise CommandFailed(
                f"execution {execution_id} is {found.state} already", ExitCode.REFUSED
            )
        return found

    _say(with_conductor(database_url, cancel), as_json, asked="cancellation asked for")


@click.command("retry")
@execution_id
@click.option("--from-scratch", is_flag=True, help="Drop the recorded steps.")
@as_json
@database_url
def retry_command(
    execution_id: UUID, from_scratch: bool, as_json: bool, database_url: str | None
) -> None:
    """Retry a failed or cancelled execution, with all its attempts anew.

    It resumes behind its recorded steps, unless they are dropped.
    """

    async def retry(conductor: Conductor) -> ExecutionSnapshot:
        done = await conductor.executions.retry(execution_id, from_scratch=from_scratch)
        found = await conductor.executions.get(execution_id)
        if not done:
            raise CommandFailed(
                f"execution {execution_id} is {found.state}; only a failed or cancelled one can "
                "be retried",
                ExitCode.REFUSED,
            )
        return found

    _say(with_conductor(database_url, retry), as_json)


def _say(found: ExecutionSnapshot, as_json: bool, *, asked: str | None = None) -> None:
    if as_json:
        print_json(found)
        return
    held = found.state is ExecutionState.RUNNING and asked is not None
    click.echo(f"{found.id} {f'running, {asked}' if held else found.state}")
