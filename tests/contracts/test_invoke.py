"""invoke -> available: visible exactly if the transaction commits; refused input writes nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from pgconductor.domain.invocations import Invocation
from pgconductor.domain.payloads import decode
from pgconductor.domain.tasks import TaskOptions
from pgconductor.exceptions import (
    ExecutionNotFound,
    InvalidInput,
    InvalidName,
    InvalidPayload,
    NaiveDatetime,
    PayloadDecodeError,
)
from pgconductor.types import ExecutionState
from tests.contracts.harness import Harness

HOUR = timedelta(hours=1)


async def test_an_invoked_execution_is_available(db: Harness) -> None:
    before = await db.now()
    invoked = await db.executions.invoke("greet", {"name": "Ada"}, priority=5, dedupe_key="once")
    assert invoked.created
    found = await db.get(invoked.id)
    assert (found.id, found.task_key, found.queue) == (invoked.id, "greet", "default")
    assert found.state is ExecutionState.AVAILABLE
    assert found.payload == {"name": "Ada"}
    assert (found.priority, found.dedupe_key) == (5, "once")
    assert (found.attempts, found.max_attempts) == (0, 3)
    assert (found.crashes, found.max_crashes) == (0, 3)
    assert before <= found.created_at == found.run_at <= await db.now()
    nothing = {
        "result", "last_error", "last_error_type", "last_error_traceback", "locked_by",
        "locked_at", "claim_number", "finished_by", "cancel_requested_at", "cancel_reason",
        "parent_id", "finished_at",
    }  # fmt: skip
    assert all(getattr(found, name) is None for name in nothing)


@pytest.mark.parametrize(
    "payload",
    [
        None, True, 0, -(2**63), 2**63 - 1, 1.5, "", "ü\U0001f600\u2028'\"\\", [], {}, [None, [1]],
        {"a": {"b": [1, "2", None]}, "": 0},
    ],
    ids=repr,
)  # fmt: skip
async def test_a_payload_comes_back_as_it_was_given(db: Harness, payload: Any) -> None:
    _, fetched = await db.running(payload=payload)
    assert decode(fetched.payload) == payload
    assert (await db.get(fetched.id)).payload == payload


async def test_run_at_is_by_the_databases_clock(db: Harness) -> None:
    """I6."""
    owner = await db.register()
    when = await db.now() + HOUR
    later = await db.invoke(run_at=when)
    assert (await db.get(later)).run_at == when
    assert await db.fetch_ids(owner) == []
    db.advance(HOUR)
    assert await db.fetch_ids(owner) == [later]


async def test_a_run_at_in_another_zone_is_the_same_instant(db: Harness) -> None:
    from zoneinfo import ZoneInfo

    when = datetime(2031, 7, 1, 12, tzinfo=ZoneInfo("Asia/Kolkata"))
    found = await db.get(await db.invoke(run_at=when))
    assert found.run_at == when == datetime(2031, 7, 1, 6, 30, tzinfo=UTC)


async def test_a_delay_counts_from_the_databases_now(db: Harness) -> None:
    """I6: also where that clock is hours off from this machine's."""
    db.advance(timedelta(days=-2))
    owner = await db.register()
    later = await db.invoke(delay=HOUR)
    at_once = await db.invoke(delay=timedelta(0))
    assert await db.fetch_ids(owner) == [at_once]
    db.advance(HOUR)
    assert await db.fetch_ids(owner) == [later]


async def test_limits_come_from_the_call_the_task_or_the_default(db: Harness) -> None:
    declared = TaskOptions("greet", max_attempts=7, max_crashes=2)
    await db.orchestrators.declare([declared], [])
    found = await db.get(await db.invoke("greet"))
    assert (found.max_attempts, found.max_crashes) == (7, 2)
    found = await db.get(await db.invoke("greet", max_attempts=1, max_crashes=9))
    assert (found.max_attempts, found.max_crashes) == (1, 9)
    found = await db.get(await db.invoke("other"))
    assert (found.max_attempts, found.max_crashes) == (3, 3)


async def test_many_are_answered_in_their_order(db: Harness) -> None:
    tasks = ["zeta", "alpha", "mid", "alpha"]
    invocations = [Invocation(task_key=task, queue=f"q-{task}") for task in tasks]
    answers = await db.executions.invoke_many(invocations)
    assert [one.id for one in answers] == [one.id for one in invocations]
    assert all(one.created for one in answers)
    assert [(await db.get(one.id)).task_key for one in answers] == tasks
    assert await db.executions.invoke_many([]) == []


async def test_a_rollback_leaves_nothing(db: Harness) -> None:
    """Visible exactly if the caller's transaction commits."""
    invocation = Invocation(task_key="greet")
    async with db.rolled_back() as repositories:
        (answer,) = await repositories.executions.add_many([invocation])
        assert answer.created
        assert await repositories.executions.get_one_or_none(invocation.id) is not None
    with pytest.raises(ExecutionNotFound):
        await db.get(invocation.id)


async def test_others_see_nothing_before_the_commit(db: Harness) -> None:
    invocation = Invocation(task_key="greet")
    async with db.begin() as repositories:
        await repositories.executions.add_many([invocation])
        with pytest.raises(ExecutionNotFound):
            await db.get(invocation.id)
    assert (await db.get(invocation.id)).state is ExecutionState.AVAILABLE


