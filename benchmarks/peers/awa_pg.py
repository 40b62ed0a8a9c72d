"""awa, whose engine is written in Rust."""

import asyncio
from dataclasses import dataclass

from awa import AsyncClient

DISTRIBUTION = "awa-pg"
SETTINGS = "256 handlers at once (best of 32, 100, 256), 20 connections, bulk by its COPY call"


@dataclass
class Noop:
    n: int


class Contestant:
    def __init__(self, url, note):
        self._client = AsyncClient(url, max_connections=20)
        self._working = False

        @self._client.task(Noop, queue="default")
        async def noop(_):
            note()

    async def open(self):
        pass

    async def install(self):
        await self._client.migrate()
        # A worker that starts on a fresh schema makes the queue storage the active one.
        await self._client.start([("default", 1)])
        await asyncio.sleep(1)
        await self._client.shutdown()

    async def invoke(self):
        await self._client.insert(Noop(1), queue="default")

    async def invoke_many(self, count):
        await self._client.enqueue_many_copy([Noop(1)] * count, queue="default")

    async def work(self):
        self._working = True
        await self._client.start([("default", 256)])

    async def unfinished(self):
        return "SELECT EXISTS (SELECT FROM awa.jobs WHERE finalized_at IS NULL)"

    async def close(self):
        if self._working:
            await self._client.shutdown()
        await self._client.close()
