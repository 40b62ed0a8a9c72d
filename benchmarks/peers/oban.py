"""oban, on psycopg 3."""

from oban import Oban, worker
from oban.schema import install

DISTRIBUTION = "oban"
SETTINGS = (
    "500 handlers at once (best of 20, 100, 500), pool of 20, uvloop as its command line does"
)
UVLOOP = True

NOTE = []


@worker(queue="default")
class Noop:
    async def process(self, _):
        NOTE[0]()


class Contestant:
    def __init__(self, url, note):
        self._url = url
        self._server = None
        NOTE.append(note)

    async def open(self):
        self._pool = await Oban.create_pool(self._url, min_size=1, max_size=20)
        self._client = Oban(pool=self._pool, name="client")

    async def install(self):
        await install(self._pool)

    async def invoke(self):
        await self._client.enqueue(Noop.new({"n": 1}))

    async def invoke_many(self, count):
        await self._client.enqueue_many([Noop.new({"n": 1}) for _ in range(count)])

    async def work(self):
        self._server = Oban(pool=self._pool, queues={"default": 500})
        await self._server.start()

    async def unfinished(self):
        return (
            "SELECT EXISTS (SELECT FROM oban_jobs"
            " WHERE state IN ('available', 'executing', 'scheduled', 'retryable'))"
        )

    async def close(self):
        if self._server is not None:
            await self._server.stop()
        await self._pool.close()