async def test_an_id_is_never_used_twice(db: Harness) -> None:
    invocation = Invocation(task_key="greet")
    await db.executions.invoke_many([invocation])
    with pytest.raises(InvalidInput, match="is there already"):
        await db.executions.invoke_many([Invocation(task_key="other"), invocation])
    assert sum((await db.executions.count()).values()) == 1


BAD: list[tuple[dict[str, Any], type[InvalidInput]]] = [
    ({"task_key": ""}, InvalidName),
    ({"task_key": "no spaces"}, InvalidName),
    ({"queue": "Upper"}, InvalidName),
    ({"queue": "q" * 49}, InvalidName),
    ({"payload": "\x00"}, InvalidPayload),
    ({"payload": ["\ud800"]}, InvalidPayload),
    ({"payload": {"x": float("nan")}}, InvalidPayload),
    ({"payload": float("-inf")}, InvalidPayload),
    ({"payload": 2**63}, InvalidPayload),
    ({"payload": {1: 2}}, InvalidPayload),
    ({"payload": {1, 2}}, InvalidPayload),
    ({"payload": "x" * (256 * 1024)}, InvalidPayload),
    ({"run_at": datetime(2026, 1, 1)}, NaiveDatetime),  # noqa: DTZ001 - that is the point
    ({"run_at": datetime(9999, 1, 1, tzinfo=UTC)}, InvalidInput),
    ({"run_at": datetime(2026, 1, 1, tzinfo=UTC), "delay": HOUR}, InvalidInput),
    ({"delay": -HOUR}, InvalidInput),
    ({"delay": timedelta(days=3654)}, InvalidInput),
    ({"priority": 32_768}, InvalidInput),
    ({"priority": True}, InvalidInput),
    ({"dedupe_key": ""}, InvalidName),
    ({"dedupe_key": "k" * 513}, InvalidName),
    ({"dedupe_key": "\x00"}, InvalidInput),
    ({"dedupe_key": "k", "dedupe_scope": "for ever"}, InvalidInput),
    ({"max_attempts": 0}, InvalidInput),
    ({"max_crashes": 0}, InvalidInput),
]


@pytest.mark.parametrize(("options", "error"), BAD, ids=[repr(bad)[:50] for bad, _ in BAD])
async def test_bad_input_writes_nothing(
    db: Harness, options: dict[str, Any], error: type[InvalidInput]
) -> None:
    with pytest.raises(error):
        await db.invoke(**options)
    assert sum((await db.executions.count()).values()) == 0


async def test_too_many_are_refused(db: Harness) -> None:
    with pytest.raises(InvalidInput, match="10000"):
        await db.executions.invoke_many([Invocation(task_key="greet")] * 10_001)
    async with db.begin() as repositories:
        with pytest.raises(InvalidInput, match="10000"):
            await repositories.executions.add_many([Invocation(task_key="greet")] * 10_001)
        assert await repositories.executions.add_many([]) == []


async def test_an_unreadable_payload_spoils_only_its_own_execution(db: Harness) -> None:
    """A number of 5,000 digits can be stored from SQL; no driver may choke on the batch."""
    owner = await db.register()
    huge = Invocation(task_key="greet", payload="1" * 5_000)
    await db.executions.invoke_many([huge])
    good = await db.invoke(payload=1)
    first, second = await db.fetch(owner)
    assert (first.id, second.id) == (huge.id, good)
    with pytest.raises(PayloadDecodeError):
        decode(first.payload)
    assert decode(second.payload) == 1
    assert (await db.get(huge.id)).payload == "1" * 5_000
    assert len((await db.executions.list()).items) == 2


async def test_only_what_is_due_wakes_its_queue(db: Harness) -> None:
    async with db.notifications() as sent:
        await db.invoke(delay=HOUR)
        await db.executions.invoke_many(
            [
                Invocation(task_key="greet", queue=queue, delay=delay)
                for queue, delay in [("mail", None), ("mail", None), ("sms", None), ("fax", HOUR)]
            ]
        )
    assert sorted(sent) == [("pgconductor_available", "mail"), ("pgconductor_available", "sms")]


async def test_a_dedupe_hit_or_a_rollback_wakes_nobody(db: Harness) -> None:
    await db.invoke(dedupe_key="k")
    async with db.notifications() as sent:
        await db.invoke(dedupe_key="k")
        async with db.rolled_back() as repositories:
            await repositories.executions.add_many([Invocation(task_key="greet")])
    assert sent == []


async def test_the_id_is_known_before_the_commit_and_ordered_by_time(db: Harness) -> None:
    ids = await db.invoke_several(20)
    assert ids == sorted(ids)
    assert {one.version for one in ids} == {7}
    assert all(isinstance(one, UUID) for one in ids)


async def test_the_same_invocation_twice_in_a_batch_is_refused(db: Harness) -> None:
    invocation = Invocation(task_key="greet")
    with pytest.raises(InvalidInput, match="invocations"):
        await db.executions.invoke_many([invocation, invocation])
    assert not (await db.executions.list()).items
