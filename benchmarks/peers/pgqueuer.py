"""pgqueuer, on asyncpg."""

import asyncio

import asyncpg
from pgqueuer import AsyncpgDriver, PgQueuer, Queries

DISTRIBUTION = "pgqueuer"
SETTINGS = "batches of 1,000 (best of 10, 100, 1,000), asyncpg, uvloop as its command line does"
UVLOOP = True


class Contestant:
    def __init__(self, url, note):
        self._url, self._note = url, note

    async def open(self):
        self._connection = await asyncpg.connect(self._url)
        self._queries = Queries(AsyncpgDriver(self._connection))

    async def install(self):
        await self._queries.install()

    async def invoke(self):
        await self._queries.enqueue("noop", b'{"n": 1}')

    async def invoke_many(self, count):
        await self._queries.enqueue(["noop"] * count, [b'{"n": 1}'] * count, [0] * count)

    async def work(self):
        engine = PgQueuer(AsyncpgDriver(await asyncpg.connect(self._url)))

        @engine.entrypoint("noop")
        async def noop(_):
            self._note()

        self._engine = engine
        self._working = asyncio.create_task(engine.run(batch_size=1000))

    async def unfinished(self):
        return "SELECT EXISTS (SELECT FROM pgqueuer)"

    async def close(self):
        if hasattr(self, "_engine"):
            self._engine.shutdown.set()
            await self._working
        await self._connection.close()
