"""Fan-out and fan-in: a child for each part, all at once, and one result of all of theirs.

The children are executed wherever a worker has a slot, on any host. The parent takes up none while
it waits. A child that fails is looked at in its own branch; the others are waited for still.

PGCONDUCTOR_DATABASE_URL=... python examples/patterns/fan_out.py
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from pydantic import BaseModel

from pgconductor import Conductor, TaskContext
from pgconductor.exceptions import ChildFailed

conductor = Conductor()

TEXTS = {"a.txt": "one two three", "b.txt": "four five", "c.txt": ""}


class Total(BaseModel):
    words: int
    unread: list[str]


@conductor.task(queue="parts", max_attempts=1)
async def count_words(ctx: TaskContext, name: str) -> int:
    ctx.logger.info("counting %s", name)
    if not TEXTS[name]:
        raise ValueError(f"{name} is empty")
    return len(TEXTS[name].split())


@conductor.task
async def count_all(ctx: TaskContext, names: list[str]) -> Total:
    async def count(name: str) -> int | None:
        try:
            return await ctx.invoke(f"count {name}", count_words, name)
        except ChildFailed as error:
            ctx.logger.warning("%s", error)
            return None

    counts = await asyncio.gather(*(count(name) for name in names))
    return Total(
        words=sum(found or 0 for found in counts),
        unread=[name for name, found in zip(names, counts, strict=True) if found is None],
    )


async def main() -> None:
    async with conductor:
        orchestrator = conductor.orchestrator()
        await orchestrator.start()
        try:
            handle = await count_all.invoke(sorted(TEXTS))
            print(await handle.result(timeout=timedelta(seconds=30)))
        finally:
            await orchestrator.stop()


if __name__ == "__main__":
    asyncio.run(main())
