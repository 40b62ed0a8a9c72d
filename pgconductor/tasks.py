"""Tasks: what a service invokes, with or without having the handler at hand."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from datetime import datetime, timedelta
from typing import Any, Final, Generic, Protocol, TypeVar, overload

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from pgconductor.domain.invocations import DedupeScope, Invocation, Invoked
from pgconductor.domain.tasks import TaskOptions
from pgconductor.exceptions import InvalidInput, InvalidPayload
from pgconductor.handles import ExecutionHandle, Waiter
from pgconductor.runtime.codec import Codec
from pgconductor.runtime.context_waits import TaskContext
from pgconductor.runtime.handler import Handler

__all__ = [
    "AsyncHandler",
    "AsyncHandlerAlone",
    "Invoker",
    "PlainHandler",
    "PlainHandlerAlone",
    "Task",
    "TaskDecorator",
    "TaskRef",
]

P = TypeVar("P")
R = TypeVar("R")

AsyncHandler = Callable[[TaskContext, P], Coroutine[Any, Any, R]]
AsyncHandlerAlone = Callable[[TaskContext], Coroutine[Any, Any, R]]
PlainHandler = Callable[[TaskContext, P], R]
PlainHandlerAlone = Callable[[TaskContext], R]


#: What ``invocation`` is called with where nothing is asked for.
_NO_OPTIONS: Final = (None, None, 0, None, DedupeScope.UNFINISHED, False, None, None)


class Invoker(Waiter, Protocol):
    """What a task needs of its conductor."""

    @property
    def max_payload_bytes(self) -> int:
        """Largest payload, as JSON."""
        ...

    def check_queue_known(self, queue: str) -> str:
        """The queue, if it may be invoked into."""
        ...

    async def write(
        self, invocations: list[Invocation], session: AsyncSession | AsyncConnection | None
    ) -> list[Invoked]:
        """Write invocations, in the session's transaction or in one of their own."""
        ...

    def write_sync(self, invocations: list[Invocation], session: Session) -> list[Invoked]:
        """Write invocations in a sync session's transaction."""
        ...


