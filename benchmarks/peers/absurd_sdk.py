"""absurd, whose engine is SQL functions."""

import asyncio

import psycopg
from absurd_sdk import AsyncAbsurd
from absurdctl import BUNDLED_SCHEMA_SQL  # the SDK does not carry its schema

DISTRIBUTION = "absurd-sdk"
SETTINGS = (
    "claims of 100 (best of 10, 100), polled each 0.25 s when idle, as its defaults are;"
    " it has no call for many, so a bulk is as many calls in one transaction"
)


class Contestant:
    def __init__(self, url, note):
        self._url = url
        self._worker = None
        self._note = note

    async def open(self):
        self._connection = await psycopg.AsyncConnection.connect(self._url, autocommit=True)
        self._client = self._made(self._connection)

    def _made(self, where):
        client = AsyncAbsurd(where, queue_name="default")

        @client.register_task(name="noop")
        async def noop(params, ctx):
            self._note()

        @client.register_task(name="ten_steps")
        async def ten_steps(params, ctx):
            self._note()
            for number in range(10):
                await ctx.step(f"step-{number}", nothing)

        async def nothing():
            return None

        return client

    async def install(self):
        await self._connection.execute(BUNDLED_SCHEMA_SQL)
        await self._client.create_queue()

    async def invoke(self):
        await self._client.spawn("noop", {"n": 1})

    async def invoke_many(self, count):
        async with self._connection.transaction():
            for _ in range(count):
                await self._client.spawn("noop", {"n": 1})

    async def invoke_steps(self, count):
        async with self._connection.transaction():
            for _ in range(count):
                await self._client.spawn("ten_steps", {})

    async def work(self):
        self._worker = self._made(self._url)
        self._working = asyncio.create_task(self._worker.start_worker(concurrency=100))

    work_steps = work

    async def unfinished(self):
        return (
            "SELECT EXISTS (SELECT FROM absurd.t_default"
            " WHERE state NOT IN ('completed', 'failed', 'cancelled'))"
        )

    async def close(self):
        if self._worker is not None:
            self._worker.stop_worker()
            await self._working
        await self._connection.close()
