"""Waits by themselves: what is heard when, and when a handler is suspended."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import cast
from uuid import UUID, uuid4

import pytest

from pgconductor.domain.claims import Fetched
from pgconductor.domain.steps import Recorded, Settled, StepKind
from pgconductor.runtime.lookout import Lookout
from pgconductor.runtime.sentry import Sentry
from pgconductor.runtime.slots import AttemptDesk
from pgconductor.runtime.suspension import Suspension
from pgconductor.runtime.waits import Waits
from pgconductor.services.backend import Backend
from tests.support.waiting import eventually

EVENT = Recorded(key="event", kind=StepKind.EVENT, pending=True)
NAP = Recorded(key="nap", kind=StepKind.SLEEP, pending=True, remaining=timedelta(minutes=1))


class Silent:
    """Notes what it is asked to look for."""

    def __init__(self) -> None:
        self.looks = 0

    def watch(self, waits: Waits, child_id: UUID | None) -> None:
        pass

    def forget(self, waits: Waits) -> None:
        pass

    def look(self, execution_id: UUID) -> None:
        self.looks += 1

    def keeps(self, waits: Waits, seconds: float) -> bool:
        return False


class Handler:
    """A handler that does nothing but wait for one thing."""

    def __init__(self, recorded: Recorded, sentry: Sentry | None = None) -> None:
        self.silent = Silent()
        self.task: asyncio.Task[Recorded]
        desk = AttemptDesk(cast("Fetched", None), plain=False)
        self.waits = Waits(
            uuid4(),
            sentry or self.silent,
            desk=desk,
            patience=3600.0,
            known=lambda: [self.task],
        )
        desk.on_slot = self.waits.turns.go_on
        self.task = asyncio.create_task(self.waits.until_ended(recorded))

    def hear(self, *ended: str) -> None:
        self.waits.settled(
            Settled(
                self.waits.execution_id,
                len(ended),
                tuple(Recorded(key=key, kind=StepKind.EVENT) for key in ended),
            )
        )


async def test_what_ends_after_the_suspension_was_decided_is_not_seen() -> None:
    """I3: it counts as not seen, so that the database does not let it wait for what has come."""
    handler = Handler(NAP)
    await asyncio.sleep(0)
    assert handler.waits.suspend()
    handler.hear("nap")
    with pytest.raises(Suspension):
        await handler.task
    assert handler.waits.wakes == 0


async def test_no_suspension_before_the_first_look_for_an_event() -> None:
    """I3: whoever emitted it before the wait has told nobody; if nobody looks, nobody ever will."""
    handler = Handler(EVENT)
    await asyncio.sleep(0)
    assert not handler.waits.suspend()
    # An answer to what was asked before the wait began tells nothing of it.
    handler.hear()
    assert not handler.waits.suspend()
    assert handler.waits.seen() == 0
    handler.hear()
    assert handler.waits.suspend()
    with pytest.raises(Suspension):
        await handler.task


async def test_who_is_to_leave_and_has_not_looked_leaves_as_soon_as_it_has() -> None:
    """I9: a process that is stopped does not wait for the patience of such a handler."""
    handler = Handler(EVENT)
    await asyncio.sleep(0)
    handler.waits.leave()
    assert handler.silent.looks
    handler.waits.seen()
    handler.hear()
    with pytest.raises(Suspension):
        await asyncio.wait_for(handler.task, 10)


async def test_a_process_that_stops_is_told_of_what_comes_meanwhile() -> None:
    handler = Handler(EVENT)
    await asyncio.sleep(0)
    handler.waits.leave()
    handler.waits.seen()
    handler.hear("event")
    assert (await asyncio.wait_for(handler.task, 10)).key == "event"


@pytest.mark.parametrize("late", [False, True])
async def test_a_wait_that_begins_while_the_process_stops(*, late: bool) -> None:
    """I9: it was on its way into the record when the others were told to leave."""
    lookout = Lookout(cast("Backend", None), 60)
    handler = Handler(NAP, lookout)
    if late:
        lookout.suspend_all()
    await asyncio.sleep(0)
    if not late:
        lookout.suspend_all()
    with pytest.raises(Suspension):
        await asyncio.wait_for(handler.task, 10)


class Blocked:
    """A database in which one execution's row is locked for long."""

    def __init__(self, locked: UUID) -> None:
        self.steps = self
        self.asked: list[set[UUID]] = []
        self._locked = locked

    async def settle(self, seen: dict[UUID, int | None]) -> list[Settled]:
        self.asked.append(set(seen))
        if self._locked in seen:
            raise TimeoutError
        return [Settled(one, known) for one, known in seen.items()]

    def is_transient(self, error: Exception) -> bool:
        return isinstance(error, TimeoutError)

    aside: frozenset[UUID] = frozenset()


