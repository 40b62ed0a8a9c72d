"""What the workers of one orchestrator share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from pgconductor.domain.claims import Registration
from pgconductor.domain.retry import RetryPolicy
from pgconductor.runtime.attempt import Durability, Runnable
from pgconductor.runtime.completer import Completer
from pgconductor.runtime.gate import StartGate
from pgconductor.runtime.journal import Journal
from pgconductor.runtime.lookout import Lookout
from pgconductor.runtime.slots import Crowd
from pgconductor.runtime.threads import Threads
from pgconductor.services.backend import Backend
from pgconductor.settings import Settings

__all__ = ["Process"]


@dataclass(slots=True)
class Process:
    """What the workers of one orchestrator share.

    Attributes:
        backend: The database.
        settings: Intervals and limits.
        registration: Who fetches.
        runnables: The tasks that can be executed, by name.
        completer: Where outcomes go.
        gate: Who may start.
        threads: Where plain functions are called.
        journal: Where steps are recorded.
        lookout: Who looks whether what is waited for has come.
        crowd: The handlers that are in memory.
        durability: What attempts get of the two.
        parents: The executions that wait for those that are held here.
        on_error: Called with the error of a fetch.
        draining: Somebody waits until nothing is left that is due.
        unread: The errors of fetches whose answers could not be read, by the claim's number.
        activity: Counts what has happened, so that a drain can tell that nothing has.
        turn: Who may fetch: a suspect that one worker has fetched must be seen by the others.
    """

    backend: Backend
    settings: Settings
    registration: Registration
    runnables: Mapping[str, Runnable]
    completer: Completer
    gate: StartGate
    threads: Threads
    journal: Journal
    lookout: Lookout
    crowd: Crowd
    durability: Durability = field(init=False)
    parents: dict[UUID, UUID] = field(default_factory=dict[UUID, UUID])
    on_error: Callable[[Exception], None] = lambda _error: None
    unread: dict[int, Exception] = field(default_factory=dict[int, Exception])
    draining: bool = False
    activity: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self.durability = Durability(
            self.journal,
            self.lookout,
            self.settings.suspend_after.total_seconds(),
            self.settings.max_payload_bytes,
            # Whoever drains waits until all have left.
            lingers=not self.draining,
        )

    def retry_of(self, task_key: str) -> RetryPolicy:
        """A task's policy; the default of one that is not known."""
        runnable = self.runnables.get(task_key)
        return RetryPolicy() if runnable is None else runnable.options.retry
