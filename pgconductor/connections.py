"""A conductor's ways to its database, and what it closes at its end."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Protocol, Self

from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from pgconductor.domain.events import Emitted
from pgconductor.domain.invocations import Invocation, Invoked
from pgconductor.exceptions import ConfigurationError
from pgconductor.handles import FinishedWatch, Watch
from pgconductor.services.engines import bound_engine, check_driver, check_transactions
from pgconductor.services.executions import ExecutionService
from pgconductor.services.forked import disown_engine, in_forked_child
from pgconductor.services.invoking import InvocationWriter
from pgconductor.services.orchestrators import OrchestratorService
from pgconductor.services.pooling import OwnTransaction, Poolers, make_engine
from pgconductor.settings import Settings, normalise_url

__all__ = ["Connections", "Route"]


class Route(Protocol):
    """A way to a database, or to what stands for one in a test."""

    @property
    def engine(self) -> AsyncEngine:
        """The engine."""
        ...

    @property
    def sessionmaker(self) -> async_sessionmaker[AsyncSession]:
        """The sessionmaker."""
        ...

    @property
    def executions(self) -> ExecutionService:
        """Executions, each call committed by itself."""
        ...

    @property
    def orchestrators(self) -> OrchestratorService:
        """The registered orchestrators, each call in a transaction of its own."""
        ...

    def watch(self) -> Watch | None:
        """What tells handles that their execution has finished."""
        ...

    async def write(
        self, invocations: list[Invocation], session: AsyncSession | AsyncConnection | None
    ) -> list[Invoked]:
        """Write invocations, in the session's transaction or in one of their own."""
        ...

    def write_sync(self, invocations: list[Invocation], session: Session) -> list[Invoked]:
        """Write invocations in a sync session's transaction."""
        ...

    async def emit_text(
        self,
        name: str,
        payload: str | None,
        session: AsyncSession | AsyncConnection | None,
        dedupe_key: str | None = None,
    ) -> Emitted:
        """Emit an event whose payload is JSON text."""
        ...

    def emit_text_sync(
        self, name: str, payload: str | None, session: Session, dedupe_key: str | None = None
    ) -> Emitted:
        """Emit an event in a sync session's transaction."""
        ...


