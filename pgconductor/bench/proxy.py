"""A proxy that counts round trips: how often the server said that it is ready for the next query.

It slows down what goes through it, so nothing is timed meanwhile.
"""

from __future__ import annotations

import asyncio
import struct
from types import TracebackType
from typing import Self

from sqlalchemy import URL

__all__ = ["CountingProxy", "ReadyCounter"]

_ENCRYPTION_REQUESTS = {80877103, 80877104}  # TLS and GSSAPI; both are declined
_READY = ord("Z")
_HEAD = 5


class ReadyCounter:
    """Finds ``ReadyForQuery`` in what a server sends, however it is cut into pieces."""

    def __init__(self) -> None:
        self.count = 0
        self._head = b""
        self._skip = 0

    def feed(self, piece: bytes) -> None:
        """Look through the next piece.

        Args:
            piece: Bytes as they came.
        """
        at = min(self._skip, len(piece))
        self._skip -= at
        while at < len(piece):
            missing = _HEAD - len(self._head)
            self._head += piece[at : at + missing]
            at += missing
            if len(self._head) < _HEAD:
                return
            kind, length = struct.unpack("!BI", self._head)
            self._head = b""
            self.count += kind == _READY
            step = min(length - 4, len(piece) - at)
            self._skip = length - 4 - step
            at += step


class CountingProxy:
    """Listens on a port of 127.0.0.1 and passes everything on to a server.

    Args:
        server: The URL of a database there.
    """

    def __init__(self, server: URL) -> None:
        self._server = server
        self._counters: list[ReadyCounter] = []
        self._pumps: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Server | None = None

    @property
    def round_trips(self) -> int:
        """Round trips so far; the end of each login is left out."""
        return sum(max(counter.count - 1, 0) for counter in self._counters)

    def url_of(self, url: URL) -> URL:
        """The same database by way of the proxy.

        Args:
            url: A database of the server.
        """
        if self._listening is None:
            raise RuntimeError("not entered")
        port = self._listening.sockets[0].getsockname()[1]
        bare = url.difference_update_query(["host", "port", "sslmode", "ssl"])
        return bare.set(host="127.0.0.1", port=port)

    async def __aenter__(self) -> Self:
        self._listening = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._listening is not None:
            self._listening.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        given = self._server.query
        host = str(given.get("host") or self._server.host or "127.0.0.1")
        port = int(str(given.get("port") or self._server.port or 5432))
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            first = await self._first_message(reader, writer)
            from_server, to_server = await self._connect()
        except (OSError, asyncio.IncompleteReadError):
            writer.close()
            return
        to_server.write(first)
        counter = ReadyCounter()
        self._counters.append(counter)
        for source, target, seen in (
            (reader, to_server, None),
            (from_server, writer, counter),
        ):
            pump = asyncio.create_task(self._pump(source, target, seen))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    @staticmethod
    async def _first_message(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        while True:
            head = await reader.readexactly(8)
            length, code = struct.unpack("!II", head)
            if code not in _ENCRYPTION_REQUESTS:
                return head + await reader.readexactly(length - 8)
            writer.write(b"N")

    @staticmethod
    async def _pump(
        source: asyncio.StreamReader, target: asyncio.StreamWriter, seen: ReadyCounter | None
    ) -> None:
        try:
            while piece := await source.read(65536):
                if seen is not None:
                    seen.feed(piece)
                target.write(piece)
                await target.drain()
        except OSError:
            return  # one side has gone, so the other may go
        finally:
            target.close()