async def test_nobody_looks_again_for_what_is_not_waited_for() -> None:
    """I9: a handler that has gone on may hold its row, and everybody would wait for it."""
    locked = uuid4()
    backend = Blocked(locked)
    lookout = Lookout(cast("Backend", backend), 60)
    handler = Handler(NAP, lookout)
    await asyncio.sleep(0)
    here = handler.waits.execution_id
    lookout.look(locked)
    lookout.look(here)
    await eventually(lambda: len(backend.asked) == 2)
    assert backend.asked == [{locked, here}, {here}]
    handler.task.cancel()
    await lookout.aclose()


async def test_nobody_looks_again_at_once_for_what_could_not_be_settled() -> None:
    """It is tried again with all that is due, after a pause."""
    backend = Slow()
    lookout = Lookout(cast("Backend", backend), 60)
    handler = Handler(EVENT, lookout)
    execution = handler.waits.execution_id
    await eventually(lambda: backend.asked)
    backend.aside = frozenset({execution})
    backend.answers.put_nowait([])
    working = lookout._working
    assert working is not None
    await asyncio.wait_for(working, 10)
    assert backend.asked == [{execution: 0}]
    handler.task.cancel()
    await lookout.aclose()


class Slow:
    """A database that answers when it is told to, and has locked an execution at first."""

    def __init__(self) -> None:
        self.steps = self
        self.asked: list[dict[UUID, int | None]] = []
        self.answers: asyncio.Queue[list[Settled]] = asyncio.Queue()

    aside: frozenset[UUID] = frozenset()

    async def settle(self, seen: dict[UUID, int | None]) -> list[Settled]:
        self.asked.append(seen)
        return await self.answers.get()


async def test_what_nobody_was_told_of_does_not_count_as_seen() -> None:
    """I3: an attempt that began while its execution was settled for others looks for itself."""
    backend = Slow()
    lookout = Lookout(cast("Backend", backend), 60)
    execution = uuid4()
    lookout.look(execution)
    await eventually(lambda: backend.asked == [{execution: None}])
    handler = Handler(EVENT, lookout)
    handler.waits.execution_id = execution
    await asyncio.sleep(0)
    backend.answers.put_nowait([Settled(execution, None)])
    await eventually(lambda: len(backend.asked) == 2)
    assert backend.asked[1] == {execution: 0}
    assert not handler.waits.suspend(), "it has not looked for itself"
    backend.answers.put_nowait([Settled(execution, 1, (EVENT,))])
    assert (await asyncio.wait_for(handler.task, 10)).key == "event"
    assert handler.waits.wakes == 1
    await lookout.aclose()


async def test_what_was_locked_is_looked_for_again() -> None:
    backend = Slow()
    lookout = Lookout(cast("Backend", backend), 60)
    handler = Handler(EVENT, lookout)
    execution = handler.waits.execution_id
    await eventually(lambda: backend.asked)
    backend.answers.put_nowait([])
    backend.answers.put_nowait([Settled(execution, 1, (EVENT,))])
    assert (await asyncio.wait_for(handler.task, 10)).key == "event"
    assert backend.asked[:2] == [{execution: 0}] * 2
    await lookout.aclose()
