"""A TCP proxy in front of Postgres that breaks connections on demand."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from sqlalchemy import make_url

Direction = Literal["to_server", "to_client"]
# Decides about a chunk that is about to pass: how many of its bytes still pass before the
# connection is reset, or None to let it go.
Rule = Callable[["Link", Direction, bytes], int | None]


class Link:
    """One client's connection and the proxy's own one to the server."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._writers = {"to_client": client, "to_server": server}

    async def forward(self, direction: Direction, data: bytes) -> None:
        writer = self._writers[direction]
        writer.write(data)
        await writer.drain()

    def end(self, direction: Direction) -> None:
        writer = self._writers[direction]
        with suppress(OSError, RuntimeError):
            if writer.can_write_eof() and not writer.is_closing():
                writer.write_eof()

    def reset(self) -> None:
        """Cut both sides without a goodbye: TCP sees a reset."""
        for writer in self._writers.values():
            raw = writer.get_extra_info("socket")
            if raw is not None and raw.family != socket.AF_UNIX:
                with suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


class TcpProxy:
    """Listens on 127.0.0.1 and passes bytes to a server, until told to misbehave.

    ``async with TcpProxy.before(url) as proxy: create_async_engine(proxy.url)``
    """

    def __init__(self, upstream: Path | tuple[str, int], url: str = "") -> None:
        self._upstream = upstream
        self._url = url
        self._listener: asyncio.Server | None = None
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._rules: list[Rule] = []
        self._resets = 0
        self.delay = 0.0
        self.port = 0
        self.cuts = 0

    @classmethod
    def before(cls, url: str) -> Self:
        """A proxy before the server of a SQLAlchemy URL, on TCP or a Unix socket."""
        parsed = make_url(url)
        host = parsed.host or parsed.query.get("host")
        port = parsed.port or int(str(parsed.query.get("port", 5432)))
        assert isinstance(host, str)
        upstream = Path(host) / f".s.PGSQL.{port}" if host.startswith("/") else (host, port)
        return cls(upstream, url)

    @property
    def url(self) -> str:
        """The URL that the proxy was made for, by way of the proxy."""
        query = {k: v for k, v in make_url(self._url).query.items() if k not in {"host", "port"}}
        url = make_url(self._url).set(host="127.0.0.1", port=self.port, query=query)
        return url.render_as_string(hide_password=False)

    @property
    def connections(self) -> int:
        """How many connections pass at the moment."""
        return len(self._links)

    # --- faults ------------------------------------------------------------------------------

    def reset(self) -> None:
        """Reset every connection, also one that is being made; new ones are served."""
        self._resets += 1
        for link in list(self._links):
            link.reset()

    def swallow(self) -> None:
        """Let nothing through, not even the end of a connection, and refuse nothing.

        What was sent meanwhile arrives after ``resume``, as it does when a cut network heals.
        """
        self._open.clear()

    def resume(self) -> None:
        """End ``swallow``."""
        self._open.set()

    async def refuse(self) -> None:
        """Refuse new connections; those that are open carry on."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            await asyncio.sleep(0)

    async def accept(self) -> None:
        """End ``refuse``; the port stays the same."""
        if self._listener is None:
            self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
            self.port = self._listener.sockets[0].getsockname()[1]

    def cut_after(self, count: int, direction: Direction = "to_client") -> None:
        """Reset the connection on which the n-th byte from now passes in a direction.

        Exactly that many bytes pass. The rule applies once.
        """
        left = count

        def rule(_link: Link, way: Direction, data: bytes) -> int | None:
            nonlocal left
            if way != direction:
                return None
            if len(data) >= left:
                return left
            left -= len(data)
            return None

        self._rules.append(rule)

    def cut_before(self, pattern: bytes) -> None:
        """Reset the connection whose client sends this, before the server gets any of it.

        The pattern must lie within one chunk: a short statement does. The rule applies once.
        """

        def rule(_link: Link, way: Direction, data: bytes) -> int | None:
            return 0 if way == "to_server" and pattern in data else None

        self._rules.append(rule)

    def lose_reply_to(self, pattern: bytes) -> None:
        """Let this pass to the server, and reset the connection when the server answers it.

        After ``lose_reply_to(b"COMMIT")`` the commit has happened, and the client does not know.
        The rule applies once.
        """
        asked: set[Link] = set()

        def rule(link: Link, way: Direction, data: bytes) -> int | None:
            if way == "to_server" and pattern in data and not asked:
                asked.add(link)
            return 0 if way == "to_client" and link in asked else None

        self._rules.append(rule)

    # --- work --------------------------------------------------------------------------------

    def watch(self, see: Callable[[bytes], object], direction: Direction) -> None:
        """Have every chunk of one direction shown before it passes."""

        def rule(_link: Link, way: Direction, data: bytes) -> int | None:
            if way == direction:
                see(data)
            return None

        self._rules.append(rule)

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.refuse()
        self.reset()
        self._open.set()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._pass(reader, writer)
        except asyncio.CancelledError:
            pass  # By our own end; asyncio would log a handler that ends as cancelled.
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        resets = self._resets
        await self._open.wait()
        try:
            if isinstance(self._upstream, Path):
                far_reader, far_writer = await asyncio.open_unix_connection(self._upstream)
            else:
                far_reader, far_writer = await asyncio.open_connection(*self._upstream)
        except OSError:
            return  # As if the server itself had refused.
        if resets != self._resets:
            far_writer.transport.abort()
            return
        link = Link(writer, far_writer)
        self._links.add(link)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(link, reader, "to_server"))
                both.create_task(self._pump(link, far_reader, "to_client"))
        finally:
            self._links.discard(link)
            far_writer.transport.abort()

    async def _pump(self, link: Link, reader: asyncio.StreamReader, direction: Direction) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                await self._open.wait()
                allowed = self._allowed(link, direction, data)
                await link.forward(direction, data[:allowed])
                if allowed is not None:
                    self.cuts += 1
                    link.reset()
                    return
            await self._open.wait()
            link.end(direction)

    def _allowed(self, link: Link, direction: Direction, data: bytes) -> int | None:
        for rule in self._rules:
            allowed = rule(link, direction, data)
            if allowed is not None:
                self._rules.remove(rule)
                return allowed
        return None
