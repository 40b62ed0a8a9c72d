"""The slots of a worker, and what of a process is in memory without one."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from pgconductor.domain.claims import Fetched

__all__ = ["AttemptDesk", "Crowd", "Slots"]

#: So many plain handlers may wait in memory, at the least: each has a thread.
_PLAIN: Final = 100
#: So many handlers may wait in memory, at the least.
_ALL: Final = 2_000
#: Seconds between two messages of the same kind.
_QUIET: Final = 30.0

logger = logging.getLogger("pgconductor.worker")


class Crowd:
    """The handlers of a process that are in memory, and how many may be.

    One that begins to wait while too many do is suspended at once. So there is always room for
    those that have slots, but for handlers that cannot be suspended where they wait: if those have
    taken all threads, no plain handler is fetched or started until one of them has ended.

    Args:
        slots: How many slots there are in the process.
    """

    def __init__(self, slots: int) -> None:
        self._most_plain = max(slots, _PLAIN)
        self._most = max(slots, _ALL)
        #: How many threads plain handlers may have.
        self.threads = slots + self._most_plain
        self._plain = 0
        #: Called when there is a thread for another plain handler again.
        self.on_room: Callable[[], None] = lambda: None
        self._parked = 0
        self._parked_plain = 0

    @property
    def full(self) -> bool:
        """Whether there is no thread for another plain handler."""
        return self._plain >= self.threads

    def enter(self) -> None:
        """A plain handler is called."""
        self._plain += 1

    def leave(self) -> None:
        """A plain handler has ended."""
        self._plain -= 1
        if self._plain == self.threads - 1:
            self.on_room()

    def park(self, *, plain: bool) -> bool:
        """One waits without a slot; whether there is room for it."""
        self._parked += 1
        self._parked_plain += plain
        return self._parked <= self._most and self._parked_plain <= self._most_plain

    def unpark(self, *, plain: bool) -> None:
        """One has a slot again, or has ended."""
        self._parked -= 1
        self._parked_plain -= plain


def _nothing() -> None: ...


class Room(Protocol):
    """Whose slots attempts have; those that only wait take up none."""

    #: For how many seconds one that goes on waits for a slot.
    patience: float

    def park(self, desk: AttemptDesk) -> bool:
        """It only waits: let others have its slot. Whether there is room for it in memory."""
        ...

    def ask(self, desk: AttemptDesk) -> None:
        """It goes on as soon as there is a slot."""
        ...

    def insist(self, desk: AttemptDesk) -> None:
        """It goes on now."""
        ...

    def stay(self, desk: AttemptDesk) -> None:
        """It waits, and cannot be suspended."""
        ...

    def outlived(self, desk: AttemptDesk) -> None:
        """Its attempt has ended, while its thread goes on in its slot."""
        ...


class AttemptDesk:
    """The slot of one attempt, and its time limit, which stands still while it has none.

    Args:
        fetched: The execution.
        plain: Whether its handler has a thread.
    """

    __slots__ = ("_left", "fetched", "limit", "on_slot", "plain", "room")

    def __init__(self, fetched: Fetched, *, plain: bool) -> None:
        self.fetched = fetched
        self.plain = plain
        #: Whose slot it has; the worker says so.
        self.room: Room | None = None
        self.limit: asyncio.Timeout | None = None
        #: Called when it has a slot again.
        self.on_slot: Callable[[], None] = _nothing
        # What was left of the limit when the slot was given up.
        self._left: float | None = None

    @property
    def patience(self) -> float:
        """For how many seconds it waits for a slot to go on in."""
        return 0.0 if self.room is None else self.room.patience

    def park(self) -> bool:
        """Only waits are left: others get the slot, and the time limit stands still."""
        if self.limit is not None and (when := self.limit.when()) is not None:
            self._left = when - asyncio.get_running_loop().time()
            self.limit.reschedule(None)
        return self.room is None or self.room.park(self)

    def ask(self) -> None:
        """Go on when there is a slot."""
        if self.room is None:
            self.go_on()
        else:
            self.room.ask(self)

    def insist(self) -> None:
        """Go on beside those that have a slot."""
        if self.room is not None:
            self.room.insist(self)

    def stay(self) -> None:
        """It waits in memory, and cannot be suspended."""
        if self.room is not None:
            self.room.stay(self)

    def outlived(self) -> None:
        """The attempt has ended, while its thread goes on."""
        if self.room is not None:
            self.room.outlived(self)

    def go_on(self) -> None:
        """There is a slot again."""
        if self.limit is not None and self._left is not None and not self.limit.expired():
            self.limit.reschedule(asyncio.get_running_loop().time() + self._left)
        self._left = None
        self.on_slot()


@dataclass(slots=True)
class Slots:
    """The slots of a worker, for attempts that have been seen to wait.

    An attempt that only waits has none. When its wait is over it is the first to get one; if there
    is none for :attr:`patience` seconds, it is suspended, so that it goes on wherever there is one,
    and lets go of what others may wait for. If it cannot be suspended it goes on all the same, and
    more handlers than slots are at work.

    Attributes:
        number: How many there are.
        queue: Whose they are.
        crowd: What is in memory.
        patience: For how many seconds one that goes on waits for a slot.
        on_free: Called when there may be a slot for somebody new.
        on_stay: Called when an attempt waits in memory and cannot be suspended.
    """

    number: int
    queue: str
    crowd: Crowd
    patience: float
    on_free: Callable[[], None]
    on_stay: Callable[[Fetched], None]

    _inside: int = 0
    _parked: set[AttemptDesk] = field(default_factory=set["AttemptDesk"])
    _asking: dict[AttemptDesk, None] = field(default_factory=dict["AttemptDesk", None])
    _outlived: set[AttemptDesk] = field(default_factory=set["AttemptDesk"])
    _told_at: float | None = None

    @property
    def free(self) -> int:
        """How many are free; less than none while some go on beside those that have one."""
        return self.number - self._inside + len(self._parked)

    def enter(self) -> None:
        """An attempt has one."""
        self._inside += 1

    def leave(self, desk: AttemptDesk) -> None:
        """An attempt has ended."""
        self._inside -= 1
        self._outlived.discard(desk)
        self._asking.pop(desk, None)
        self._unpark(desk)
        self._freed()

    def park(self, desk: AttemptDesk) -> bool:
        """An attempt only waits: let others have its slot. Whether there is room in memory."""
        if desk in self._parked:
            return True
        self._parked.add(desk)
        may_stay = self.crowd.park(plain=desk.plain)
        self._freed()
        return may_stay

    def ask(self, desk: AttemptDesk) -> None:
        """It goes on as soon as there is a slot."""
        if desk in self._parked and self.free <= 0:
            self._asking[desk] = None
        else:
            self._let_go_on(desk)

    def insist(self, desk: AttemptDesk) -> None:
        """It goes on now."""
        now = time.monotonic()
        if self._told_at is None or now > self._told_at + _QUIET:
            self._told_at = now
            logger.warning(
                "queue %s: more handlers than its %d slots are at work, for one that cannot be "
                "suspended has waited %.1f s for a slot to go on in",
                self.queue,
                self.number,
                self.patience,
                extra={"execution_id": str(desk.fetched.id)},
            )
        self._let_go_on(desk)

    def stay(self, desk: AttemptDesk) -> None:
        """It waits, and cannot be suspended."""
        self.on_stay(desk.fetched)

    def outlived(self, desk: AttemptDesk) -> None:
        """Its attempt has ended, while its thread goes on in its slot."""
        self._outlived.add(desk)
        taken = len(self._outlived)
        logger.log(
            logging.WARNING if taken < self.number else logging.ERROR,
            "queue %s: a plain handler of %s goes on in its thread though its attempt has ended; "
            "%d of %d slots are taken so%s",
            self.queue,
            desk.fetched.task_key,
            taken,
            self.number,
            "" if taken < self.number else ": nothing starts before one of them ends",
            extra={"execution_id": str(desk.fetched.id)},
        )

    def _let_go_on(self, desk: AttemptDesk) -> None:
        self._asking.pop(desk, None)
        self._unpark(desk)
        desk.go_on()

    def _unpark(self, desk: AttemptDesk) -> None:
        if desk in self._parked:
            self._parked.discard(desk)
            self.crowd.unpark(plain=desk.plain)

    def _freed(self) -> None:
        """A slot is free: for those that were here before, then for others."""
        while self._asking and self.free > 0:
            self._let_go_on(next(iter(self._asking)))
        self.on_free()
