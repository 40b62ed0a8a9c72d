"""Polling: ask another service for something slow, then look now and then until it is there.

Each look is a step and each pause a sleep, with numbered keys. Between two looks nothing is held: a
pause may be an hour, and deploys go by meanwhile. Looks and pauses stay on record, so bound their
number: a growing pause does.

PGCONDUCTOR_DATABASE_URL=... python examples/patterns/polling.py
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from pydantic import BaseModel

from pgconductor import Conductor, TaskContext
from pgconductor.exceptions import DoNotRetry

conductor = Conductor()


class Export(BaseModel):
    month: str
    first_pause: timedelta = timedelta(seconds=10)


orders: dict[str, str] = {}  # those of another service
looks: list[str] = []


async def order_export(month: str, reference: str) -> str:
    """Order it there, which knows by the reference if it was ordered before."""
    return orders.setdefault(reference, f"export-{month}")


async def look(export: str) -> str | None:
    """Where it is, once it is there."""
    looks.append(export)
    return f"https://example.org/{export}.csv" if len(looks) == 3 else None


@conductor.task
async def fetch_export(ctx: TaskContext, export: Export) -> str:
    ordered = await ctx.step("order", order_export, export.month, f"{ctx.execution_id}:order")
    pause = export.first_pause
    for _ in range(40):
        url = await ctx.step(ctx.numbered("look"), look, ordered)
        if url is not None:
            return url
        await ctx.sleep(ctx.numbered("pause"), pause)
        pause = min(2 * pause, timedelta(hours=1))
    raise DoNotRetry(f"{ordered} did not come")


async def main() -> None:
    async with conductor:
        orchestrator = conductor.orchestrator()
        await orchestrator.start()
        try:
            export = Export(month="2026-03", first_pause=timedelta(milliseconds=50))
            handle = await fetch_export.invoke(export)
            print(await handle.result(timeout=timedelta(seconds=30)), "after", len(looks), "looks")
        finally:
            await orchestrator.stop()


if __name__ == "__main__":
    asyncio.run(main())
