"""The life of a web application: bring the schema up to date, work in the same process, stop.

The framework enters `lifespan`; see "In a web application" in docs/alembic.md. Here main() does, so
that no framework is needed: PGCONDUCTOR_DATABASE_URL=... python examples/web_lifespan.py
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from pgconductor import Conductor, TaskContext
from pgconductor.services import MigrationCoordinator

conductor = Conductor()


@conductor.task(queue="mail")
async def welcome(ctx: TaskContext, email: str) -> str:
    ctx.logger.info("attempt %s", ctx.attempt)
    return f"To {email}: welcome."


@asynccontextmanager
async def lifespan(_app: object) -> AsyncIterator[None]:
    # Many processes may start at once: one migrates, the others wait for it.
    outcome = await MigrationCoordinator().upgrade()
    print(f"schema {outcome}")
    if outcome.should_shutdown:
        raise RuntimeError("the database is too new for this release")
    async with conductor:
        orchestrator = conductor.orchestrator(concurrency=5)
        await orchestrator.start()
        try:
            yield
        finally:
            await orchestrator.stop()


async def main() -> None:
    async with lifespan(None):
        handle = await welcome.invoke("ada@example.org")
        print(await handle.result(timeout=timedelta(seconds=30)))


if __name__ == "__main__":
    asyncio.run(main())