class Connections:
    """What a conductor opens, at first use, and closes; what it was given it never closes.

    A test may have it go another way for a while, by :meth:`rerouted`: the tasks and services of an
    application hold their conductor, which is usually one for the whole process, so it is here that
    all of them meet.

    Args:
        settings: All settings; the default reads the environment.
        database_url: The database's URL.
        engine: An ``AsyncEngine`` on asyncpg.
        sessionmaker: An ``async_sessionmaker`` that is bound to such an engine.

    Raises:
        ConfigurationError: There is more than one of them, or one cannot be used.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        database_url: str | None = None,
        engine: AsyncEngine | None = None,
        sessionmaker: async_sessionmaker[AsyncSession] | None = None,
    ) -> None:
        given = [one for one in (settings, database_url, engine, sessionmaker) if one is not None]
        if len(given) > 1:
            raise ConfigurationError(
                "give Conductor one of settings, database_url, engine and sessionmaker"
            )
        if database_url is not None:
            normalise_url(database_url)
            settings = Settings(database_url=SecretStr(database_url), direct_url=None)
        self.settings = settings or Settings()
        if sessionmaker is not None:
            engine = bound_engine(sessionmaker)
            check_transactions(sessionmaker)
        if engine is not None:
            check_driver(engine)
            check_transactions(engine)
        self._engine = engine
        self._owns_engine = engine is None
        self._sessionmaker = sessionmaker
        self._direct_engine: AsyncEngine | None = None
        self._executions: ExecutionService | None = None
        self._watch: FinishedWatch | None = None
        self._route: Route | None = None
        self._poolers = Poolers(self.settings.pooled)
        self._writer = InvocationWriter(
            engine=lambda: self.engine,
            has_database=lambda: bool(self._engine or self.settings.database_url),
            executions=lambda: self.executions,
            poolers=self._poolers,
            timeout=self.settings.command_timeout,
        )
        in_forked_child(self, Connections._disown)

    @property
    def max_payload_bytes(self) -> int:
        """Largest payload, as JSON."""
        return self.settings.max_payload_bytes

    @property
    def engine(self) -> AsyncEngine:
        """The engine: the one given, or one made at first use.

        Raises:
            ConfigurationError: There is no database URL.
        """
        if self._route is not None:
            return self._route.engine
        if self._engine is None:
            url, pooled = self.settings.require_url(), self.settings.pooled
            self._engine = make_engine(url, pooled=pooled, pool_pre_ping=True)
        return self._engine

    @property
    def sessionmaker(self) -> async_sessionmaker[AsyncSession]:
        """The sessionmaker: the one given, or one made at first use."""
        if self._route is not None:
            return self._route.sessionmaker
        if self._sessionmaker is None:
            self._sessionmaker = async_sessionmaker(self.engine, expire_on_commit=False)
        return self._sessionmaker

    @property
    def executions(self) -> ExecutionService:
        """Executions, each call committed by itself."""
        if self._route is not None:
            return self._route.executions
        if self._executions is None:
            # One statement a call: BEGIN and COMMIT would cost two more round trips.
            work = OwnTransaction(self.engine, self._poolers, level="AUTOCOMMIT")
            self._executions = ExecutionService(work, max_payload_bytes=self.max_payload_bytes)
        return self._executions

    @property
    def orchestrators(self) -> OrchestratorService:
        """The registered orchestrators, each call in a transaction of its own."""
        if self._route is not None:
            return self._route.orchestrators
        work = OwnTransaction(self.engine, self._poolers, level="READ COMMITTED")
        return OrchestratorService(work)

    async def write(
        self, invocations: list[Invocation], session: AsyncSession | AsyncConnection | None
    ) -> list[Invoked]:
        """Write invocations, in the session's transaction or in one of their own.

        Raises:
            WrongSession: The session is a sync one, or bound to another database.
        """
        return await (self._route or self._writer).write(invocations, session)

    def write_sync(self, invocations: list[Invocation], session: Session) -> list[Invoked]:
        """Write invocations in a sync session's transaction.

        Raises:
            WrongSession: The session is an async one, or bound to another database.
        """
        return (self._route or self._writer).write_sync(invocations, session)

    async def emit_text(
        self,
        name: str,
        payload: str | None,
        session: AsyncSession | AsyncConnection | None,
        dedupe_key: str | None = None,
    ) -> Emitted:
        """Emit an event whose payload is JSON text.

        Raises:
            WrongSession: The session is a sync one, or bound to another database.
        """
        return await (self._route or self._writer).emit_text(name, payload, session, dedupe_key)

    def emit_text_sync(
        self, name: str, payload: str | None, session: Session, dedupe_key: str | None = None
    ) -> Emitted:
        """Emit an event in a sync session's transaction.

        Raises:
            WrongSession: The session is an async one, or bound to another database.
        """
        return (self._route or self._writer).emit_text_sync(name, payload, session, dedupe_key)

    @contextmanager
    def rerouted(self, route: Route) -> Generator[None]:
        """Have everything go another way while inside, for tests.

        Args:
            route: The way. What was opened before is left as it is.

        Raises:
            ConfigurationError: It is rerouted already.
        """
        if self._route is not None:
            raise ConfigurationError("this conductor is rerouted already: one at a time")
        self._route = route
        try:
            yield
        finally:
            self._route = None

    async def close(self) -> None:
        """Close what the conductor has opened itself. It may be used again afterwards."""
        if self._watch is not None:
            watch, self._watch = self._watch, None
            await watch.aclose()
        await self._writer.aclose()
        if self._direct_engine is not None:
            direct, self._direct_engine = self._direct_engine, None
            await direct.dispose()
        if self._owns_engine and self._engine is not None:
            engine, self._engine, self._sessionmaker = self._engine, None, None
            self._executions = None
            await engine.dispose()

    def _disown(self) -> list[object]:
        """Give up what a forked child has inherited; it opens connections of its own."""
        engines = [one for one in (self._engine, self._direct_engine) if one is not None]
        watch, self._watch = self._watch, None
        return [watch, self._writer.disown(), *(disown_engine(one) for one in engines)]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _direct(self) -> AsyncEngine:
        """An engine that leads around any pooler, never to another database than was given."""
        if self.settings.direct_url is None or not self._owns_engine or self._route is not None:
            return self.engine
        if self._direct_engine is None:
            self._direct_engine = make_engine(self.settings.require_url(direct=True), pooled=None)
        return self._direct_engine

    def watch(self) -> Watch | None:
        """The listening connection of the handles, opened at first use."""
        if self._route is not None:
            return self._route.watch()
        if not self.settings.listen:
            return None
        if self._watch is None:
            self._watch = FinishedWatch(self._poolers.noted(self._direct()))
        return self._watch
