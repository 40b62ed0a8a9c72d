"""Events by name and type: what services emit and handlers wait for."""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from pgconductor.domain.events import Emitted
from pgconductor.domain.limits import check_event
from pgconductor.runtime.codec import Codec

__all__ = ["Emitter", "EventRef"]

T = TypeVar("T")


class Emitter(Protocol):
    """What an event needs of its conductor."""

    @property
    def max_payload_bytes(self) -> int:
        """Largest payload, as JSON."""
        ...

    async def emit_text(
        self,
        name: str,
        payload: str | None,
        session: AsyncSession | AsyncConnection | None,
        dedupe_key: str | None = None,
    ) -> Emitted:
        """Emit an event, in the session's transaction or in one of its own."""
        ...

    def emit_text_sync(
        self, name: str, payload: str | None, session: Session, dedupe_key: str | None = None
    ) -> Emitted:
        """Emit an event in a sync session's transaction."""
        ...


class EventRef(Generic[T]):
    """An event by its name, typed; made by ``Conductor.event()``.

    Args:
        name: Its name.
        codec: How payloads are written and read.
        emitter: The conductor.

    Raises:
        InvalidName: It cannot name an event.
    """

    def __init__(self, name: str, codec: Codec, emitter: Emitter) -> None:
        self.name = check_event(name)
        self.codec = codec
        self._emitter = emitter

    def __repr__(self) -> str:
        return f"EventRef({self.name!r})"

    def encode(self, payload: Any) -> str | None:
        """The JSON text of a payload.

        Raises:
            InvalidPayload: It is not of the event's type.
        """
        return self.codec.encode(payload, max_bytes=self._emitter.max_payload_bytes)

    async def emit(
        self,
        payload: T | None = None,
        *,
        session: AsyncSession | AsyncConnection | None = None,
        dedupe_key: str | None = None,
    ) -> Emitted:
        """Emit it: executions that wait for it, now or later, take it.

        Args:
            payload: Of the event's type.
            session: An ``AsyncSession`` or ``AsyncConnection``: it is emitted exactly if the
                caller's transaction commits. None for a transaction of its own.
            dedupe_key: While an event of this name and key is kept, it stands for this one, and
                nothing is emitted.

        Returns:
            Its id, and whether it is new.

        Raises:
            InvalidInput: The payload is not of the event's type, or the key cannot be one; nothing
                was written.
        """
        return await self._emitter.emit_text(self.name, self.encode(payload), session, dedupe_key)

    def emit_sync(
        self, payload: T | None = None, *, session: Session, dedupe_key: str | None = None
    ) -> Emitted:
        """Emit it in a sync ``Session``: exactly if that commits.

        Args:
            payload: Of the event's type.
            session: A sync session, on psycopg for instance.
            dedupe_key: See :meth:`emit`.

        Returns:
            Its id, and whether it is new.

        Raises:
            InvalidInput: The payload is not of the event's type; nothing was written.
        """
        return self._emitter.emit_text_sync(self.name, self.encode(payload), session, dedupe_key)
