"""``doctor``: what is wrong with the database, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pgconductor.cli.database import with_conductor
from pgconductor.cli.exit_codes import ExitCode
from pgconductor.cli.options import as_json, database_url
from pgconductor.cli.output import one_line, plain, print_json

if TYPE_CHECKING:
    from pgconductor import Conductor
    from pgconductor.domain.health import Finding

__all__ = ["doctor_command"]


async def _findings(conductor: Conductor) -> list[Finding]:
    from sqlalchemy.ext.asyncio import create_async_engine

    from pgconductor.services.health import HealthService

    settings = conductor.settings
    direct = None
    if settings.direct_url is not None:
        direct = create_async_engine(settings.require_url(direct=True))
    try:
        return await HealthService(
            conductor.engine,
            direct_engine=direct,
            listen=settings.listen,
            stale_after=settings.stale_after,
        ).diagnose()
    finally:
        if direct is not None:
            await direct.dispose()


@click.command("doctor")
@as_json
@database_url
def doctor_command(as_json: bool, database_url: str | None) -> ExitCode:
    """Look at the database's health, and say what to do.

    Reads only, and needs no privilege; what its role may not see is said to be unknown. Exit code
    21 if something needs attention.
    """
    findings = with_conductor(database_url, _findings)
    needed = any(one.severity.needs_attention for one in findings)
    if as_json:
        print_json([plain(one) for one in findings])
        return ExitCode.ATTENTION if needed else ExitCode.OK
    for one in findings:
        click.echo(f"{one.severity:7}  {one_line(one.check)}: {one_line(one.what)}")
        if one.advice:
            click.echo(f"         → {one_line(one.advice)}")
    return ExitCode.ATTENTION if needed else ExitCode.OK
