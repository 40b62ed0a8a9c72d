"""Databases for tests: one is migrated, and each test gets a clone of it."""

from __future__ import annotations

import asyncio
import inspect
import threading
import zlib
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar
from uuid import uuid4

from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from pgconductor.exceptions import ConfigurationError
from pgconductor.settings import normalise_url

__all__ = ["Templates"]

T = TypeVar("T")

#: Seconds that a migration or a clone may take.
_PATIENCE: Final = 120.0
_NAMESPACE: Final = 0x7067636F
_MAY_CREATE: Final = (
    "SELECT rolsuper OR rolcreatedb FROM pg_catalog.pg_roles WHERE rolname = current_user"
)


class Templates:
    """Migrates a template, once for all the processes of a test session, and clones it.

    Everything is blocking, and works below a running event loop too. Whoever uses the template has
    an advisory lock in common; the last one to close drops it.

    Args:
        server_url: A database to connect to, by a role that may create others.
        session: Names the test session; processes that give the same share a template.
        prepare: Called with the URL of the template once it is migrated, for instance to make the
            application's own tables; it may be async.

    Raises:
        ConfigurationError: The URL cannot be read, its server cannot be reached, or its role may
            not create databases.
    """

    def __init__(
        self, server_url: str, session: str, prepare: Callable[[str], Any] | None = None
    ) -> None:
        self._url: Final[URL] = normalise_url(server_url)
        self._prepare = prepare
        self.name: Final = f"pgconductor_template_{session}"
        self._key: Final = f"{_NAMESPACE}, {zlib.crc32(self.name.encode()) - 2**31}"
        self._strategy = ""
        self._made = False
        self._engine: Final[AsyncEngine] = create_async_engine(
            self._url, poolclass=NullPool, isolation_level="AUTOCOMMIT"
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._connection: AsyncConnection | None = None
        try:
            self._check()
        except BaseException:
            self._end()
            raise

    def url_for(self, database: str) -> str:
        """The URL of a database of this server."""
        return self._url.set(database=database).render_as_string(hide_password=False)

    def clone(self) -> str:
        """Make a fresh migrated database.

        Returns:
            Its URL.
        """
        if not self._made:
            self._make()
        name = f"pgconductor_test_{uuid4().hex[:16]}"
        self._command(f'CREATE DATABASE {name} TEMPLATE "{self.name}"{self._strategy}')
        return self.url_for(name)

    def drop(self, url: str) -> None:
        """Drop a database, and whatever is connected to it.

        Args:
            url: Its URL.
        """
        self._command(f'DROP DATABASE IF EXISTS "{normalise_url(url).database}" WITH (FORCE)')

    def close(self) -> None:
        """Drop the template, if nobody else uses it, and disconnect."""
        try:
            if self._made:
                self._command(f"SELECT pg_catalog.pg_advisory_unlock_shared({self._key})")
                if self._command(f"SELECT pg_catalog.pg_try_advisory_lock({self._key})"):
                    self._command(f'DROP DATABASE IF EXISTS "{self.name}" WITH (FORCE)')
        finally:
            self._end()

    def _check(self) -> None:
        try:
            may = self._command(_MAY_CREATE)
        except (DBAPIError, OSError, TimeoutError) as error:
            said = (error.orig or error) if isinstance(error, DBAPIError) else error
            # SQLAlchemy puts the driver's class before what it says.
            text = str(said).rpartition(">: ")[2] or "it does not answer"
            raise ConfigurationError(f"the database is out of reach: {text}") from None
        if not may:
            raise ConfigurationError("the role may not create databases: give it CREATEDB")

    def _end(self) -> None:
        try:
            self._wait(self._disconnect())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _make(self) -> None:
        self._command(f"SELECT pg_catalog.pg_advisory_lock({self._key})")
        try:
            there = "SELECT count(*) FROM pg_catalog.pg_database WHERE datname"
            if not self._command(f"{there} = '{self.name}'"):
                self._command(f'CREATE DATABASE "{self.name}"')
                try:
                    self._fill(self.url_for(self.name))
                except BaseException:
                    self._command(f'DROP DATABASE "{self.name}" WITH (FORCE)')
                    raise
            self._command(f"SELECT pg_catalog.pg_advisory_lock_shared({self._key})")
        finally:
            self._command(f"SELECT pg_catalog.pg_advisory_unlock({self._key})")
        # Copying files is faster, but waits for a disk that is synchronised.
        if self._command("SHOW fsync") == "off":
            self._strategy = " STRATEGY file_copy"
        self._made = True

    def _fill(self, url: str) -> None:
        # A thread of its own: Alembic's environment starts an event loop.
        with ThreadPoolExecutor(max_workers=1) as thread:
            thread.submit(_migrate, url).result()
        if self._prepare is not None:
            answer = self._prepare(url)
            if inspect.iscoroutine(answer):
                self._wait(answer)

    def _command(self, command: str) -> Any:
        """Carry out a command; returns the first value of its answer."""
        return self._wait(self._carry_out(command))

    async def _carry_out(self, command: str) -> Any:
        if self._connection is None:
            self._connection = await self._engine.connect()
        answer = await self._connection.exec_driver_sql(command)
        return answer.scalar() if answer.returns_rows else None

    async def _disconnect(self) -> None:
        if self._connection is not None:
            await self._connection.close()
        await self._engine.dispose()

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_PATIENCE)


def _migrate(url: str) -> None:
    from alembic import command

    from pgconductor.schema import alembic_config

    command.upgrade(alembic_config(url), "head")
