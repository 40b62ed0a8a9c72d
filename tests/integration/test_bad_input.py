"""Bad input is refused at the boundary, in words that help, and nothing is written.

The rows of the table in the design's section on reliability: through ``ExecutionService.invoke``,
through ``Invocation`` for ``invoke_many``, and through the SQL function where SQL can say it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session

from pgconductor.domain.invocations import Invocation
from pgconductor.domain.payloads import decode
from pgconductor.domain.snapshots import ExecutionFilter
from pgconductor.domain.sqlstates import Cause
from pgconductor.exceptions import (
    ExecutionNotFound,
    InvalidInput,
    InvalidPayload,
    PayloadDecodeError,
    PgconductorError,
    WrongSession,
)
from pgconductor.repositories.errors import cause, sqlstate
from pgconductor.services import ExecutionService, OrchestratorService
from tests.integration.bad_values import FIELDS, JSON_TEXTS, LATER, PAYLOADS, nested


@pytest.fixture
async def executions(engine: AsyncEngine) -> AsyncIterator[ExecutionService]:
    """The service; whatever a test has it refuse, there must be nothing in the end."""
    service = ExecutionService(engine)
    yield service
    assert sum((await service.count()).values()) == 0


# --- payloads ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("payload", "message"), PAYLOADS.values(), ids=list(PAYLOADS))
async def test_a_payload_that_is_no_json(
    executions: ExecutionService, payload: Any, message: str
) -> None:
    with pytest.raises(InvalidPayload, match=f"^payload: .*{message}") as caught:
        await executions.invoke("send", payload)
    assert isinstance(caught.value, ValueError)
    assert caught.value.field == "payload"
    # What is told of a payload fits a line of a log.
    assert len(str(caught.value)) < 300


async def test_the_limit_of_size_is_the_services(engine: AsyncEngine) -> None:
    service = ExecutionService(engine, max_payload_bytes=10)
    with pytest.raises(InvalidPayload, match="is 11 bytes as JSON, the limit is 10"):
        await service.invoke("send", "123456789")
    assert (await service.invoke("send", "12345678")).created


@pytest.mark.parametrize(("payload", "code"), JSON_TEXTS.values(), ids=list(JSON_TEXTS))
async def test_a_payload_as_text_that_is_no_json(
    executions: ExecutionService, engine: AsyncEngine, payload: str, code: str
) -> None:
    """An ``Invocation`` takes its payload encoded: then the database has the last word."""
    with pytest.raises(DBAPIError) as caught:
        await executions.invoke_many(
            [Invocation(task_key="send"), Invocation(task_key="send", payload=payload)]
        )
    assert sqlstate(caught.value) == code
    assert cause(caught.value) is Cause.VALUE
    with pytest.raises(DBAPIError) as by_sql:
        async with engine.begin() as connection:
            await connection.execute(
                text("SELECT id FROM pgconductor.invoke('send', p_payload => (:it)::text::jsonb)"),
                {"it": payload},
            )
    assert sqlstate(by_sql.value) == code


# --- names, times, numbers -----------------------------------------------------------------------


@pytest.mark.parametrize(("field", "value", "kind", "message"), FIELDS)
async def test_a_field_out_of_its_range(
    executions: ExecutionService,
    field: str,
    value: Any,
    kind: type[InvalidInput],
    message: str,
) -> None:
    given: dict[str, Any] = {"task_key": "send", field: value}
    with pytest.raises(kind) as caught:
        await executions.invoke(**given)
    with pytest.raises(kind) as in_batch:
        Invocation(**given)
    assert type(caught.value) is type(in_batch.value) is kind
    assert str(caught.value) == str(in_batch.value)
    assert message in str(caught.value)
    # `task` is what callers call it.
    assert caught.value.field == field.replace("task_key", "task")


async def test_run_at_and_delay_contradict_each_other(executions: ExecutionService) -> None:
    with pytest.raises(InvalidInput, match="give run_at or delay, not both"):
        await executions.invoke("send", run_at=LATER, delay=timedelta(1))


async def test_too_many_at_once(executions: ExecutionService) -> None:
    many = [Invocation(task_key="send")] * 10_001
    with pytest.raises(InvalidInput, match="invocations: at most 10000 at once"):
        await executions.invoke_many(many)


async def test_the_limits_themselves_are_accepted(engine: AsyncEngine) -> None:
    service = ExecutionService(engine)
    made = await service.invoke(
        "a" * 128,
        nested(64),
        queue="a" * 48,
        run_at=datetime(8999, 12, 31, tzinfo=UTC),
        priority=-32_767,
        dedupe_key="ä" * 256,
        max_attempts=1_000_000,
        max_crashes=1_000_000,
    )
    assert (await service.get(made.id)).payload == nested(64)
    await service.invoke("send", [2**63 - 1, -(2**63), 5e-324, "\U0001f600"], delay=timedelta(3653))


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("NULL", "23502"),
        ("''", "23514"),
        ("'1st'", "23514"),
        ("repeat('a', 129)", "23514"),
        ("'send', ''", "23514"),
        ("'send', 'Mail'", "23514"),
        ("'send', 'a b'", "23514"),
        ("'send', E'a\\n'", "23514"),
        ("'send', repeat('a', 70)", "23514"),
        ("'send', p_dedupe_key => ''", "23514"),
        ("'send', p_dedupe_key => repeat('a', 513)", "23514"),
        # Longer than what an index could hold: still the rule, not the index, says so.
        ("'send', p_dedupe_key => repeat(md5('a'), 1000)", "23514"),
        ("'send', p_run_at => 'infinity'", "23514"),
        ("'send', p_run_at => '-infinity'", "23514"),
        ("'send', p_priority => -32768", "23514"),
        ("'send', p_priority => 32768", "22003"),
        ("'send', p_dedupe_key => 'a' || chr(0)", "54000"),
        ("'send', p_dedupe_key => E'\\\\000'::bytea::text || E'\\x00'", "22021"),
        ("'send', p_queue => 'mail', p_delay => interval '1 s'", "42883"),
    ],
)
async def test_what_sql_may_not_say(
    executions: ExecutionService, engine: AsyncEngine, arguments: str, code: str
) -> None:
    with pytest.raises(DBAPIError) as caught:
        async with engine.begin() as connection:
            await connection.exec_driver_sql(f"SELECT id FROM pgconductor.invoke({arguments})")
    assert sqlstate(caught.value) == code


# --- garbage that SQL has stored -----------------------------------------------------------------

GARBAGE = {
    "an integer of 5,000 digits": "repeat('9', 5000)",
    "depth 300": "repeat('[', 300) || repeat(']', 300)",
    "depth 3,000": "repeat('[', 3000) || repeat(']', 3000)",
    "a number that no float can hold": "repeat('9', 400) || '.5'",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=list(GARBAGE))
async def test_garbage_spoils_nobody_elses_day(engine: AsyncEngine, garbage: str) -> None:
    service, orchestrators = ExecutionService(engine), OrchestratorService(engine)
    first = await service.invoke("send", {"number": 1})
    async with engine.begin() as connection:
        spoilt = await connection.scalar(
            text(f"SELECT id FROM pgconductor.invoke('send', p_payload => ({garbage})::jsonb)")
        )
    second = await service.invoke("send", {"number": 2})

    page = await service.list()
    assert {one.id for one in page.items} == {first.id, spoilt, second.id}
    # An operator is shown what there is.
    assert isinstance((await service.get(spoilt)).payload, str)
    assert (await service.get(first.id)).payload == {"number": 1}

    registration = await orchestrators.register()
    fetched = await service.fetch(registration, limit=10)
    decoded: dict[UUID, Any] = {}
    for one in fetched:
        try:
            decoded[one.id] = decode(one.payload)
        except PayloadDecodeError as error:
            decoded[one.id] = error
    assert decoded[first.id] == {"number": 1}
    assert decoded[second.id] == {"number": 2}
    assert isinstance(decoded[spoilt], PayloadDecodeError)
    assert len(str(decoded[spoilt])) < 300
    await orchestrators.leave(registration)


async def test_1e400_is_an_integer_to_the_database(engine: AsyncEngine) -> None:
    """Postgres stores the number, not its spelling: it comes back with 401 digits, and exact."""
    service = ExecutionService(engine)
    async with engine.begin() as connection:
        made = await connection.scalar(text("SELECT id FROM pgconductor.invoke('a', 'b', '1e400')"))
    assert (await service.get(made)).payload == 10**400


@pytest.mark.parametrize(
    ("stored", "read"), [('{"a": 1, "a": 2}', {"a": 2}), ("-0.0", 0.0), ("1e2", 100)]
)
async def test_what_json_leaves_open(engine: AsyncEngine, stored: str, read: Any) -> None:
    """Documented: the last of equal keys wins, and a number is a number however it is written."""
    service = ExecutionService(engine)
    (made,) = await service.invoke_many([Invocation(task_key="send", payload=stored)])
    assert (await service.get(made.id)).payload == read


# --- other arguments -----------------------------------------------------------------------------


async def test_reading_and_operating(executions: ExecutionService) -> None:
    nobody = uuid4()
    with pytest.raises(ExecutionNotFound, match=str(nobody)):
        await executions.get(nobody)
    with pytest.raises(ExecutionNotFound):
        await executions.retry(nobody)
    assert await executions.cancel(nobody) is False
    for limit in (0, -1, 1_001, True, "5"):
        with pytest.raises(InvalidInput, match="limit"):
            await executions.list(limit=limit)  # type: ignore[arg-type]
    naive = LATER.replace(tzinfo=None)
    filters: list[dict[str, Any]] = [{"queue": "No"}, {"task_key": "a b"}, {"created_after": naive}]
    for wrong in filters:
        with pytest.raises(InvalidInput):
            ExecutionFilter(**wrong)
    with pytest.raises(ValueError, match="done"):
        ExecutionFilter(states=("done",))  # type: ignore[arg-type]


@pytest.mark.parametrize("reason", ["a\x00", "\ud800", 7, b"why"])
async def test_a_reason_that_cannot_be_stored(executions: ExecutionService, reason: Any) -> None:
    with pytest.raises(InvalidInput, match="reason"):
        await executions.cancel(uuid4(), reason=reason)


def test_a_session_of_the_wrong_kind() -> None:
    with pytest.raises(WrongSession, match="use invoke_sync or emit_sync with it, or an Async"):
        ExecutionService(Session())  # type: ignore[arg-type]
    for wrong in (None, "postgresql://", object(), 7):
        with pytest.raises(WrongSession, match="an AsyncSession, AsyncConnection, AsyncEngine or"):
            ExecutionService(wrong)  # type: ignore[arg-type]
    assert issubclass(WrongSession, PgconductorError)
