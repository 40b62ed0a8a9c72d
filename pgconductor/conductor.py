"""The conductor: the registry of tasks, and where everything is put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType
from typing import Any, TypeVar, overload
from uuid import UUID

from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from pgconductor.domain.invocations import Invocation, Invoked
from pgconductor.domain.limits import check_concurrency, check_queue
from pgconductor.domain.retention import Keep
from pgconductor.domain.retry import RetryPolicy
from pgconductor.domain.tasks import TaskOptions
from pgconductor.exceptions import ConfigurationError, UnknownQueue, UnknownTask
from pgconductor.handles import ExecutionHandle, FinishedWatch
from pgconductor.runtime.attempt import Runnable
from pgconductor.runtime.handler import Codec, Handler
from pgconductor.runtime.orchestrator import Orchestrator
from pgconductor.services.backend import Backend
from pgconductor.services.engines import bound_engine, check_driver
from pgconductor.services.executions import ExecutionService
from pgconductor.services.invoking import InvocationWriter
from pgconductor.services.orchestrators import OrchestratorService
from pgconductor.services.pooling import OwnTransaction, Poolers, make_engine
from pgconductor.settings import Settings, normalise_url
from pgconductor.tasks import (
    AsyncHandler,
    AsyncHandlerAlone,
    PlainHandler,
    PlainHandlerAlone,
    Task,
    TaskDecorator,
    TaskRef,
)

__all__ = ["Conductor"]

P = TypeVar("P")
R = TypeVar("R")


class Conductor:
    """Declares tasks, invokes them, and makes orchestrators that execute them.

    Give it one argument or none. What it is given it never closes; what it makes itself is closed
    by :meth:`close`, or at the end of ``async with``.

    Args:
        settings: All settings; the default reads the environment (``PGCONDUCTOR_…``).
        database_url: The database's URL; any driver may be named, asyncpg is used.
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
        if engine is not None:
            check_driver(engine)
        self._engine = engine
        self._owns_engine = engine is None
        self._sessionmaker = sessionmaker
        self._direct_engine: AsyncEngine | None = None
        self._executions: ExecutionService | None = None
        self._watch: FinishedWatch | None = None
        self._poolers = Poolers(self.settings.pooled)
        self._writer = InvocationWriter(
            engine=lambda: self.engine,
            has_database=lambda: bool(self._engine or self.settings.database_url),
            executions=lambda: self.executions,
            poolers=self._poolers,
            timeout=self.settings.command_timeout,
        )
        self._tasks: dict[str, Task[Any, Any]] = {}

    # The database.

    @property
    def engine(self) -> AsyncEngine:
        """The engine: the one given, or one made at first use.

        Raises:
            ConfigurationError: There is no database URL.
        """
        if self._engine is None:
            url, pooled = self.settings.require_url(), self.settings.pooled
            self._engine = make_engine(url, pooled=pooled, pool_pre_ping=True)
        return self._engine

    @property
    def sessionmaker(self) -> async_sessionmaker[AsyncSession]:
        """The sessionmaker: the one given, or one made at first use."""
        if self._sessionmaker is None:
            self._sessionmaker = async_sessionmaker(self.engine, expire_on_commit=False)
        return self._sessionmaker

    @property
    def executions(self) -> ExecutionService:
        """Executions, each call committed by itself."""
        if self._executions is None:
            # One statement a call: BEGIN and COMMIT would cost two more round trips.
            work = OwnTransaction(self.engine, self._poolers, level="AUTOCOMMIT")
            self._executions = ExecutionService(work, max_payload_bytes=self.max_payload_bytes)
        return self._executions

    @property
    def orchestrators(self) -> OrchestratorService:
        """The registered orchestrators, each call in a transaction of its own."""
        work = OwnTransaction(self.engine, self._poolers, level="READ COMMITTED")
        return OrchestratorService(work)

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

    async def __aenter__(self) -> Conductor:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _direct(self) -> AsyncEngine:
        """An engine that leads around any pooler, never to another database than was given."""
        if self.settings.direct_url is None or not self._owns_engine:
            return self.engine
        if self._direct_engine is None:
            self._direct_engine = make_engine(self.settings.require_url(direct=True), pooled=None)
        return self._direct_engine

    # The registry.

    @property
    def tasks(self) -> Mapping[str, Task[Any, Any]]:
        """The declared tasks, by name."""
        return MappingProxyType(self._tasks)

    @property
    def queues(self) -> tuple[str, ...]:
        """The queues that the declared tasks go to, sorted."""
        return tuple(sorted({task.queue for task in self._tasks.values()}))

    @overload
    def task(self, name: AsyncHandler[P, R], /) -> Task[P, R]: ...
    @overload
    def task(self, name: AsyncHandlerAlone[R], /) -> Task[None, R]: ...
    @overload
    def task(self, name: PlainHandler[P, R], /) -> Task[P, R]: ...
    @overload
    def task(self, name: PlainHandlerAlone[R], /) -> Task[None, R]: ...
    @overload
    def task(
        self,
        name: str | None = None,
        *,
        queue: str = "default",
        max_attempts: int = 3,
        max_crashes: int = 3,
        retry: RetryPolicy | None = None,
        timeout: timedelta | None = None,
        retain_completed: Keep | None = None,
        retain_failed: Keep | None = None,
    ) -> TaskDecorator: ...

    def task(
        self,
        name: str | Callable[..., Any] | None = None,
        *,
        queue: str = "default",
        max_attempts: int = 3,
        max_crashes: int = 3,
        retry: RetryPolicy | None = None,
        timeout: timedelta | None = None,
        retain_completed: Keep | None = None,
        retain_failed: Keep | None = None,
    ) -> Any:
        """Declare a function as a task.

        The function takes a :class:`~pgconductor.TaskContext` and, if it wants one, a payload.
        Their types come from its hints. A plain function is called in a thread.

        Args:
            name: The task's name; the default is the function's own.
            queue: Where its executions go.
            max_attempts: How often an execution may be tried.
            max_crashes: How often an execution may take its process down before it fails; 1 for a
                task that must not be executed again after a crash.
            retry: When a failed attempt is tried again; the default is 15 seconds, growing to two
                hours.
            timeout: How long an attempt may take.
            retain_completed: How long completed executions are kept, or ``"forever"``; the default
                is the setting.
            retain_failed: The same for failed and cancelled ones.

        Returns:
            A decorator, which makes a :class:`~pgconductor.Task` of the function.

        Raises:
            InvalidInput: An option is out of range.
            ConfigurationError: The function cannot be a handler, or the name is taken.
        """

        def declare(function: Callable[..., Any]) -> Task[Any, Any]:
            own = getattr(function, "__name__", "") if not isinstance(name, str) else name
            kept = self.settings.retention.but(retain_completed, retain_failed)
            retrying = retry or RetryPolicy()
            options = TaskOptions(
                own, queue, max_attempts, max_crashes, timeout, retrying, retention=kept
            )
            if own in self._tasks:
                raise ConfigurationError(f"task {own!r} is declared twice; give one another name")
            declared: Task[Any, Any] = Task(options, Handler.of(function), self)
            self._tasks[own] = declared
            return declared

        if callable(name):
            return declare(name)
        return declare

    @overload
    def task_ref(
        self, name: str, *, queue: str = ..., payload: type[P], result: type[R]
    ) -> TaskRef[P, R]: ...
    @overload
    def task_ref(self, name: str, *, queue: str = ..., payload: type[P]) -> TaskRef[P, Any]: ...
    @overload
    def task_ref(self, name: str, *, queue: str = ..., result: type[R]) -> TaskRef[Any, R]: ...
    @overload
    def task_ref(
        self, name: str, *, queue: str = ..., payload: Any = ..., result: Any = ...
    ) -> TaskRef[Any, Any]: ...

    def task_ref(
        self, name: str, *, queue: str = "default", payload: Any = Any, result: Any = Any
    ) -> TaskRef[Any, Any]:
        """A task whose handler lives in another service.

        Args:
            name: Its name there.
            queue: Its queue there.
            payload: The type of its payload; plain JSON by default.
            result: The type of its result; plain JSON by default.
        """
        options = TaskOptions(name, queue)
        return TaskRef(
            options,
            Codec.of(payload, f"{name}, payload"),
            Codec.of(result, f"{name}, result"),
            self,
        )

    def get_task(self, name: str) -> Task[Any, Any]:
        """A declared task by its name.

        Raises:
            UnknownTask: None is declared of that name.
        """
        if name not in self._tasks:
            raise UnknownTask(name, tuple(self._tasks))
        return self._tasks[name]

    # Invoking, for tasks and handles.

    @property
    def max_payload_bytes(self) -> int:
        """Largest payload, as JSON."""
        return self.settings.max_payload_bytes

    def check_queue_known(self, queue: str) -> str:
        """Return ``queue`` if it may be invoked into.

        Raises:
            InvalidName: It cannot name a queue.
            UnknownQueue: Queues are strict and no task declares it.
        """
        check_queue(queue)
        if self.settings.strict_queues and queue not in self.queues:
            raise UnknownQueue(queue, self.queues)
        return queue

    async def write(
        self, invocations: list[Invocation], session: AsyncSession | AsyncConnection | None
    ) -> list[Invoked]:
        """Write invocations, in the session's transaction or in one of their own.

        Raises:
            WrongSession: The session is a sync one, or bound to another database.
        """
        return await self._writer.write(invocations, session)

    def write_sync(self, invocations: list[Invocation], session: Session) -> list[Invoked]:
        """Write invocations in a sync session's transaction.

        Raises:
            WrongSession: The session is an async one, or bound to another database.
        """
        return self._writer.write_sync(invocations, session)

    def watch(self) -> FinishedWatch | None:
        """The listening connection of the handles, opened at first use."""
        if not self.settings.listen:
            return None
        if self._watch is None:
            self._watch = FinishedWatch(self._poolers.noted(self._direct()))
        return self._watch

    def handle(self, execution_id: UUID) -> ExecutionHandle[Any]:
        """A handle of an execution whose id was kept; its result is plain JSON.

        Args:
            execution_id: Its id.
        """
        return ExecutionHandle(execution_id, self, Codec())

    # Executing.

    def orchestrator(
        self, queues: Sequence[str] | None = None, concurrency: int | None = None
    ) -> Orchestrator:
        """An orchestrator that executes the declared tasks.

        Args:
            queues: The queues to serve; the default is those of the declared tasks, and
                ``default``.
            concurrency: How many handlers for each queue at once; the default is the setting.

        Raises:
            ConfigurationError: No task is declared.
            InvalidInput: A queue's name or the concurrency is not acceptable.
        """
        if not self._tasks:
            raise ConfigurationError("no task is declared on this conductor: nothing to execute")
        if isinstance(queues, str):
            raise ConfigurationError(f"queues must be a sequence of names, as in [{queues!r}]")
        served = ["default", *self.queues] if queues is None else [check_queue(q) for q in queues]
        return Orchestrator(
            lambda: Backend(
                self._poolers.noted(self.engine),
                direct_engine=self._poolers.noted(self._direct()),
                command_timeout=self.settings.command_timeout,
                sessions=self.sessionmaker,
            ),
            self.settings,
            {name: Runnable(task.options, task.handler) for name, task in self._tasks.items()},
            queues=served,
            concurrency=check_concurrency(concurrency, self.settings.concurrency),
        )
