"""What an execution has on record, as one attempt goes through it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Final, TypeVar
from weakref import ReferenceType, WeakKeyDictionary, WeakSet, ref

from pgconductor.domain.claims import Fetched
from pgconductor.domain.failures import message_of
from pgconductor.domain.limits import check_step_key
from pgconductor.domain.steps import (
    History,
    Recorded,
    Started,
    StepKind,
    StepRecord,
    StepStart,
)
from pgconductor.exceptions import (
    ConfigurationError,
    DuplicateStep,
    OwnershipLost,
    RaceNotRecorded,
    ReplayMismatch,
    StepError,
)
from pgconductor.runtime.memory import Memory
from pgconductor.runtime.reasons import LATE
from pgconductor.runtime.scopes import Scope
from pgconductor.runtime.suspension import Interrupted, Suspension
from pgconductor.runtime.waits import Waits
from pgconductor.runtime.wording import RACED, shown

__all__ = ["Record"]

R = TypeVar("R")

#: In which step of which execution what goes on here is.
_inside: Final[ContextVar[tuple[Record, str] | None]] = ContextVar(
    "pgconductor_inside", default=None
)

_COMPLETED: Final = "nothing can be begun after complete_in"


class Record:
    """The record of an execution, and how far an attempt has come in it.

    What the handler itself begins, one after another, is numbered. As long as its code is what it
    was, each attempt begins the same under the same number, up to the first one that raises an
    error that is not on record: from then on the handler may go another way, and nothing is
    numbered. What branches begin may come in any order, and has no number, nor has what is begun
    inside of a step.

    Args:
        fetched: The execution.
        memory: Where steps are recorded.
        main: The handler's own task; None for a plain handler, in whose thread all happens in turn.
        give_up: Called when the handler is not to be waited for any more.
        why: Says why nothing can be recorded any more; None if it can.
    """

    def __init__(
        self,
        fetched: Fetched,
        memory: Memory,
        main: asyncio.Task[Any] | None,
        give_up: Callable[[], None],
        why: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.fetched = fetched
        self.memory = memory
        self.waits: Waits | None = None
        self.ended = False
        self.completed = False
        #: Whether it is known that this was committed.
        self.committed = False
        self._broken: OwnershipLost | ReplayMismatch | RaceNotRecorded | None = None
        #: Whether the handler catches whatever it is told, and goes on.
        self.hopeless = False
        self._main = main
        self._give_up = give_up
        self._why = why
        self._keys: set[str] = set()
        # How far keys are numbered, and where: in the handler itself, a branch, or a step.
        self._numbers: dict[str, tuple[object, int]] = {}
        self._count = 0
        self._counting = True
        self._loading: asyncio.Future[History] | None = None
        self._by_place: dict[int, Recorded] = {}
        self._taken: set[str] = set()
        #: What is on record, and is to be told when it is its turn.
        self.untold: set[str] = set()
        self.children: dict[str, Recorded] = {}
        # With the key of what each has begun last.
        self._tasks: WeakKeyDictionary[asyncio.Task[Any], str] = WeakKeyDictionary()
        # Those in which the handler itself goes on; the others are branches.
        self._own: WeakSet[asyncio.Task[Any]] = WeakSet()
        if main is not None:
            self._tasks[main] = ""
            self._own.add(main)

    @property
    def broken(self) -> OwnershipLost | ReplayMismatch | RaceNotRecorded | None:
        """What nothing can be begun after: ownership was lost, or the record does not match."""
        return self._broken or (None if self.waits is None else self.waits.refused)

    @broken.setter
    def broken(self, error: OwnershipLost | ReplayMismatch | RaceNotRecorded) -> None:
        self._broken = error

    @property
    def branched(self) -> bool:
        """Whether anything was begun in another asyncio task than the handler's own."""
        return len(self._tasks) > len(self._own)

    @property
    def tasks(self) -> list[asyncio.Task[Any]]:
        """The asyncio tasks of the handler that are known."""
        return list(self._tasks)

    def go_on_in(self, task: asyncio.Task[Any] | None) -> None:
        """What was called in a thread has given a coroutine, with which the handler goes on."""
        if task is None:
            return
        self._main = task
        self._tasks[task] = ""
        self._own.add(task)

    def leftovers(self) -> dict[asyncio.Task[Any], str]:
        """The tasks that are at work though the handler has ended, with what each began last.

        None of a plain handler's, which lives in its thread. None of a handler that is suspended:
        that has ended all of them, and some may have to clean up.
        """
        suspended = self.waits is not None and self.waits.suspended_by is not None
        if self._main is None or len(self._tasks) == 1 or suspended:
            return {}
        left = {task: key for task, key in self._tasks.items() if not task.done()}
        left.pop(self._main, None)
        return left

    def numbered(self, key: str) -> str:
        """The key with a number that counts up within the attempt: ``page#1``, ``page#2``.

        Raises:
            DuplicateStep: Another branch numbers it as well: a later attempt may mix them up.
        """
        key = check_step_key(key)
        where = self._step or self._branch
        there, number = self._numbers.get(key, (where, 0))
        if there != where:
            raise DuplicateStep(self.fetched.id, key, branches=True)
        numbered = check_step_key(f"{key}#{number + 1}")
        self._numbers[key] = where, number + 1
        return numbered

    @property
    def _step(self) -> str | None:
        """The step that this goes on inside of."""
        inside = _inside.get()
        return inside[1] if inside is not None and inside[0] is self else None

    @property
    def in_step(self) -> bool:
        """Whether this goes on inside of a step."""
        return self._step is not None

    @property
    def _branch(self) -> ReferenceType[asyncio.Task[Any]] | None:
        """The branch that this goes on in; None for the handler itself."""
        if asyncio._get_running_loop() is None:
            return None
        task = asyncio.current_task()
        return None if task is None or task in self._own else ref(task)

    async def own(self, awaitable: Awaitable[R]) -> R:
        """Wait for something in the event loop that a thread of the handler waits for."""
        task = asyncio.current_task()
        if task is not None:
            # Known from the start: it may be at work beside branches that wait.
            self._tasks.setdefault(task, "")
            if self._main is None:
                self._own.add(task)
        return await awaitable

    def check_open(self) -> None:
        """Nothing may be begun in an attempt that has ended or is being suspended.

        Raises:
            Suspension: It is.
            Interrupted: It has, or is to end, and why.
            OwnershipLost: It was lost before: whoever caught that must not undo what is another's.
            ReplayMismatch: Likewise, the record did not match.
            ConfigurationError: The execution was completed by its handler.
        """
        if self.broken is not None:
            raise self.broken
        if self.waits is not None and self.waits.suspended_by is not None:
            raise Suspension
        if (why := self._why()) is not None or self.ended:
            raise Interrupted(why or LATE)
        if self.completed:
            # No Interrupted: the attempt would be given back, and tried again for ever.
            raise ConfigurationError(_COMPLETED)

    @property
    def refusal(self) -> Exception | None:
        """The error for which nothing can be begun any more."""
        return self.broken or (ConfigurationError(_COMPLETED) if self.completed else None)

    async def never_if_hopeless(self) -> None:
        """Do not come back to a handler that catches whatever it is told."""
        if self.hopeless:
            self._give_up()
            await asyncio.get_running_loop().create_future()

    async def begin(
        self, key: str, kind: StepKind, detail: str | None = None, *, in_turn: bool = True
    ) -> tuple[int | None, Recorded | None]:
        """Take a key for something of this attempt.

        Args:
            key: The key.
            kind: What it stands for.
            detail: The child's task, or the event's name.
            in_turn: Whether to come back when it is the turn of what is on record.

        Returns:
            Its number, and what is on record under the key.

        Raises:
            InvalidName: The key cannot name a step.
            DuplicateStep: Something else of this attempt has it.
            ReplayMismatch: Something else is on record.
        """
        await self.never_if_hopeless()
        self.check_open()
        Scope.check()
        key = check_step_key(key)
        if key in self._keys:
            raise DuplicateStep(self.fetched.id, key)
        self._keys.add(key)
        Scope.note(key)
        place = self._next_place(key, kind)
        history = await self.history()
        found = history.records.get(key)
        wanted = Recorded(key=key, kind=kind, detail=detail, place=place)
        self._compare(wanted, found)
        if found is not None:
            self._taken.add(key)
            if in_turn and not found.pending and self.waits is not None:
                self.untold.add(key)
                await self.waits.order.asked(found)
                self.untold.discard(key)
        return place, found

    def _next_place(self, key: str, kind: StepKind) -> int | None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks[task] = key
        outside = self._branch is not None or self.in_step
        if outside or not self._counting or kind is StepKind.PATCH:
            return None
        self._count += 1
        return self._count

    @contextmanager
    def inside(self, key: str) -> Generator[None]:
        """While inside, the function of a step is called, or a block executed.

        What is begun there has no number: it is not begun any more when the step is on record.
        """
        # Of the context: another branch that begins something meanwhile is not inside.
        before = _inside.get()
        _inside.set((self, key))
        try:
            yield
        finally:
            _inside.set(before)

    @contextmanager
    def contained(self, key: str) -> Generator[None]:
        """While inside, the function of a step is called: its exit is not that of the process.

        In the handler's own task it ends the attempt. Out of another one, asyncio would raise it
        from the event loop.
        """
        try:
            yield
        except SystemExit as error:
            if asyncio.current_task() is self._main:
                raise
            raise StepError(f"step {key!r} raised SystemExit: {message_of(error)}") from error

    def astray(self) -> None:
        """An error that is not on record was raised: the handler may go another way from here."""
        if not Scope.is_lost():
            self._counting = False

    def pass_by(self, keys: Iterable[str]) -> None:
        """What others had begun that were not first is not to be begun again."""
        self._taken.update(keys)

    def followed(self, found: Recorded) -> bool:
        """Whether the handler itself has begun something after what is on record, before now."""
        return found.place is not None and found.place + 1 in self._by_place

    async def history(self) -> History:
        """What is on record of the attempts before; read once."""
        if self._loading is None:
            # A task of its own: of several branches, one may be cancelled while all wait.
            self._loading = asyncio.ensure_future(self._load())
        return await asyncio.shield(self._loading)

    async def _load(self) -> History:
        history = await self.memory.load(self.fetched.id)
        self._by_place = {one.place: one for one in history.records.values() if one.place}
        if self.waits is not None:
            self.waits.wakes = history.wakes
            self.waits.replayed = len(history.records)
            turns = (one.turn or 0 for one in history.records.values())
            self.waits.order.go_on_from(max(turns, default=0))
        return history

    async def beyond(self) -> bool:
        """Whether an attempt before has come further than this one by now."""
        history = await self.history()
        return any(
            key not in self._taken and one.kind not in (StepKind.PATCH, StepKind.TRY)
            for key, one in history.records.items()
        )

    async def write(self, step: StepRecord) -> Recorded:
        """Record a step, and go on when it is its turn."""
        memory = self.memory
        with self.unbroken():
            if self.waits is None:
                return await memory.record(step)
            return await self.waits.order.write(
                lambda turn: memory.record(replace(step, woke=turn.woke, turn=turn.number))
            )

    async def start(self, start: StepStart) -> Started:
        """Begin a wait, or do what is done once for all, and go on when it is its turn."""
        memory = self.memory
        with self.unbroken():
            if start.kind.waits or self.waits is None:
                with Scope.beginning(start.key):
                    started = await memory.start(start)
                if start.child is not None and started.recorded is not None:
                    self.children[start.key] = started.recorded
                return started
            return await self.waits.order.write(
                lambda turn: memory.start(replace(start, woke=turn.woke, turn=turn.number))
            )

    @contextmanager
    def unbroken(self) -> Generator[None]:
        """Inside, something is written for the owner: take note if that is lost.

        Raises:
            Interrupted: It was lost by the handler's end, which did not await this.
        """
        try:
            yield
        except OwnershipLost as lost:
            if self.ended and self._main is not None:
                raise Interrupted(LATE) from None
            self.broken = lost
            raise

    def mismatch(self, expected: str, found: str, *why: str) -> ReplayMismatch:
        """The error that the handler does not do what is on record; take note of it."""
        why = why or ((RACED,) if self.branched else ())
        mismatch = self.broken = ReplayMismatch(self.fetched.id, expected, found, *why)
        return mismatch

    def _compare(self, wanted: Recorded, found: Recorded | None) -> None:
        if found is not None and (found.kind, found.detail) != (wanted.kind, wanted.detail):
            raise self.mismatch(shown(found), shown(wanted))
        if wanted.place is None:
            return
        there = self._by_place.get(wanted.place)
        if there is not None and there.key != wanted.key:
            raise self.mismatch(f"{shown(there)} as number {there.place}", shown(wanted))
        if found is not None and found.place not in (None, wanted.place):
            raise self.mismatch(
                f"{shown(found)} as number {found.place}", f"it as number {wanted.place}"
            )
