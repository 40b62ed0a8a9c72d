"""``migrate`` and ``current``: the database's revision, and what this release knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pgconductor.cli.database import settings_for, with_conductor
from pgconductor.cli.errors import CommandFailed
from pgconductor.cli.exit_codes import ExitCode
from pgconductor.cli.options import as_json, database_url
from pgconductor.cli.output import print_json, print_table

if TYPE_CHECKING:
    from pgconductor import Conductor
    from pgconductor.domain.revisions import SchemaStatus

__all__ = ["current_command", "migrate_command"]


def _named(version: int | None) -> str:
    return "nothing" if not version else f"{version:04d}"


async def _status(conductor: Conductor) -> SchemaStatus | None:
    """What is installed; None for nothing."""
    from pgconductor.exceptions import SchemaMissing

    try:
        return await conductor.orchestrators.schema_status()
    except SchemaMissing:
        return None


@click.command("migrate")
@click.option("--to", "target", default="head", show_default=True, metavar="REVISION")
@click.option("--sql", is_flag=True, help="Print the statements instead of executing them.")
@database_url
def migrate_command(target: str, sql: bool, database_url: str | None) -> None:
    """Bring the database to the newest revision, or to the one given; the same as Alembic does."""
    from alembic import command
    from alembic.util import CommandError

    from pgconductor.schema import alembic_config, revisions

    target = target.zfill(4) if target.isdigit() else target
    known = [one.version for one in revisions()]
    if target not in {"head", *map(_named, known)}:
        raise CommandFailed(f"no revision {target!r}; known: {', '.join(map(_named, known))}")
    if sql:
        command.upgrade(alembic_config(), target, sql=True)
        return
    before = with_conductor(database_url, _status)
    wanted = known[-1] if target == "head" else int(target)
    installed = before.installed if before is not None else 0
    if before is not None and installed >= wanted:
        if target == "head":
            before.check(known[-1])
        elif installed > wanted:
            raise CommandFailed(
                f"the database is at {installed:04d} already; `alembic downgrade` goes back"
            )
        click.echo(f"{_named(installed)}: nothing to do")
        return
    url = settings_for(database_url).require_url(direct=True)
    try:
        command.upgrade(alembic_config(url), target)
    except CommandError as error:
        raise CommandFailed(f"alembic: {error}", ExitCode.ERROR) from error
    after = with_conductor(database_url, _status)
    click.echo(f"{_named(installed)} → {_named(after.installed if after else None)}")


@click.command("current")
@as_json
@database_url
def current_command(as_json: bool, database_url: str | None) -> ExitCode:
    """Show the database's revision, what this release knows, and what is pending.

    Exit code 11 if the database is behind, 10 if it is too new for this release.
    """
    from pgconductor.domain.revisions import KNOWN_REVISION, REQUIRED_REVISION
    from pgconductor.schema import revisions

    status = with_conductor(database_url, _status)
    installed = status.installed if status is not None else 0
    pending = [one for one in revisions() if one.version > installed]
    found: dict[str, Any] = {
        "installed": installed or None,
        "known": KNOWN_REVISION,
        "required": REQUIRED_REVISION,
        "floor": status.floor if status is not None else None,
        "pending": [
            {"version": one.version, "name": one.name, "breaking": one.breaking} for one in pending
        ],
    }
    if status is not None and status.floor > KNOWN_REVISION:
        code = ExitCode.SCHEMA_TOO_NEW
    else:
        code = ExitCode.SCHEMA_BEHIND if pending else ExitCode.OK
    if as_json:
        print_json(found)
        return code
    click.echo(f"database  {_named(installed)}")
    click.echo(f"release   {_named(KNOWN_REVISION)}, works from {_named(REQUIRED_REVISION)} on")
    if pending:
        click.echo()
        rows = [(_named(one.version), "yes" if one.breaking else "no", one.name) for one in pending]
        print_table(("PENDING", "BREAKING", "NAME"), rows)
        click.echo("`pgconductor migrate` applies them", err=True)
    elif code is ExitCode.SCHEMA_TOO_NEW:
        click.echo("a breaking revision is not known here: deploy a newer release", err=True)
    return code
