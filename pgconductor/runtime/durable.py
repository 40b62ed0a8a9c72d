"""What a handler waits for, invokes and emits, remembered like steps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from pgconductor.domain.invocations import Invocation
from pgconductor.domain.limits import check_delay, check_event, check_run_at
from pgconductor.domain.outcomes import Completed
from pgconductor.domain.payloads import encode
from pgconductor.domain.steps import ChildSpec, Recorded, StepKind, StepRecord, StepStart
from pgconductor.exceptions import (
    ChildCancelled,
    ChildFailed,
    InvalidInput,
    RaceNotRecorded,
    ResultEncodeError,
    WaitTimeout,
)
from pgconductor.runtime.codec import Codec
from pgconductor.runtime.decoding import decoded
from pgconductor.runtime.reasons import CANCELLED
from pgconductor.runtime.record import Record
from pgconductor.runtime.suspension import Interrupted
from pgconductor.runtime.waits import Waits

__all__ = ["Durable"]

#: How the database words an end that is no error of anybody's; no class is named so.
_TIMEOUT: Final = "(timeout)"
_CANCELLED: Final = "(cancelled)"
_LOST: Final = "(lost)"
#: Why a child is cancelled.
_LATE: Final = "it did not end in time"
_PLAIN: Final = Codec()


class Durable:
    """Waits, children and events of one attempt.

    Args:
        record: The execution's record.
        waits: What the attempt waits for.
        max_bytes: Largest payload of an event, as JSON.
        encode_result: Makes JSON text of the handler's result.
    """

    def __init__(
        self,
        record: Record,
        waits: Waits,
        *,
        max_bytes: int,
        encode_result: Callable[[Any], str | None],
    ) -> None:
        self._record = record
        self._waits = waits
        self._max_bytes = max_bytes
        self._encode_result = encode_result

    async def sleep(
        self, key: str, *, delay: timedelta | None = None, until: datetime | None = None
    ) -> None:
        """Wait for a time."""
        if delay is not None:
            check_delay(delay)
        if until is not None:
            check_run_at(until, "until")
        await self._waited(await self._begun(key, StepKind.SLEEP, delay=delay, until=until))

    async def child(
        self,
        key: str,
        codec: Codec,
        make: Callable[[], Invocation],
        task: str,
        *,
        timeout: timedelta | None,
        cancel_late: bool,
    ) -> Any:
        """Invoke a child and wait for its result."""
        if timeout is not None:
            check_delay(timeout, "timeout")
        child = await self._begun(key, StepKind.CHILD, task, delay=timeout, make=make)
        ended = await self._waited(child, cancel_late=cancel_late)
        child_id = ended.child_id or child.child_id
        if ended.error_type is None or child_id is None:
            return decoded(self._record, codec, ended)
        if ended.error_type == _TIMEOUT:
            if cancel_late:
                with self._waits.at_work():
                    await self._record.memory.cancel_child(child_id, self._record.fetched.id, _LATE)
            raise WaitTimeout(key)
        if ended.error_type == _CANCELLED:
            raise ChildCancelled(key, child_id, task, ended.error or "")
        raise ChildFailed(key, child_id, task, ended.error_type, ended.error or "")

    async def spawn(self, key: str, make: Callable[[], Invocation], task: str) -> UUID:
        """Invoke an execution that is not waited for."""
        spawned = await self._begun(key, StepKind.SPAWN, task, make=make)
        if spawned.child_id is None:
            raise Interrupted(CANCELLED)
        return spawned.child_id

    async def event(
        self, key: str, name: str, codec: Codec, *, match: Any, timeout: timedelta | None
    ) -> Any:
        """Wait for an event."""
        check_event(name)
        if timeout is not None:
            check_delay(timeout, "timeout")
        text = None if match is None else self._encoded(match, "match")
        ended = await self._waited(
            await self._begun(key, StepKind.EVENT, name, delay=timeout, text=text)
        )
        if ended.error_type is not None:
            raise WaitTimeout(key)
        return decoded(self._record, codec, ended)

    async def emit(self, key: str, name: str, payload: str | None) -> None:
        """Emit an event."""
        check_event(name)
        await self._begun(key, StepKind.EMIT, name, text=payload)

    async def patched(self, name: str) -> bool:
        """Whether the execution goes by the code after a change."""
        with self._waits.at_work():
            _, found = await self._record.begin(name, StepKind.PATCH)
            if found is None:
                await self._waits.active()
                fetched = self._record.fetched
                new = not await self._record.beyond()
                answer = "true" if new else "false"
                step = StepRecord(fetched.id, fetched.claim, name, answer, kind=StepKind.PATCH)
                found = await self._record.write(step)
            return bool(decoded(self._record, _PLAIN, found))

    async def complete_in(self, session: Any, result: Any) -> None:
        """Complete the execution in a transaction of the handler's."""
        await self._record.never_if_hopeless()
        self._record.check_open()
        fetched = self._record.fetched
        try:
            text = self._encode_result(result)
        except ResultEncodeError as error:
            raise ResultEncodeError(
                f"nothing was completed, for the result cannot be stored: {error.__cause__}"
            ) from error.__cause__
        outcome = Completed(fetched.id, fetched.claim, text)
        with self._waits.at_work(), self._record.unbroken():
            if not await self._record.memory.complete_in(session, outcome):
                raise Interrupted(CANCELLED)
        self._record.completed = True

    def _encoded(self, value: Any, field: str) -> str:
        return encode(value, max_bytes=self._max_bytes, field=field)

    async def _begun(
        self,
        key: str,
        kind: StepKind,
        detail: str | None = None,
        *,
        make: Callable[[], Invocation] | None = None,
        delay: timedelta | None = None,
        until: datetime | None = None,
        text: str | None = None,
    ) -> Recorded:
        """What is on record under a key; it begins now, if there is nothing yet."""
        with self._waits.at_work():
            place, found = await self._record.begin(key, kind, detail)
            if found is not None:
                return found
            await self._waits.active()
            try:
                start = StepStart(
                    execution_id=self._record.fetched.id,
                    claim=self._record.fetched.claim,
                    key=key,
                    kind=kind,
                    place=place,
                    detail=detail,
                    delay=delay,
                    until=until,
                    text=text,
                )
                if make is not None:
                    start = _with_child(start, make())
                started = await self._record.start(start)
            except BaseException:
                self._record.astray()
                raise
            if started.recorded is None:
                # The execution is to be cancelled: no child is invoked for it any more.
                raise Interrupted(CANCELLED)
            return started.recorded

    async def _waited(self, begun: Recorded, *, cancel_late: bool = True) -> Recorded:
        if not begun.pending:
            if begun.error_type == _LOST:
                raise self._record.mismatch(
                    f"{begun.kind.value} {begun.key!r} to be left alone, for another was first",
                    "it waited for",
                )
            return begun
        try:
            return await self._waits.until_ended(begun, cancel_late=cancel_late)
        except RaceNotRecorded as error:
            if self._record.in_step:
                # It is not begun any more when the step is on record.
                raise asyncio.CancelledError from None
            self._record.broken = error
            raise
        except BaseException:
            self._record.astray()
            raise


def _with_child(start: StepStart, invocation: Invocation) -> StepStart:
    if invocation.dedupe_key is not None:
        raise InvalidInput("dedupe_key", "a child has none: its key is what makes it one of a kind")
    return StepStart(
        execution_id=start.execution_id,
        claim=start.claim,
        key=start.key,
        kind=start.kind,
        place=start.place,
        detail=invocation.task_key,
        delay=start.delay if start.kind is StepKind.CHILD else invocation.delay,
        until=None if start.kind is StepKind.CHILD else invocation.run_at,
        text=invocation.payload,
        child=ChildSpec(
            invocation.id,
            invocation.queue,
            invocation.priority,
            invocation.max_attempts,
            invocation.max_crashes,
        ),
    )
