"""``grants``: the SQL that gives a database role what it needs."""

from __future__ import annotations

import click

from pgconductor.domain.privileges import RoleKind, grants, grants_of_all

__all__ = ["grants_command"]


@click.command("grants")
@click.option("--role", required=True, metavar="NAME", help="The role, as pg_roles has it.")
@click.option(
    "--kind",
    type=click.Choice([kind.value for kind in RoleKind]),
    help="What the role is for. Without it: all kinds, for roles NAME_owner, NAME_runtime, ...",
)
@click.option("--create", is_flag=True, help="Make roles that are not there, without login.")
def grants_command(role: str, kind: str | None, create: bool) -> None:
    r"""Print the SQL that gives a role what it needs, for psql.

    \b
    owner    migrates; its script comes before the first migration, the others after it
    runtime  what workers need, no DDL
    invoke   invokes, waits for results, cancels; reads no payloads
    read     reads everything
    operate  read, and cancel, retry, ask orchestrators to stop

    Nothing is executed here, and no database is needed. Execute a script again after a migration.
    """
    if kind is None:
        click.echo(grants_of_all(role, create=create), nl=False)
    else:
        click.echo(grants(role, RoleKind(kind), create=create), nl=False)
