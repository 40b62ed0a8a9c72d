"""Events, from outside of executions."""

from __future__ import annotations

from typing import Any

from pgconductor.domain.events import Emitted
from pgconductor.domain.payloads import DEFAULT_MAX_BYTES, encode
from pgconductor.services.executions import ExecutionService
from pgconductor.services.unit_of_work import Bind

__all__ = ["EventService"]


class EventService:
    """Events, over whatever session, connection or engine the caller has.

    Args:
        bind: See :func:`pgconductor.services.unit_of_work.unit_of_work`.
        max_payload_bytes: Largest payload, as JSON.
    """

    def __init__(self, bind: Bind, *, max_payload_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self._executions = ExecutionService(bind)
        self._max_payload_bytes = max_payload_bytes

    async def emit(
        self, name: str, payload: Any = None, *, dedupe_key: str | None = None
    ) -> Emitted:
        """Emit an event: executions that wait for it, now or later, take it once it has committed.

        Args:
            name: Its name.
            payload: None, or what JSON can hold.
            dedupe_key: While an event of this name and key is kept, it stands for this one, and
                nothing is emitted.

        Returns:
            Its id, and whether it is new.

        Raises:
            InvalidName: It cannot name an event, or the key cannot be one.
            InvalidPayload: The payload is not strict JSON, or too large.
            SchemaMissing: The database has no pgconductor schema.
        """
        limit = self._max_payload_bytes
        text = None if payload is None else encode(payload, max_bytes=limit)
        return await self._executions.emit_text(name, text, dedupe_key)
