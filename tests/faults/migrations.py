"""What the drills of migrations share: revisions of a next release, migrators, the fleet."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import create_async_engine

from pgconductor.domain.claims import Registration
from pgconductor.services import OrchestratorService
from tests.migrations.support import Rows, add_revision, copy_of_revisions, current, gate, rows
from tests.support.processes import UNMEASURED, Child, Children
from tests.support.servers import connect

MIGRATOR = Path(__file__).with_name("migrator_app.py")
#: How a test gets what it waits for soon.
QUICK = ("-x", "lease_wait=20", "-x", "drain_timeout=20", "-x", "lock_wait=20")
FREEZING = """
def change():
    import __main__
    {before}
    if hasattr(__main__, "freeze"):
        __main__.freeze("revision")
"""
# Whoever holds the lease or keeps others out, and is there to do so.
AT_WORK = """
    SELECT g.lease_holder, g.intent_floor, g.intent_ceiling FROM pgconductor.schema_gate g
    WHERE g.intent_expires_at > clock_timestamp() OR EXISTS (
        SELECT FROM pg_stat_activity a
        WHERE a.pid = g.lease_pid
          AND a.application_name = 'pgconductor-migrate/' || g.lease_id
    )
"""


class Deploys:
    """A database, and a next release's revisions, applied by real processes.

    Args:
        url: The database.
        children: Starts the processes.
        folder: Where the revisions go.
    """

    def __init__(self, url: str, children: Children, folder: Path) -> None:
        self.url = url
        self.children = children
        self.location = copy_of_revisions(folder)
        self.ini = folder / "alembic.ini"
        self.ini.write_text(
            f"[alembic]\nscript_location = {self.location}\npath_separator = os\n", "utf-8"
        )

    def add(self, number: int, *, breaking: bool, before: str = "pass", **more: Any) -> None:
        """The next revision; it freezes in its transaction where that is asked for."""
        add_revision(
            self.location,
            f"{number:04d}",
            f"{number - 1:04d}",
            metadata=f"name = 'revision {number}'\nbreaking = {breaking}",
            **{"change": FREEZING.format(before=before), **more},
        )

    async def start(
        self,
        *options: str,
        freeze: str = "none",
        command: tuple[str, ...] = ("upgrade", "head"),
        env: Mapping[str, str] | None = None,
        url: str | None = None,
    ) -> Child:
        """Start Alembic's command line on the revisions."""
        inherited = {"PGCONDUCTOR_DATABASE_URL": url or self.url, "FREEZE": freeze, **UNMEASURED}
        return await self.children.start(
            MIGRATOR, "-c", self.ini, *QUICK, *options, *command, env={**inherited, **(env or {})}
        )

    async def upgraded(self, *options: str, **more: Any) -> Child:
        """Apply all revisions, which must succeed."""
        child = await self.start(*options, **more)
        assert await child.wait() == 0, child.errors
        return child

    async def frozen(self, point: str, *options: str) -> Child:
        """A migrator that has come to a point, and goes no further."""
        child = await self.start(*options, freeze=point)
        await child.wait_for_line("frozen")
        return child

    @asynccontextmanager
    async def fleet(self) -> AsyncIterator[Fleet]:
        """Orchestrators of this process, which do as the test tells them."""
        engine = create_async_engine(self.url)
        try:
            yield Fleet(OrchestratorService(engine))
        finally:
            await engine.dispose()

    # What the database says.

    def rows(self, query: str) -> Rows:
        return rows(self.url, query)

    def execute(self, statement: str) -> None:
        with connect(self.url) as connection:
            connection.execute(statement.encode())

    def assert_at(self, number: int, *, floor: int = 0) -> None:
        """Version table, ledger and gate agree, and nobody holds the lease."""
        assert current(self.url) == [(f"{number:04d}",)]
        assert gate(self.url) == [(number, floor)]
        recorded = self.rows("SELECT version FROM pgconductor.schema_migrations ORDER BY 1")
        assert recorded == [(one,) for one in range(1, number + 1)]

    def assert_free(self) -> None:
        assert self.rows(AT_WORK) == []


class Fleet:
    """Orchestrators as rows, which beat and leave when they are told to."""

    def __init__(self, service: OrchestratorService) -> None:
        self.service = service

    async def register(self, knows: int = 1) -> Registration:
        return await self.service.register(schema_version=knows)

    async def asked(self, one: Registration) -> bool:
        return (await self.service.heartbeat(one)).shutdown_requested

    async def ids(self) -> set[UUID]:
        return {one.id for one in await self.service.list()}


def told(child: Child) -> str:
    """What it has said on standard error."""
    return "\n".join(child.errors)
