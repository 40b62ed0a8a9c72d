"""Executes the executions of a conductor in a test, one after another, in the test's own loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Final, Self, TypeVar
from uuid import UUID

from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

from pgconductor.conductor import Conductor
from pgconductor.domain.events import Emitted
from pgconductor.domain.limits import check_delay
from pgconductor.domain.payloads import decode
from pgconductor.domain.snapshots import ExecutionFilter, ExecutionSnapshot
from pgconductor.domain.steps import Recorded, StepKind
from pgconductor.events import EventRef
from pgconductor.exceptions import ConfigurationError
from pgconductor.handles import ExecutionHandle
from pgconductor.services.engines import bound_engine
from pgconductor.settings import normalise_url
from pgconductor.tasks import TaskRef
from pgconductor.testing.boundaries import Crashes, Plan, When
from pgconductor.testing.clock import VirtualClock
from pgconductor.testing.database import FakeDatabase
from pgconductor.testing.database_clock import DatabaseClock
from pgconductor.testing.player import Player
from pgconductor.testing.reading import all_executions
from pgconductor.testing.reports import Drained, StepError
from pgconductor.testing.session_stage import SessionStage
from pgconductor.testing.stages import FakeStage, PostgresStage

__all__ = ["Rehearsal"]

P = TypeVar("P")

Database = FakeDatabase | AsyncEngine | AsyncSession | async_sessionmaker[Any] | str | None

_ANYTHING: Final[Any] = object()
_LAST: Final = 10**9
#: How the wait of one has ended that was not first.
_LOST: Final = "(lost)"


class Rehearsal:
    """Executes what a conductor's tasks are invoked for, and moves the clock over every wait.

    While inside ``async with``, the conductor goes to the rehearsal's database: to one in memory,
    or to a real one. ``task.invoke()``, ``conductor.emit()`` and handles work as ever. Handlers are
    executed by :meth:`drain`, one at a time, and leave memory at every wait where they can, so that
    each test goes the same way each time. In memory, what is invoked in a session is there once
    that session has committed, whichever database it belongs to.

    Args:
        conductor: Whose tasks are executed.
        database: Where: a :class:`FakeDatabase`, a URL, an ``AsyncEngine``, an
            ``async_sessionmaker``, or an ``AsyncSession`` in whose transaction everything is to
            stay; the default is a new one in memory.
        sessions: Makes the sessions of ``ctx.transact`` and ``ctx.transaction``. In memory there
            are none unless given: an ``async_sessionmaker`` on SQLite, or whatever the handlers
            take for a session.
        patience: How long a handler may take by the real clock.

    Raises:
        ConfigurationError: The database cannot be used.
    """

    def __init__(
        self,
        conductor: Conductor,
        database: Database = None,
        *,
        sessions: Callable[[], Any] | None = None,
        patience: timedelta = timedelta(seconds=30),
    ) -> None:
        self.conductor: Final = conductor
        self.crashes: Final = Crashes()
        self._stage: Final = _stage(database, sessions)
        self._player: Final = Player(conductor, self._stage, self.crashes, patience)
        self._lock = asyncio.Lock()
        self._entered = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as entered:
            entered.push_async_callback(self._stage.aclose)
            entered.enter_context(self.conductor.rerouted(self._stage.route(_Watch(self))))
            await entered.enter_async_context(self._player)
            self._entered = entered.pop_all()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._entered.__aexit__(*error)
        if error[0] is None:
            self.crashes.check()

    # Time.

    @property
    def clock(self) -> VirtualClock | DatabaseClock:
        """The clock that every decision goes by; ``clock.advance(timedelta)`` moves it."""
        stage = self._stage
        return stage.database.clock if isinstance(stage, FakeStage) else stage.clock

    @property
    def database(self) -> FakeDatabase:
        """The tables in memory.

        Raises:
            ConfigurationError: The database is a real one.
        """
        if isinstance(self._stage, FakeStage):
            return self._stage.database
        raise ConfigurationError("this rehearsal is in a real database: look there")

    async def now(self) -> datetime:
        """The instant at which the clock stands."""
        return await self._stage.now()

    async def drain(
        self,
        *,
        at_most: timedelta | None = None,
        until: ExecutionHandle[Any] | None = None,
    ) -> Drained:
        """Execute whatever is due; then move the clock to what is due next, until nothing is.

        Args:
            at_most: How far to move the clock; None for as far as it takes. Zero executes what is
                due now.
            until: Stop as soon as this one has finished.

        Returns:
            What was done, and what is left: what waits for events that nobody has emitted, for
            instance.

        Raises:
            TimeoutError: A handler neither ends nor waits by its context.
            AssertionError: There is no end to it: executions keep on invoking others.
            ConfigurationError: A handler has called it, by waiting for a handle for instance.
        """
        if at_most is not None:
            check_delay(at_most, "at_most")
        if self._player.inside:
            raise ConfigurationError(
                "a handler in a rehearsal cannot wait for a handle; await ctx.invoke(key, task, …)"
            )
        async with self._lock:
            return await self._player.drain(at_most, None if until is None else until.id)

    async def pass_time(self, by: timedelta) -> Drained:
        """Let a time pass, and execute whatever becomes due in it, at its time.

        Args:
            by: How long.

        Returns:
            As for :meth:`drain`.
        """
        end = await self.now() + check_delay(by, "by")
        drained = await self.drain(at_most=by)
        rest = end - await self.now()
        if rest > timedelta(0):
            self._stage.advance(rest)
        return drained

    async def emit(
        self,
        event: EventRef[Any] | str,
        payload: Any = None,
        *,
        dedupe_key: str | None = None,
    ) -> Emitted:
        """Emit an event; the same as ``conductor.emit``.

        Args:
            event: The event, or its name.
            payload: Of the event's type.
            dedupe_key: See there.

        Returns:
            Its id, and whether it is new.
        """
        return await self.conductor.emit(event, payload, dedupe_key=dedupe_key)

    # Crashes.

    def crash_at(
        self, step: str, *, when: When = "before", task: str | None = None, times: int = 1
    ) -> Plan:
        """Have the process die at a boundary; the execution is recovered, and goes on.

        The handler is cut off: it is cancelled, and nothing that it does from then on is recorded.
        At the end of the rehearsal it is an error if it has not happened.

        Args:
            step: The key of the step, wait, child or event.
            when: ``"before"``: its function was called, and nothing is on record. ``"after"``: it
                is on record, and the handler has not been told.
            task: In which task; None for any.
            times: How often.

        Returns:
            The plan, which counts how often it has happened.
        """
        plan = Plan(step, when, task, times=times)
        self.crashes.plans.append(plan)
        return plan

    def crash_at_end(self, *, task: str | None = None, times: int = 1) -> Plan:
        """Have the process die when an attempt has ended, before that is on record.

        Args:
            task: In which task; None for any.
            times: How often.

        Returns:
            As for :meth:`crash_at`.
        """
        plan = Plan(None, "before", task, times=times)
        self.crashes.plans.append(plan)
        return plan

    # What was done.

    async def executions(
        self, task: TaskRef[Any, Any] | str | None = None
    ) -> list[ExecutionSnapshot]:
        """All executions, the oldest first.

        Args:
            task: Of this task, or of the task of that name; None for all.
        """
        name = task.name if isinstance(task, TaskRef) else task
        return await all_executions(self._stage.executions, ExecutionFilter(task_key=name))

    async def invoked(self, task: TaskRef[P, Any]) -> list[P]:
        """The payloads that a task was invoked with, by anybody, the oldest first.

        Args:
            task: The task.
        """
        codec = task.payload_codec
        return [codec.from_stored(one.payload) for one in await self.executions(task)]

    async def assert_invoked(
        self, task: TaskRef[Any, Any], payload: Any = _ANYTHING, *, times: int | None = None
    ) -> None:
        """See that a task was invoked.

        Args:
            task: The task.
            payload: With this payload, typed or as JSON has it; left out, with any.
            times: So often; None for at least once.

        Raises:
            AssertionError: It was not.
        """
        payloads = await self.invoked(task)
        found = payloads
        wanted = ""
        if payload is not _ANYTHING:
            codec = task.payload_codec
            text = codec.encode(payload, max_bytes=self.conductor.max_payload_bytes)
            value = codec.decode(text)
            found = [one for one in payloads if one == value]
            wanted = f" with {value!r}"
        if not (found if times is None else len(found) == times):
            often = "" if times is None else f" {times} times, but {len(found)}"
            raise AssertionError(
                f"{task.name} was not invoked{wanted}{often}; it was invoked with: {payloads!r}"
            )

    async def steps(self, execution: ExecutionHandle[Any] | UUID) -> dict[str, Any]:
        """What an execution has on record by key, without what it still waits for.

        Args:
            execution: Which one.

        Returns:
            The results as JSON has them; a :class:`StepError` where a step has failed for good. In
            the order in which the handler came to them; what its branches did is at the end.
        """
        execution_id = execution if isinstance(execution, UUID) else execution.id
        histories = await self._stage.steps.histories({execution_id})
        found = histories[execution_id].records.values() if execution_id in histories else ()
        return {
            one.key: StepError(one.error_type, one.error or "")
            if one.error_type is not None
            else _shown(one)
            for one in sorted(found, key=lambda one: one.place or _LAST)
            if not one.pending and one.kind is not StepKind.TRY and one.error_type != _LOST
        }


def _shown(one: Recorded) -> Any:
    value = decode(one.result)
    return value["first"] if one.kind is StepKind.FIRST else value


class _Watch:
    """Has handles that wait for a result drain the rehearsal."""

    def __init__(self, rehearsal: Rehearsal) -> None:
        self.healthy = asyncio.Event()
        self.healthy.set()
        self._rehearsal = rehearsal

    @asynccontextmanager
    async def on(self, execution_id: UUID) -> AsyncGenerator[asyncio.Event]:
        handle = self._rehearsal.conductor.handle(execution_id)
        drained = await self._rehearsal.drain(until=handle)
        if not (await handle.state()).finished:
            raise AssertionError(f"nothing will finish this execution: {drained}")
        yield asyncio.Event()


def _stage(
    database: Database, sessions: Callable[[], Any] | None
) -> FakeStage | PostgresStage | SessionStage:
    if database is None or isinstance(database, FakeDatabase):
        return FakeStage(database or FakeDatabase(), sessions)
    if isinstance(database, str):
        return PostgresStage(create_async_engine(normalise_url(database)), sessions, owned=True)
    if isinstance(database, AsyncSession):
        return SessionStage(database)
    if isinstance(database, AsyncEngine):
        return PostgresStage(database, sessions, owned=False)
    return PostgresStage(bound_engine(database), sessions or database, owned=False)