class TaskRef(Generic[P, R]):
    """A task by name, typed, to be invoked where its handler is not at hand.

    Made by ``Conductor.task_ref()``. A :class:`Task` is one too.

    Args:
        options: Name, queue and limits.
        payload: How payloads are written.
        result: How results are read.
        invoker: The conductor.
        limits_known: Whether the limits in ``options`` are the task's own; otherwise the database
            takes them from what orchestrators have declared.
    """

    def __init__(
        self,
        options: TaskOptions,
        payload: Codec,
        result: Codec,
        invoker: Invoker,
        *,
        limits_known: bool = False,
    ) -> None:
        self.options = options
        self._payload = payload
        self._result = result
        self._invoker = invoker
        self._limits_known = limits_known
        self._template: Invocation | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.options.key!r}, queue={self.options.queue!r})"

    @property
    def name(self) -> str:
        """The task's name."""
        return self.options.key

    @property
    def queue(self) -> str:
        """Where its executions go unless told otherwise."""
        return self.options.queue

    @property
    def payload_codec(self) -> Codec:
        """How payloads are written and read."""
        return self._payload

    @property
    def result_codec(self) -> Codec:
        """How results are read."""
        return self._result

    def _encode(self, payload: Any) -> str | None:
        return self._payload.encode(payload, max_bytes=self._invoker.max_payload_bytes)

    def invocation(
        self,
        payload: Any = None,
        *,
        run_at: datetime | None = None,
        delay: timedelta | None = None,
        priority: int = 0,
        dedupe_key: str | None = None,
        dedupe_scope: DedupeScope | str = DedupeScope.UNFINISHED,
        dedupe_replace: bool = False,
        queue: str | None = None,
        max_attempts: int | None = None,
    ) -> Invocation:
        """An invocation to be given to :meth:`invoke_many`; nothing is written.

        Args:
            payload: Of the task's payload type.
            run_at: Not before this instant, which must have a time zone.
            delay: Not before this long from now, by the database's clock.
            priority: Higher is sooner, within what is due; -32767 to 32767.
            dedupe_key: While an execution of this task, queue and key is unfinished, it stands for
                this invocation, and no new one is made.
            dedupe_scope: ``"unfinished"``; ``"retained"`` to count finished executions too;
                ``"unstarted"`` to count only those that no worker has fetched yet, and that were
                invoked with this scope.
            dedupe_replace: With ``"unstarted"``: the execution that is there gets this payload, the
                earlier ``run_at`` of both, and the higher priority.
            queue: Another queue than the task's own.
            max_attempts: Another limit than the task's own.

        Raises:
            InvalidInput: Something is not acceptable; the message says what and why.
        """
        given = (
            *(run_at, delay, priority, dedupe_key, dedupe_scope),
            *(dedupe_replace, queue, max_attempts),
        )
        if given == _NO_OPTIONS and type(priority) is int and dedupe_replace is False:
            return self._plain().alike(self._encode(payload))
        try:
            scope = DedupeScope(dedupe_scope)
        except ValueError as error:
            raise InvalidInput(
                "dedupe_scope", "must be 'unfinished', 'retained' or 'unstarted'"
            ) from error
        return self._invocation(
            self._encode(payload),
            run_at=run_at,
            delay=delay,
            priority=priority,
            dedupe_key=dedupe_key,
            dedupe_scope=scope,
            dedupe_replace=dedupe_replace,
            queue=queue,
            max_attempts=max_attempts,
        )

    def _plain(self) -> Invocation:
        """An invocation without options, for others to be made like it."""
        if self._template is None:
            self._template = self._invocation(None)
        else:
            # Which queues are known may have changed.
            self._invoker.check_queue_known(self._template.queue)
        return self._template

    def _invocation(
        self,
        text: str | None,
        *,
        queue: str | None = None,
        max_attempts: int | None = None,
        **options: Any,
    ) -> Invocation:
        own = self.options
        return Invocation(
            task_key=own.key,
            payload=text,
            queue=self._invoker.check_queue_known(own.queue if queue is None else queue),
            max_attempts=own.max_attempts
            if max_attempts is None and self._limits_known
            else max_attempts,
            max_crashes=own.max_crashes if self._limits_known else None,
            **options,
        )

    async def invoke(
        self,
        payload: P | None = None,
        *,
        session: AsyncSession | AsyncConnection | None = None,
        run_at: datetime | None = None,
        delay: timedelta | None = None,
        priority: int = 0,
        dedupe_key: str | None = None,
        dedupe_scope: DedupeScope | str = DedupeScope.UNFINISHED,
        dedupe_replace: bool = False,
        queue: str | None = None,
        max_attempts: int | None = None,
    ) -> ExecutionHandle[R]:
        """Invoke the task.

        Args:
            payload: Of the task's payload type.
            session: An ``AsyncSession`` or ``AsyncConnection``: the execution is there exactly if
                the caller's transaction commits. None for a transaction of its own.
            run_at: See :meth:`invocation`, as for all that follows.
            delay: –
            priority: –
            dedupe_key: –
            dedupe_scope: –
            dedupe_replace: –
            queue: –
            max_attempts: –

        Returns:
            A handle of the execution.

        Raises:
            InvalidInput: Something is not acceptable; nothing was written.
            SchemaMissing: The database has no pgconductor schema.
        """
        invocation = self.invocation(
            payload,
            run_at=run_at,
            delay=delay,
            priority=priority,
            dedupe_key=dedupe_key,
            dedupe_scope=dedupe_scope,
            dedupe_replace=dedupe_replace,
            queue=queue,
            max_attempts=max_attempts,
        )
        (invoked,) = await self._invoker.write([invocation], session)
        return self._handle(invoked)

    async def invoke_many(
        self,
        payloads: Iterable[P | Invocation],
        *,
        session: AsyncSession | AsyncConnection | None = None,
    ) -> list[ExecutionHandle[R]]:
        """Invoke the task once for each payload, all in one transaction.

        Args:
            payloads: Payloads, or what :meth:`invocation` made of them with options; at most
                10,000.
            session: As for :meth:`invoke`.

        Returns:
            A handle for each, in the same order.

        Raises:
            InvalidInput: One of them is not acceptable; nothing was written. The message gives its
                position.
        """
        invocations: list[Invocation] = []
        plain: Invocation | None = None
        for position, one in enumerate(payloads):
            if isinstance(one, Invocation):
                if one.task_key != self.name:
                    raise InvalidInput(f"payloads[{position}]", f"is for task {one.task_key!r}")
                invocations.append(one)
                continue
            try:
                plain = plain or self._plain()
                invocations.append(plain.alike(self._encode(one)))
            except InvalidPayload as error:
                text = str(error).partition(": ")[2]
                raise InvalidPayload(text, f"payloads[{position}]") from error
        return [self._handle(one) for one in await self._invoker.write(invocations, session)]

    def invoke_sync(
        self,
        payload: P | None = None,
        *,
        session: Session,
        run_at: datetime | None = None,
        delay: timedelta | None = None,
        priority: int = 0,
        dedupe_key: str | None = None,
        dedupe_scope: DedupeScope | str = DedupeScope.UNFINISHED,
        dedupe_replace: bool = False,
        queue: str | None = None,
        max_attempts: int | None = None,
    ) -> ExecutionHandle[R]:
        """Invoke the task in a sync ``Session``, whose commit makes it visible.

        Args:
            payload: Of the task's payload type.
            session: A sync session, on psycopg for instance.
            run_at: See :meth:`invocation`, as for all that follows.
            delay: –
            priority: –
            dedupe_key: –
            dedupe_scope: –
            dedupe_replace: –
            queue: –
            max_attempts: –

        Returns:
            A handle; its methods are to be awaited.

        Raises:
            InvalidInput: Something is not acceptable; nothing was written.
        """
        invocation = self.invocation(
            payload,
            run_at=run_at,
            delay=delay,
            priority=priority,
            dedupe_key=dedupe_key,
            dedupe_scope=dedupe_scope,
            dedupe_replace=dedupe_replace,
            queue=queue,
            max_attempts=max_attempts,
        )
        (invoked,) = self._invoker.write_sync([invocation], session)
        return self._handle(invoked)

    def _handle(self, invoked: Invoked) -> ExecutionHandle[R]:
        return ExecutionHandle(invoked.id, self._invoker, self._result, created=invoked.created)


