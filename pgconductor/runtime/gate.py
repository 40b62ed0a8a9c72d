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

    From the fetch of an execution that is one crash short of its limit until its outcome is in the
    database, nothing else is fetched or started in the process: if the process dies meanwhile, it
    is known to be the one, and no other suspect is counted with it.

    Attributes:
        on_open: Called when something may start again.
    """

    on_open: Callable[[], None]
    _suspect: UUID | None = None
    _closed_for: set[str] = field(default_factory=set[str])

    @property
    def open(self) -> bool:
        """Whether anything may be fetched."""
        return self._suspect is None and not self._closed_for

    def admit(self, fetched: Fetched) -> None:
        """An execution was fetched; if it is a suspect, nothing else starts from now on."""
        if fetched.alone:
            self._suspect = fetched.id

    def lets_start(self, fetched: Fetched) -> bool:
        """Whether an execution may start now."""
        return not self._closed_for and self._suspect in {None, fetched.id}

    def settle(self, execution_id: UUID) -> None:
        """An outcome is in the database: from now on a crash is not this execution's any more."""
        if self._suspect == execution_id:
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
