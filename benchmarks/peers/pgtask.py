"""pgtask."""

import asyncio

from pgtask import Client, TaskRegistry, Worker

DISTRIBUTION = "pgtask"
SETTINGS = "100 handlers at once (best of 10, 100), 20 connections, notifications on"


class Contestant:
    def __init__(self, url, note):
        self._url = url
        self._worker = None
        self._tasks = tasks = TaskRegistry("default")

        @tasks.task("noop")
        async def noop(_, payload):
            note()

        @tasks.task("ten_steps")
        async def ten_steps(task, payload):
            note()
            for number in range(10):
                await task.step(f"step-{number}", nothing)

        async def nothing():
            return None

        self._noop, self._ten_steps = noop, ten_steps

    async def open(self):
        self._client = await Client.connect(self._url)

    async def install(self):
        await self._client.migrate()

    async def invoke(self):
        await self._client.enqueue(self._noop.request({"n": 1}))

    async def invoke_many(self, count):
        await self._client.enqueue_many([self._noop.request({"n": 1})] * count)

    async def invoke_steps(self, count):
        await self._client.enqueue_many([self._ten_steps.request({})] * count)

    async def work(self):
        worker = Worker(self._url, self._tasks, concurrency=100, max_query_connections=20)
        self._worker = worker
        self._working = asyncio.ensure_future(worker.run())

    work_steps = work

    async def unfinished(self):
        return (
            "SELECT EXISTS (SELECT FROM pgtask.tasks"
            " WHERE state::text IN ('pending', 'running', 'waiting'))"
        )

    async def close(self):
        if self._worker is not None:
            self._worker.shutdown()
            await self._working
