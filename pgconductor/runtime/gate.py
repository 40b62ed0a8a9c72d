"""What all workers of a process share: who may start, and what is under way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from pgconductor.domain.claims import Fetched

__all__ = ["StartGate"]


@dataclass(slots=True)
class StartGate:
    """Keeps a suspect alone, and everything still while the process may not work.

    An execution that is one crash short of its limit starts only when no other suspect is at work,
    and nothing else starts in the process until it ends: if it takes the process down, it is known
    to be the one.

    Attributes:
        on_open: Called when something may start again.
    """

    on_open: Callable[[], None]
    _suspect: UUID | None = None
    _closed_for: set[str] = field(default_factory=set[str])

    @property
    def open(self) -> bool:
        """Whether anything may be fetched and started."""
        return self._suspect is None and not self._closed_for

    def enter(self, fetched: Fetched) -> bool:
        """Whether an execution may start now; a suspect that may closes the gate behind it."""
        if not self.open:
            return False
        if fetched.alone:
            self._suspect = fetched.id
        return True

    def leave(self, fetched: Fetched) -> None:
        """An execution that had started has ended."""
        if self._suspect == fetched.id:
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
