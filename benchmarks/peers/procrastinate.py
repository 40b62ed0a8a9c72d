"""procrastinate, on psycopg 3."""

import asyncio

from procrastinate import App, PsycopgConnector

DISTRIBUTION = "procrastinate"
SETTINGS = (
    "100 handlers at once (best of 10, 100), LISTEN on, the connector's own pool of at most 20"
)


class Contestant:
    def __init__(self, url, note):
        self._app = App(connector=PsycopgConnector(conninfo=url, min_size=1, max_size=20))

        @self._app.task(name="noop")
        async def noop(n):
            del n
            note()

        self._noop = noop
        self._working = None

    async def open(self):
        await self._app.open_async()

    async def install(self):
        await self._app.schema_manager.apply_schema_async()

    async def invoke(self):
        await self._noop.defer_async(n=1)

    async def invoke_many(self, count):
        await self._noop.batch_defer_async(*[{"n": 1}] * count)

    async def work(self):
        running = self._app.run_worker_async(concurrency=100, install_signal_handlers=False)
        self._working = asyncio.create_task(running)

    async def unfinished(self):
        return "SELECT EXISTS (SELECT FROM procrastinate_jobs WHERE status IN ('todo', 'doing'))"

    async def close(self):
        if self._working is not None:
            self._working.cancel()
            await asyncio.wait([self._working])
        await self._app.close_async()
