"""A handle of an execution: its state, its result, and a way to cancel it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import timedelta
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from pgconductor.domain.limits import check_delay
from pgconductor.domain.snapshots import ExecutionSnapshot, Progress
from pgconductor.exceptions import ExecutionCancelled, ExecutionFailed, ResultTimeout
from pgconductor.repositories.errors import is_transient
from pgconductor.runtime.codec import Codec
from pgconductor.services.executions import ExecutionService
from pgconductor.services.listener import FINISHED, Listener
from pgconductor.services.pinned import sibling_engine
from pgconductor.types import ExecutionState

__all__ = ["ExecutionHandle", "FinishedWatch", "Waiter", "Watch"]

R = TypeVar("R")


class Watch(Protocol):
    """What tells handles that their execution has finished."""

    @property
    def healthy(self) -> asyncio.Event:
        """Set while it can be relied on."""
        ...

    def on(self, execution_id: UUID) -> AbstractAsyncContextManager[asyncio.Event]:
        """An event that is set when the execution may have finished."""
        ...


class Waiter(Protocol):
    """Where a handle finds the database, and is woken when its execution finishes."""

    @property
    def executions(self) -> ExecutionService:
        """Executions, each call in a transaction of its own."""
        ...

    def watch(self) -> Watch | None:
        """The watch, or None where nothing can be listened to."""
        ...


class FinishedWatch:
    """One listening connection for all the handles of a process that wait.

    Args:
        engine: Where the connection comes from; it must lead around any pooler.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = sibling_engine(engine)
        # By the id as it is notified: anybody may notify, and any text.
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._listener = Listener(self._engine, (FINISHED,), self._notified, self._restored)
        self._task = asyncio.create_task(self._listener.run(), name="pgconductor-finished")

    @property
    def healthy(self) -> asyncio.Event:
        """Set while notifications arrive."""
        return self._listener.healthy

    @asynccontextmanager
    async def on(self, execution_id: UUID) -> AsyncGenerator[asyncio.Event]:
        """An event that is set when the execution may have finished."""
        event = asyncio.Event()
        key = str(execution_id)
        self._waiting.setdefault(key, set()).add(event)
        try:
            yield event
        finally:
            events = self._waiting[key]
            events.discard(event)
            if not events:
                del self._waiting[key]

    def _notified(self, _channel: str, payload: str) -> None:
        for event in self._waiting.get(payload, ()):
            event.set()

    def _restored(self) -> None:
        for events in self._waiting.values():
            for event in events:
                event.set()

    async def aclose(self) -> None:
        """Stop listening."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        await self._engine.dispose()


class ExecutionHandle(Generic[R]):
    """An execution, from the outside.

    Args:
        execution_id: Which one.
        waiter: Where the database is.
        result: How its result is read.
        created: False where a dedupe key led to an execution that was there already.
    """

    def __init__(
        self, execution_id: UUID, waiter: Waiter, result: Codec, *, created: bool = True
    ) -> None:
        self._id = execution_id
        self._waiter = waiter
        self._result = result
        self._created = created

    def __repr__(self) -> str:
        return f"ExecutionHandle({self._id})"

    @property
    def id(self) -> UUID:
        """The execution's id."""
        return self._id

    @property
    def created(self) -> bool:
        """Whether the invocation made a new execution, rather than finding one by dedupe key."""
        return self._created

    async def state(self) -> ExecutionState:
        """Its state now.

        Raises:
            ExecutionNotFound: It is not there: its transaction has not committed, or retention has
                removed it.
        """
        return (await self._waiter.executions.progress(self._id)).state

    async def snapshot(self) -> ExecutionSnapshot:
        """Everything that is known of it now.

        Raises:
            ExecutionNotFound: As for :meth:`state`.
        """
        return await self._waiter.executions.get(self._id)

    async def result(self, timeout: timedelta | None = None) -> R:
        """Wait until it has finished.

        Args:
            timeout: How long to wait, by this process's clock; None for no limit.

        Returns:
            What its handler returned.

        Raises:
            ExecutionFailed: It has failed; the error's type and message are attributes.
            ExecutionCancelled: It was cancelled.
            ResultTimeout: It did not finish in time; it goes on regardless.
            ExecutionNotFound: It is not there.
        """
        if timeout is None:
            return await self._wait()
        check_delay(timeout, "timeout")
        limit = asyncio.timeout(timeout.total_seconds())
        try:
            async with limit:
                return await self._wait()
        except TimeoutError as error:
            if not limit.expired():
                raise  # It is somebody else's.
            raise ResultTimeout(self._id, timeout) from error

    async def _wait(self) -> R:
        found = await self._look()
        if found is not None and found.state.finished:
            return self._read(found)
        watch = self._waiter.watch()
        if watch is None:
            return await self._poll(lambda: False, asyncio.Event())
        async with watch.on(self._id) as event:
            marked = await self._mark()
            return await self._poll(lambda: marked and watch.healthy.is_set(), event)

    async def _look(self) -> Progress | None:
        """How far it is; None while the database is out of reach."""
        try:
            return await self._waiter.executions.progress(self._id)
        except Exception as error:
            if not is_transient(error):
                raise
            return None

    async def _mark(self) -> bool:
        """Ask to be told of its end; where that fails, looking must do."""
        try:
            await self._waiter.executions.mark_awaited(self._id)
        except Exception as error:
            if not is_transient(error):
                raise
            return False
        return True

    async def _poll(self, listening: Callable[[], bool], event: asyncio.Event) -> R:
        """Look, wait to be told or for a growing while, look again."""
        pause = 0.02
        while True:
            event.clear()
            found = await self._look()
            if found is not None and found.state.finished:
                return self._read(found)
            # Where notifications arrive, looking is but a net.
            patience = 5.0 if found is not None and listening() else pause
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await event.wait()
            pause = min(pause * 1.5, 1.0)

    def _read(self, found: Progress) -> R:
        if found.state is ExecutionState.FAILED:
            raise ExecutionFailed(self._id, found.last_error_type, found.last_error or "")
        if found.state is ExecutionState.CANCELLED:
            raise ExecutionCancelled(self._id, found.cancel_reason)
        result: Any = self._result.from_stored(found.result)
        return result  # type: ignore[no-any-return]  # the codec is of R by construction

    async def cancel(self, reason: str | None = None) -> bool:
        """Cancel it: at once if no worker holds it, else at its next boundary.

        Args:
            reason: Why; kept with the execution.

        Returns:
            False if it has finished, or is not there.
        """
        return await self._waiter.executions.cancel(self._id, reason=reason)
