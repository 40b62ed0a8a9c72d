"""DBOS."""

import asyncio

from dbos import DBOS

DISTRIBUTION = "dbos"
SETTINGS = (
    "100 at once in a queue, pool of 20, queue polled each 0.1 s (its default is 1 s);"
    " it has no call for many, so a bulk is as many calls, 20 at once"
)


class Contestant:
    def __init__(self, url, note):
        config = {
            "name": "bench",
            "system_database_url": url.replace("postgresql://", "postgresql+psycopg://"),
            "sys_db_pool_size": 20,
            "log_level": "ERROR",
            "application_version": "1",
            "run_admin_server": False,
        }
        DBOS(config=config)

        @DBOS.workflow(name="noop")
        async def noop(n):
            note()

        @DBOS.step(name="nothing")
        async def nothing():
            return None

        @DBOS.workflow(name="ten_steps")
        async def ten_steps(n):
            note()
            for _ in range(10):
                await nothing()

        self._noop, self._ten_steps = noop, ten_steps
        self._launched = False

    async def open(self):
        pass

    async def _launch(self, *queues):
        if not self._launched:
            self._launched = True
            DBOS.listen_queues(list(queues))
            await asyncio.to_thread(DBOS.launch)

    async def install(self):
        await self._launch()

    async def invoke(self):
        await self._launch()
        await DBOS.enqueue_workflow_async("default", self._noop, 1)

    async def invoke_many(self, count):
        await self._launch()
        await self._at_once(count, self._noop)

    async def invoke_steps(self, count):
        await self._launch()
        await self._at_once(count, self._ten_steps)

    async def _at_once(self, count, function):
        room = asyncio.Semaphore(20)

        async def one():
            async with room:
                await DBOS.enqueue_workflow_async("default", function, 1)

        await asyncio.gather(*(one() for _ in range(count)))

    async def work(self):
        await self._launch("default")
        await DBOS.register_queue_async("default", worker_concurrency=100, polling_interval_sec=0.1)

    work_steps = work

    async def unfinished(self):
        return (
            "SELECT EXISTS (SELECT FROM dbos.workflow_status"
            " WHERE status IN ('ENQUEUED', 'PENDING', 'DELAYED'))"
        )

    async def close(self):
        if self._launched:
            await asyncio.to_thread(DBOS.destroy)
