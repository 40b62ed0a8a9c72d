"""LISTEN on a connection that is kept, watched, and opened again when it is lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from pgconductor.domain.backoff import Backoff
from pgconductor.domain.ids import new_id
from pgconductor.repositories.errors import is_transient
from pgconductor.services.pooling import is_pooled

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

__all__ = ["AVAILABLE", "CONTROL", "FINISHED", "WAITS", "Listener"]

#: A queue has something that is due; the payload is its name.
AVAILABLE: Final = "pgconductor_available"
#: An orchestrator should beat at once; the payload is its id.
CONTROL: Final = "pgconductor_control"
#: An execution that somebody waits for has finished; the payload is its id.
FINISHED: Final = "pgconductor_finished"
#: Waits may have come to their end.
WAITS: Final = "pgconductor_waits"
_PROBE: Final = "pgconductor_probe"

logger = logging.getLogger("pgconductor.listener")


#: As pgconductor.notify() has it: above, nobody is notified.
_NEARLY_FULL: Final = 0.9


class _PooledError(Exception):
    """Nothing can be heard on this connection."""


class Listener:
    """Calls back for each notification, and whenever some may have been missed.

    The connection is probed by a notification to itself: a half-open connection is silent for
    hours, and a transaction pooler accepts LISTEN and delivers nothing. Where a pooler is noticed,
    nobody listens at all.

    Args:
        engine: Where the connection comes from; it must lead around any pooler.
        channels: What to listen to.
        on_notify: Called with channel and payload.
        on_restored: Called after each connect: look for yourself, something may have been missed.
        probe_interval: Seconds between two probes.
        timeout: Seconds that connecting, or the answer to a probe, may take.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        channels: Sequence[str],
        on_notify: Callable[[str, str], None],
        on_restored: Callable[[], None],
        *,
        probe_interval: float = 10.0,
        timeout: float = 5.0,
    ) -> None:
        self._engine = engine
        self._channels = (*channels, _PROBE)
        self._on_notify = on_notify
        self._on_restored = on_restored
        self._probe_interval = probe_interval
        self._timeout = timeout
        self._probe = ""
        self._warned = False
        self._full = False
        self._answered = asyncio.Event()
        self._lost = asyncio.Event()
        #: Whether the last probe was answered, so that waiting for a notification makes sense.
        self.healthy = asyncio.Event()

    async def run(self) -> None:
        """Listen until cancelled; connect again, with growing pauses, whenever it breaks.

        It returns if the connection leads through a pooler.
        """
        backoff = Backoff()
        while True:
            try:
                await self._listen(backoff)
            except _PooledError:
                logger.warning(
                    "a pooler is between, through which no notifications come: polling goes on; "
                    "direct_url may lead around it"
                )
                return
            except Exception as error:
                if not is_transient(error):
                    logger.exception("listening failed; polling goes on")
                else:
                    # Once an outage: behind a pooler that delivers nothing it would never end.
                    level = logging.DEBUG if self._warned else logging.WARNING
                    self._warned = True
                    what = str(error) or type(error).__name__
                    logger.log(level, "no notifications (%s); polling goes on", what)
            finally:
                self.healthy.clear()
            await asyncio.sleep(backoff.next())

    async def _listen(self, backoff: Backoff) -> None:
        self._lost.clear()
        async with asyncio.timeout(self._timeout):
            connection = await self._engine.connect()
        try:
            if is_pooled(connection):
                raise _PooledError
            driver = await self._subscribe(connection)
            while not self._lost.is_set():
                if not await self._check(driver):
                    self.healthy.clear()
                elif not self.healthy.is_set():
                    self.healthy.set()
                    backoff.reset()
                    self._warned = False
                    self._on_restored()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._probe_interval):
                        await self._lost.wait()
            raise ConnectionResetError("the server closed the listening connection")
        finally:
            await asyncio.shield(_end(connection))

    async def _subscribe(self, connection: AsyncConnection) -> Any:
        raw = await connection.get_raw_connection()
        driver: Any = raw.driver_connection
        driver.add_termination_listener(self._end)
        async with asyncio.timeout(self._timeout):
            for channel in self._channels:
                await driver.add_listener(channel, self._receive)
        return driver

    async def _check(self, driver: Any) -> bool:
        """Whether notifications come; not while the server's queue of them is nearly full.

        Raises:
            TimeoutError: None came, and the queue is not why.
        """
        self._probe = str(new_id())
        self._answered.clear()
        async with asyncio.timeout(self._timeout):
            usage = await driver.fetchval("SELECT pg_catalog.pg_notification_queue_usage()")
            if usage >= _NEARLY_FULL:
                self._tell_full(usage)
                return False
            await driver.execute("SELECT pg_catalog.pg_notify($1, $2)", _PROBE, self._probe)
            await self._answered.wait()
        self._full = False
        return True

    def _tell_full(self, usage: float) -> None:
        if not self._full:
            self._full = True
            logger.error(
                "the server's queue of notifications is %.0f%% full: nobody is notified, polling "
                "goes on. Some session listens and does not end its transaction; the server's log "
                "names it, pgconductor doctor may: pg_terminate_backend() ends it",
                usage * 100,
            )

    def _end(self, _connection: object) -> None:
        self._lost.set()

    def _receive(self, _connection: object, _pid: int, channel: str, payload: object) -> None:
        if channel != _PROBE:
            self._on_notify(channel, str(payload))
        elif payload == self._probe:
            self._answered.set()


async def _end(connection: AsyncConnection) -> None:
    # Not returned to the pool: it still listens.
    if not connection.closed and not connection.invalidated:
        await connection.invalidate()
    await connection.close()
