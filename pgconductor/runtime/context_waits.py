"""What a handler is given."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload
from uuid import UUID

from pgconductor.domain.payloads import encode
from pgconductor.exceptions import InvalidInput
from pgconductor.runtime.codec import Codec
from pgconductor.runtime.context_steps import StepContext

if TYPE_CHECKING:
    from pgconductor.events import EventRef
    from pgconductor.tasks import TaskRef
    from pgconductor.types import First

__all__ = ["TaskContext", "checked_event"]

P = TypeVar("P")
R = TypeVar("R")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")


class TaskContext(StepContext):
    """An attempt of an execution, as its handler sees it. Handlers do not make one.

    Everything with a key is remembered: a later attempt goes on behind it. While nothing but waits
    is left of a handler, it takes up no slot of its worker; if what it waits for does not come
    within ``suspend_after``, it leaves memory, and another attempt goes on from there, which costs
    none of the execution's attempts.
    """

    __slots__ = ()

    async def sleep(self, key: str, delay: timedelta) -> None:
        """Go on after a while, by the database's clock; nothing is held meanwhile.

        Args:
            key: Its name, as for :meth:`step`.
            delay: How long, from the first time that it is reached.

        Raises:
            InvalidInput: The delay is negative, or longer than ten years.
            DuplicateStep: The key was taken already in this attempt.
            ReplayMismatch: Something else is on record: the handler was changed.
            OwnershipLost: The execution is held by somebody else by now.
        """
        await self._durable().durable.sleep(key, delay=delay)

    async def sleep_until(self, key: str, until: datetime) -> None:
        """Go on at an instant, by the database's clock; nothing is held meanwhile.

        Args:
            key: Its name, as for :meth:`step`.
            until: When, with a time zone; what is past is no wait. What was given the first time
                stands.

        Raises:
            NaiveDatetime: It has no time zone.
            DuplicateStep: As for :meth:`sleep`, as is what follows.
        """
        await self._durable().durable.sleep(key, until=until)

    async def invoke(
        self,
        key: str,
        task: TaskRef[P, R],
        payload: P | None = None,
        /,
        *,
        timeout: timedelta | None = None,
        cancel_late: bool = True,
        queue: str | None = None,
        priority: int = 0,
        max_attempts: int | None = None,
    ) -> R:
        """Invoke another execution, a child, and wait for its result.

        It is invoked once, whatever happens to this process. Several at once are waited for by
        ``asyncio.gather`` or a ``TaskGroup``. If this execution is cancelled, so are the children
        that it waits for.

        Args:
            key: Its name, as for :meth:`step`.
            task: What to invoke.
            payload: Of the task's payload type.
            timeout: How long to wait, by the database's clock; None for no limit.
            cancel_late: Cancel a child that has not ended by then.
            queue: Another queue than the task's own.
            priority: Higher is sooner.
            max_attempts: Another limit than the task's own.

        Returns:
            What its handler returned.

        Raises:
            ChildFailed: It has failed.
            ChildCancelled: It was cancelled.
            WaitTimeout: It did not end in time.
            InvalidInput: The payload or an option is not acceptable.
            DuplicateStep: The key was taken already in this attempt.
            ReplayMismatch: Something else is on record: the handler was changed.
            OwnershipLost: The execution is held by somebody else by now.
        """
        result: R = await self._durable().durable.child(
            key,
            _checked(task).result_codec,
            lambda: task.invocation(
                payload, queue=queue, priority=priority, max_attempts=max_attempts
            ),
            task.name,
            timeout=timeout,
            cancel_late=cancel_late,
        )
        return result

    async def spawn(
        self,
        key: str,
        task: TaskRef[P, Any],
        payload: P | None = None,
        /,
        *,
        run_at: datetime | None = None,
        delay: timedelta | None = None,
        queue: str | None = None,
        priority: int = 0,
        max_attempts: int | None = None,
    ) -> UUID:
        """Invoke another execution once, and do not wait for it.

        It goes its own way: it is not cancelled with this one.

        Args:
            key: Its name, as for :meth:`step`.
            task: What to invoke.
            payload: Of the task's payload type.
            run_at: Not before this instant.
            delay: Not before this long from now.
            queue: Another queue than the task's own.
            priority: Higher is sooner.
            max_attempts: Another limit than the task's own.

        Returns:
            Its id.

        Raises:
            InvalidInput: The payload or an option is not acceptable.
            DuplicateStep: As for :meth:`invoke`, as is what follows.
        """
        return await self._durable().durable.spawn(
            key,
            lambda: task.invocation(
                payload,
                run_at=run_at,
                delay=delay,
                queue=queue,
                priority=priority,
                max_attempts=max_attempts,
            ),
            _checked(task).name,
        )

    @overload
    async def wait_for(
        self, key: str, event: EventRef[P], *, match: Any = None, timeout: timedelta | None = None
    ) -> P: ...
    @overload
    async def wait_for(
        self, key: str, event: str, *, match: Any = None, timeout: timedelta | None = None
    ) -> Any: ...

    async def wait_for(
        self,
        key: str,
        event: EventRef[Any] | str,
        *,
        match: Any = None,
        timeout: timedelta | None = None,
    ) -> Any:
        """Wait for an event; nothing is held meanwhile.

        It takes the first event of that name that was emitted since this execution was invoked,
        that matches, and that no other wait of this execution has taken: also one that was emitted
        before the wait began.

        Args:
            key: Its name, as for :meth:`step`.
            event: The event, or its name.
            match: What its payload must contain, as jsonb's ``@>`` has it, for instance
                ``{"order": 7}``; None for any.
            timeout: How long to wait, by the database's clock; None for no limit.

        Returns:
            Its payload.

        Raises:
            WaitTimeout: It did not come in time.
            InvalidInput: The name or the match is not acceptable.
            DuplicateStep: As for :meth:`invoke`, as is what follows.
        """
        if isinstance(event, str):
            name, codec = event, Codec()
        else:
            name, codec = checked_event(event).name, event.codec
        return await self._durable().durable.event(key, name, codec, match=match, timeout=timeout)

    @overload
    async def emit(self, event: EventRef[P], payload: P, *, key: str | None = None) -> None: ...
    @overload
    async def emit(self, event: str, payload: Any = None, *, key: str | None = None) -> None: ...

    async def emit(
        self, event: EventRef[Any] | str, payload: Any = None, *, key: str | None = None
    ) -> None:
        """Emit an event once: a later attempt does not emit it again.

        Args:
            event: The event, or its name.
            payload: Of the event's type; plain JSON for a name.
            key: Its name, as for :meth:`step`; the default is the event's, numbered. Where
                several branches emit an event, each needs a key.

        Raises:
            InvalidInput: The name or the payload is not acceptable.
            DuplicateStep: As for :meth:`invoke`, as is what follows.
        """
        tools = self._durable()
        if isinstance(event, str):
            name = event
            text = None if payload is None else encode(payload, max_bytes=tools.max_payload_bytes)
        else:
            name, text = checked_event(event).name, event.encode(payload)
        if key is None:
            key = tools.record.numbered(name)
        await tools.durable.emit(key, name, text)

    @overload
    async def first(
        self, key: str, a: Awaitable[A], b: Awaitable[B], /
    ) -> First[Literal[0], A] | First[Literal[1], B]: ...
    @overload
    async def first(
        self, key: str, a: Awaitable[A], b: Awaitable[B], c: Awaitable[C], /
    ) -> First[Literal[0], A] | First[Literal[1], B] | First[Literal[2], C]: ...
    @overload
    async def first(
        self, key: str, a: Awaitable[A], b: Awaitable[B], c: Awaitable[C], d: Awaitable[D], /
    ) -> (
        First[Literal[0], A] | First[Literal[1], B] | First[Literal[2], C] | First[Literal[3], D]
    ): ...
    @overload
    async def first(self, key: str, /, *contenders: Awaitable[R]) -> First[int, R]: ...

    async def first(self, key: str, /, *contenders: Awaitable[Any]) -> Any:
        """Whichever of several comes first: an answer or a deadline, the fastest of some children.

        Which one is on record: each attempt goes the same way, whatever has come meanwhile. The
        others end with it, as if they had never been: what comes for them changes nothing, an event
        that one had taken may be taken by another wait, and a child is cancelled, unless it was
        invoked with ``cancel_late=False``. A later attempt does not call them. An asyncio task that
        the handler has made itself is left to it.

        Args:
            key: Its name, as for :meth:`step`.
            contenders: What to wait for: sleeps, events, children, steps, or coroutines of the
                handler's own that wait for such. Of those that are found to have come at once, the
                one that was given first is the first.

        Returns:
            Which one, and what it has returned.

        Raises:
            StepFailed: The first one has ended so, as is what follows.
            ChildFailed: –
            ChildCancelled: –
            WaitTimeout: –
            InvalidInput: There is none, or one cannot be awaited.
            DuplicateStep: As for :meth:`invoke`.
        """
        return await self._durable().races.first(key, contenders)

    async def patched(self, name: str) -> bool:
        """Whether to go by new code: False in executions that were beyond this place before it.

        ``if await ctx.patched("two-mails"): ... else: ...`` keeps the old code for executions that
        have gone by it, and the new one for all others. The answer is on record.

        Args:
            name: Names the change.

        Raises:
            DuplicateStep: It was asked already in this attempt.
            OwnershipLost: The execution is held by somebody else by now.
        """
        return await self._durable().durable.patched(name)


def _checked(task: TaskRef[P, R]) -> TaskRef[P, R]:
    if not isinstance(getattr(task, "result_codec", None), Codec):
        raise InvalidInput(
            "task",
            f"{task!r} is none: give what conductor.task() made of a function, or "
            "conductor.task_ref() of a name",
        )
    return task


def checked_event(event: EventRef[P]) -> EventRef[P]:
    """Return ``event`` if it is one.

    Raises:
        InvalidInput: It is not.
    """
    if not isinstance(getattr(event, "codec", None), Codec):
        raise InvalidInput(
            "event", f"{event!r} is none: give what conductor.event() made, or the name of one"
        )
    return event
