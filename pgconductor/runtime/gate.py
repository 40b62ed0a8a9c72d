"""What all workers of a process share: who may start, and what is under way."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from pgconductor.domain.claims import Fetched

__all__ = ["StartGate"]


@dataclass(slots=True)
class _Suspect:
    """The suspect that the process holds, and how far it is."""

    execution_id: UUID
    at_work: bool = False
    written: bool = False


@dataclass(slots=True)
class StartGate:
    """Keeps a suspect alone, and everything still while the process may not work.

    An execution that is one crash short of its limit is not held beside handlers that are at work:
    one of them might take it along. If it is fetched then, it is given back at once, and nothing
    is fetched or started until they have ended; if they go on for longer than ``patience``, it is
    taken beside them after all, for it must not wait for ever. From then on until its handler has
    ended and its outcome is in the database, nothing else is fetched or started in the process.

    Attributes:
        on_open: Called when something may start that could not before.
        patience: For how many seconds a suspect waits for the handlers that are at work.
        clock: Monotonic seconds.
    """

    on_open: Callable[[], None]
    patience: float
    clock: Callable[[], float] = time.monotonic
    _suspect: _Suspect | None = None
    _room_since: float | None = None
    _at_work: int = 0
    _closed_for: set[str] = field(default_factory=set[str])

    @property
    def open(self) -> bool:
        """Whether anything may be fetched."""
        return self._suspect is None and not self._closed_for and not self._making_room

    @property
    def _making_room(self) -> bool:
        return self._room_since is not None and not self._room_is_made

    @property
    def _room_is_made(self) -> bool:
        since = self._room_since
        return self._at_work == 0 or (since is not None and self.clock() - since >= self.patience)

    def admit(self, fetched: Fetched) -> bool:
        """Whether an execution that was fetched may be kept; if not, give it back."""
        if fetched.alone and not self._room_is_made:
            if self._room_since is None:
                self._room_since = self.clock()
            return False
        self._room_since = None
        if fetched.alone:
            self._suspect = _Suspect(fetched.id)
        return True

    def lets_start(self, fetched: Fetched) -> bool:
        """Whether an execution may start now."""
        if self._closed_for or self._making_room:
            return False
        return self._suspect is None or self._suspect.execution_id == fetched.id

    def started(self, fetched: Fetched) -> None:
        """An execution has started."""
        self._at_work += 1
        if self._suspect is not None and self._suspect.execution_id == fetched.id:
            self._suspect.at_work = True

    def ended(self, fetched: Fetched) -> None:
        """The handler of an execution has ended."""
        self._at_work -= 1
        suspect = self._suspect
        if suspect is not None and suspect.execution_id == fetched.id:
            suspect.at_work = False
            self._open_behind(suspect)
        elif self._room_since is not None and self._at_work == 0:
            self.on_open()

    def stays(self, fetched: Fetched) -> None:
        """An execution waits in memory, and cannot be suspended: what it waits for may be here."""
        if self._suspect is not None and self._suspect.execution_id == fetched.id:
            self._suspect = None
            self.on_open()

    def settle(self, execution_id: UUID) -> None:
        """An outcome is in the database: from now on a crash is not this execution's any more."""
        suspect = self._suspect
        if suspect is not None and suspect.execution_id == execution_id:
            suspect.written = True
            self._open_behind(suspect)

    def _open_behind(self, suspect: _Suspect) -> None:
        if suspect.written and not suspect.at_work:
            self._suspect = None
            self.on_open()

    def close(self, reason: str) -> None:
        """Let nothing start until the same reason is given to :meth:`reopen`."""
        self._closed_for.add(reason)

    def reopen(self, reason: str) -> None:
        """Take a reason back."""
        if reason in self._closed_for:
            self._closed_for.discard(reason)
            self.on_open()
