"""``migrate``, ``downgrade`` and ``current``: the database's revision, and what is known here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from pgconductor.cli.database import settings_for, with_conductor
from pgconductor.cli.errors import CommandFailed
from pgconductor.cli.exit_codes import ExitCode
from pgconductor.cli.options import as_json, database_url
from pgconductor.cli.output import plain, print_json, print_table

if TYPE_CHECKING:
    from pgconductor import Conductor
    from pgconductor.domain.migrations import MigrationOutcome
    from pgconductor.domain.revisions import SchemaStatus
    from pgconductor.services import MigrationCoordinator

__all__ = ["current_command", "downgrade_command", "migrate_command"]


def _named(version: int | None) -> str:
    return "nothing" if not version else f"{version:04d}"


async def _status(conductor: Conductor) -> SchemaStatus | None:
    """What is installed; None for nothing."""
    from pgconductor.exceptions import SchemaMissing

    try:
        return await conductor.orchestrators.schema_status()
    except SchemaMissing:
        return None


def _seconds(_ctx: click.Context, _param: click.Parameter, value: str | None) -> Any:
    """A duration, as settings have it."""
    if value is None:
        return None
    from pydantic import TypeAdapter, ValidationError

    from pgconductor.settings import Duration

    try:
        return TypeAdapter(Duration).validate_python(value)
    except ValidationError:
        raise click.BadParameter("give seconds above zero, or ISO 8601, as in PT10M") from None


def _patience(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of both ways."""
    options = [
        click.option(
            "--drain-timeout",
            callback=_seconds,
            metavar="SECONDS",
            help="How long to wait for orchestrators that a revision shuts out.",
        ),
        click.option(
            "--evict/--no-evict",
            default=None,
            help="Evict those that are there still, instead of failing.",
        ),
        click.option(
            "--lease-wait",
            callback=_seconds,
            metavar="SECONDS",
            help="How long to wait for another migration to end.",
        ),
        click.option(
            "--lock-timeout",
            callback=_seconds,
            metavar="SECONDS",
            help="How long one try of a revision may wait for a lock.",
        ),
        click.option(
            "--lock-wait",
            callback=_seconds,
            metavar="SECONDS",
            help="How long a revision is tried again for want of its locks.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _coordinator(url: str | None, patience: dict[str, Any]) -> MigrationCoordinator:
    from pgconductor.domain.migrations import OnDeadline
    from pgconductor.services import MigrationCoordinator

    settings = settings_for(url)
    evict = patience.pop("evict")
    given = {name: value for name, value in patience.items() if value is not None}
    if evict is not None:
        given["on_drain_timeout"] = OnDeadline.EVICT if evict else OnDeadline.FAIL
    return MigrationCoordinator(
        settings=settings,
        options=replace(settings.migration_options, **given),
        report=lambda line: click.echo(f"pgconductor: {line}", err=True),
    )


def _moved(move: Callable[[], Coroutine[Any, Any, MigrationOutcome]], as_json: bool) -> ExitCode:
    """Migrate; SIGTERM ends it in order."""
    from pgconductor.services.interrupts import terminable

    outcome = asyncio.run(terminable(move()))
    if as_json:
        print_json(plain(outcome) | {"migrated": outcome.migrated})
    elif not outcome.should_shutdown:
        click.echo(str(outcome))
    if outcome.should_shutdown:
        click.echo(
            f"pgconductor: the database is at {_named(outcome.to_version)}, with a breaking "
            "revision that this release does not know: deploy a newer one",
            err=True,
        )
        return ExitCode.SCHEMA_TOO_NEW
    return ExitCode.OK


@click.command("migrate")
@click.option("--to", "target", default="head", show_default=True, metavar="REVISION")
@click.option("--sql", is_flag=True, help="Print the statements instead of executing them.")
@_patience
@as_json
@database_url
def migrate_command(
    target: str, sql: bool, as_json: bool, database_url: str | None, **patience: Any
) -> ExitCode:
    """Bring the database to the newest revision, or to the one given; the same as Alembic does.

    Before a breaking revision the orchestrators that do not know it are asked to stop and waited
    for; progress is shown on standard error.
    """
    from alembic import command

    from pgconductor.schema import alembic_config

    if sql:
        command.upgrade(alembic_config(), _known(target, base=False), sql=True)
        return ExitCode.OK
    wanted = _known(target, base=False)
    return _moved(lambda: _upgrade(_coordinator(database_url, patience), wanted), as_json)


async def _upgrade(coordinator: MigrationCoordinator, target: str) -> MigrationOutcome:
    outcome = await coordinator.upgrade(target)
    if target != "head" and outcome.to_version > int(target) and not outcome.should_shutdown:
        raise CommandFailed(
            f"the database is at {_named(outcome.to_version)} already; `pgconductor downgrade` "
            "goes back"
        )
    return outcome


@click.command("downgrade")
@click.argument("target", metavar="REVISION")
@_patience
@as_json
@database_url
def downgrade_command(
    target: str, as_json: bool, database_url: str | None, **patience: Any
) -> ExitCode:
    """Take revisions back, to REVISION; what only they can hold is lost.

    `base` takes all of them back, and every execution with them. Orchestrators that cannot work
    without them are asked to stop and waited for.
    """
    wanted = _known(target, base=True)
    return _moved(lambda: _coordinator(database_url, patience).downgrade(wanted), as_json)


def _known(target: str, *, base: bool) -> str:
    """A revision at hand."""
    from pgconductor.schema import revisions

    given = target.zfill(4) if target.isdigit() else target
    known = ["base" if base else "head", *(_named(one.version) for one in revisions())]
    if given not in known:
        raise CommandFailed(f"no revision {target!r}; known: {', '.join(known)}")
    return given


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
