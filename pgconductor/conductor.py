"""The conductor: the registry of tasks, and where everything is put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType
from typing import Any, TypeVar, overload
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from pgconductor.connections import Connections
from pgconductor.domain.events import Emitted
from pgconductor.domain.limits import check_concurrency, check_id, check_queue
from pgconductor.domain.retention import Keep
from pgconductor.domain.retry import RetryPolicy
from pgconductor.domain.tasks import TaskOptions
from pgconductor.events import EventRef
from pgconductor.exceptions import ConfigurationError, UnknownQueue, UnknownTask
from pgconductor.handles import ExecutionHandle
from pgconductor.runtime.attempt import Runnable
from pgconductor.runtime.codec import Codec
from pgconductor.runtime.context_waits import checked_event
from pgconductor.runtime.handler import Handler
from pgconductor.runtime.orchestrator import Orchestrator
from pgconductor.services.backend import Backend
from pgconductor.settings import Settings
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


class Conductor(Connections):
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
        super().__init__(
            settings, database_url=database_url, engine=engine, sessionmaker=sessionmaker
        )
        self._tasks: dict[str, Task[Any, Any]] = {}

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
        Their types come from its hints. A plain function is called in a thread; if it returns
        something that can be awaited, that is awaited.

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
            own = name if isinstance(name, str) else _own_name(function)
            handler = Handler.of(function)
            kept = self.settings.retention.but(retain_completed, retain_failed)
            retrying = retry or RetryPolicy()
            options = TaskOptions(
                own, queue, max_attempts, max_crashes, timeout, retrying, retention=kept
            )
            if own in self._tasks:
                raise ConfigurationError(f"task {own!r} is declared twice; give one another name")
            declared: Task[Any, Any] = Task(options, handler, self)
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

    @overload
    def event(self, name: str, payload: type[P]) -> EventRef[P]: ...
    @overload
    def event(self, name: str, payload: Any = ...) -> EventRef[Any]: ...

    def event(self, name: str, payload: Any = Any) -> EventRef[Any]:
        """An event, typed: for ``emit`` here, and for handlers that wait for it.

        Args:
            name: Its name; it may hold what tells one case from another, as in ``paid:7``.
            payload: The type of its payload; plain JSON by default.

        Raises:
            InvalidName: It cannot name an event.
            ConfigurationError: Pydantic cannot handle the type, or its values would not come back.
        """
        return EventRef(name, Codec.of(payload, f"event {name}, payload"), self)

    async def emit(
        self,
        event: EventRef[Any] | str,
        payload: Any = None,
        *,
        session: AsyncSession | AsyncConnection | None = None,
        dedupe_key: str | None = None,
    ) -> Emitted:
        """Emit an event: executions that wait for it, now or later, take it.

        Args:
            event: The event, or its name.
            payload: Of the event's type; plain JSON for a name.
            session: An ``AsyncSession`` or ``AsyncConnection``: it is emitted exactly if the
                caller's transaction commits. None for a transaction of its own.
            dedupe_key: What tells the event from others of its name, for what may come twice: while
                an event of this name and key is kept (``retain_events``), it stands for this one,
                and nothing is emitted.

        Returns:
            Its id, and whether it is new.

        Raises:
            InvalidInput: The name or the payload is not acceptable; nothing was written.
        """
        return await self._event(event).emit(payload, session=session, dedupe_key=dedupe_key)

    def emit_sync(
        self,
        event: EventRef[Any] | str,
        payload: Any = None,
        *,
        session: Session,
        dedupe_key: str | None = None,
    ) -> Emitted:
        """Emit an event in a sync ``Session``: exactly if that commits.

        Args:
            event: The event, or its name.
            payload: Of the event's type; plain JSON for a name.
            session: A sync session, on psycopg for instance.
            dedupe_key: See :meth:`emit`.

        Returns:
            Its id, and whether it is new.

        Raises:
            InvalidInput: The name or the payload is not acceptable; nothing was written.
        """
        return self._event(event).emit_sync(payload, session=session, dedupe_key=dedupe_key)

    def _event(self, event: EventRef[Any] | str) -> EventRef[Any]:
        return self.event(event) if isinstance(event, str) else checked_event(event)

    def handle(self, execution_id: UUID) -> ExecutionHandle[Any]:
        """A handle of an execution whose id was kept; its result is plain JSON.

        Args:
            execution_id: Its id.

        Raises:
            InvalidInput: It is no UUID.
        """
        check_id(execution_id, "execution_id")
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


def _own_name(function: Any) -> str:
    """The name of a function that was given none.

    Raises:
        ConfigurationError: It has none that could be a task's.
    """
    if issubclass(type(function), Task):
        name = getattr(function, "name", "")
        raise ConfigurationError(f"{name!r} is a task already; declare its handler once")
    # A static method's is that of the function in it.
    inner = getattr(function, "__func__", function)
    own = getattr(inner, "__name__", "")
    if callable(function) and own in ("", "<lambda>"):
        raise ConfigurationError(
            f"{function!r} has no name of its own; give it one, as in conductor.task('name')(...)"
        )
    return own or repr(function)