class Task(TaskRef[P, R]):
    """A task with its handler; made by ``@conductor.task``.

    Calling it calls the handler directly, as a test may: nothing is written.

    Args:
        options: Name, queue and limits.
        handler: The user's function, inspected.
        invoker: The conductor.
    """

    def __init__(self, options: TaskOptions, handler: Handler, invoker: Invoker) -> None:
        super().__init__(options, handler.payload, handler.result, invoker, limits_known=True)
        self.handler = handler
        self.__doc__ = handler.function.__doc__
        self.__name__ = getattr(handler.function, "__name__", options.key)

    @property
    def function(self) -> Callable[..., Any]:
        """The handler as the user wrote it."""
        return self.handler.function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the handler directly."""
        return self.handler.function(*args, **kwargs)

    def _encode(self, payload: Any) -> str | None:
        return self.handler.encode_payload(payload, max_bytes=self._invoker.max_payload_bytes)


class TaskDecorator(Protocol):
    """Makes a task of a handler, typed by the handler's hints."""

    @overload
    def __call__(self, function: AsyncHandler[P, R], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: AsyncHandlerAlone[R], /) -> Task[None, R]: ...
    @overload
    def __call__(self, function: PlainHandler[P, R], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: PlainHandlerAlone[R], /) -> Task[None, R]: ...
