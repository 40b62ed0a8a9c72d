"""Rate-limited crawl: a page is a step, level by level, with few at once and a pause between.

The semaphore is inside the step's function, not around the step: a branch that waits for it is then
at work, and what waits in the handler itself are steps and sleeps only. It is one for each process,
for all crawls in it. The next level is sorted: the order of a set differs from process to process,
and a replay must begin the same.

PGCONDUCTOR_DATABASE_URL=... python examples/patterns/crawl.py
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from pydantic import BaseModel

from pgconductor import Conductor, TaskContext

conductor = Conductor()

SITE = {
    "/": ["/about", "/news"],
    "/about": ["/", "/team"],
    "/news": ["/news/1", "/news/2", "/news/3"],
    "/team": [],
    "/news/1": ["/news"],
    "/news/2": [],
    "/news/3": ["/about"],
}


class Crawl(BaseModel):
    start: str = "/"
    pause: timedelta = timedelta(seconds=5)
    most_pages: int = 1000


class Page(BaseModel):
    links: list[str]


few = asyncio.Semaphore(2)
at_once: list[int] = [0, 0]  # now, and at most


async def fetch(path: str) -> Page:
    async with few:
        at_once[0] += 1
        at_once[1] = max(at_once)
        await asyncio.sleep(0.01)  # the network
        at_once[0] -= 1
        return Page(links=SITE[path])


@conductor.task
async def crawl(ctx: TaskContext, order: Crawl) -> list[str]:
    step = ctx.options(max_attempts=3, timeout=timedelta(minutes=1)).step
    seen = {order.start}
    level = [order.start]
    while level:
        pages = await asyncio.gather(*(step(f"fetch {path}", fetch, path) for path in level))
        found = {link for page in pages for link in page.links} - seen
        level = sorted(found)[: order.most_pages - len(seen)]
        seen |= set(level)
        if level:
            await ctx.sleep(ctx.numbered("pause"), order.pause)
    return sorted(seen)


async def main() -> None:
    async with conductor:
        orchestrator = conductor.orchestrator()
        await orchestrator.start()
        try:
            handle = await crawl.invoke(Crawl(pause=timedelta(milliseconds=50)))
            paths = await handle.result(timeout=timedelta(seconds=30))
            print(len(paths), "pages, at most", at_once[1], "at once")
        finally:
            await orchestrator.stop()


if __name__ == "__main__":
    asyncio.run(main())
