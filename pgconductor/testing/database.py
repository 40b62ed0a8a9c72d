"""An in-memory database: committed tables, and transactions over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Final
from uuid import UUID

from pgconductor.domain.orchestrators import OrchestratorSnapshot
from pgconductor.domain.revisions import KNOWN_REVISION, SchemaStatus
from pgconductor.exceptions import SchemaMissing
from pgconductor.testing.clock import VirtualClock
from pgconductor.testing.rows import EventRow, ExecutionRow, StepRow, Tables, next_number
from pgconductor.testing.turns import Turns

__all__ = ["FakeDatabase", "FakeTransaction"]

_UP_TO_DATE: Final = SchemaStatus(KNOWN_REVISION, 0)


@dataclass(slots=True)
class _Store:
    """What transactions work on."""

    committed: Tables = field(default_factory=Tables)
    turns: Turns = field(default_factory=Turns)
    listeners: list[Callable[[str, str], None]] = field(
        default_factory=list[Callable[[str, str], None]]
    )


class FakeDatabase:
    """Tables in memory, for tests of what is built on the repositories.

    What a transaction writes is seen by others once it has committed, and by nobody if it rolls
    back. Readers never wait. **Writers take turns**: a second one waits, at its first write, until
    the first has ended; row locks, and the skipping of locked rows, have no counterpart here. A
    task that writes through one transaction while another one of its own has written would wait
    for itself, and gets a ``RuntimeError``.

    Args:
        clock: The time that every decision goes by; the default is a new one that stands at now.
        schema: What the database says of its schema; None for a database without one, in which
            every call raises ``SchemaMissing``. It may be assigned later, too.

    Attributes:
        intent_expires_at: When the intent in ``schema`` expires; None for never.
    """

    def __init__(
        self,
        clock: VirtualClock | None = None,
        *,
        schema: SchemaStatus | None = _UP_TO_DATE,
    ) -> None:
        self.clock: Final = clock or VirtualClock()
        self.schema = schema
        self.intent_expires_at: datetime | None = None
        self._store = _Store()

    @property
    def executions(self) -> Mapping[UUID, ExecutionRow]:
        """The committed executions by id, as they are now."""
        return MappingProxyType(self._store.committed.executions)

    @property
    def orchestrators(self) -> Mapping[UUID, OrchestratorSnapshot]:
        """The committed orchestrators by id, as they are now."""
        return MappingProxyType(self._store.committed.orchestrators)

    @property
    def steps(self) -> Mapping[tuple[UUID, str], StepRow]:
        """The committed steps by execution and key, as they are now."""
        return MappingProxyType(self._store.committed.steps)

    @property
    def events(self) -> Mapping[UUID, EventRow]:
        """The committed events by id, as they are now."""
        return MappingProxyType(self._store.committed.events)

    def listen(self, on_notify: Callable[[str, str], None]) -> Callable[[], None]:
        """Have each notification reported, as its transaction commits.

        Args:
            on_notify: Called with channel and payload.

        Returns:
            A function that ends it.
        """
        self._store.listeners.append(on_notify)
        return lambda: self._store.listeners.remove(on_notify)

    def transaction(self) -> FakeTransaction:
        """A new transaction; end it by its ``commit`` or ``rollback``."""
        return FakeTransaction(self, self._store)


class FakeTransaction:
    """One transaction: it reads what is committed and, from its first write on, what it wrote.

    Args:
        database: The clock and the schema.
        store: The tables.
    """

    def __init__(self, database: FakeDatabase, store: _Store) -> None:
        self._database = database
        self._store = store
        self._own: Tables | None = None
        # A dictionary for its order: the same notification is sent once, as Postgres does.
        self._notifications: dict[tuple[str, str], None] = {}

    def now(self) -> datetime:
        """The database's clock."""
        return self._database.clock.now()

    def schema(self) -> SchemaStatus:
        """The gate's row.

        Raises:
            SchemaMissing: There is none.
        """
        if self._database.schema is None:
            raise SchemaMissing
        expires_at = self._database.intent_expires_at
        if expires_at is not None and expires_at <= self.now():
            return replace(self._database.schema, intent_floor=None, intent_ceiling=None)
        return self._database.schema

    def read(self) -> Tables:
        """The tables as this transaction sees them; not to be changed."""
        self.schema()
        return self._store.committed if self._own is None else self._own

    async def write(self) -> Tables:
        """The same, to be changed; waits until no other transaction writes."""
        self.schema()
        if self._own is None:
            await self._store.turns.take()
            self._own = self._store.committed.copy()
            self._own.number = next_number()
        return self._own

    def notify(self, channel: str, payload: object) -> None:
        """Send a notification at the commit."""
        self._notifications[channel, str(payload)] = None

    def commit(self) -> None:
        """Make what was written visible, and send the notifications."""
        if self._own is not None:
            self._store.committed = self._own
            self._end()
            for channel, payload in self._notifications:
                for listener in list(self._store.listeners):
                    listener(channel, payload)

    def rollback(self) -> None:
        """Forget what was written."""
        if self._own is not None:
            self._end()

    def _end(self) -> None:
        self._own = None
        self._store.turns.give()
