"""Invocations, tasks and claims: valid by construction."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from pgconductor.domain.claims import Claim, Fetched, Registration
from pgconductor.domain.ids import new_id
from pgconductor.domain.invocations import DedupeScope, Invocation
from pgconductor.domain.retry import RetryPolicy
from pgconductor.domain.revisions import KNOWN_REVISION, REQUIRED_REVISION, SchemaStatus
from pgconductor.domain.tasks import TaskOptions
from pgconductor.exceptions import InvalidInput, NaiveDatetime, SchemaBehind, SchemaTooNew
from pgconductor.types import ExecutionState

NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)


def test_an_invocation_has_an_id_before_it_commits() -> None:
    one, two = Invocation(task_key="greet"), Invocation(task_key="greet")
    assert one.id != two.id
    assert one.id.version == 7
    assert (one.queue, one.priority, one.payload, one.dedupe_key) == ("default", 0, None, None)
    assert one.dedupe_scope is DedupeScope.UNFINISHED


def test_ids_are_ordered_by_time() -> None:
    ids = [new_id() for _ in range(1_000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 1_000


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"task_key": ""}, "task"),
        ({"queue": "No"}, "queue"),
        ({"priority": 99_999}, "priority"),
        ({"run_at": NOW.replace(tzinfo=None)}, "run_at"),
        ({"run_at": "now"}, "run_at"),
        ({"delay": -HOUR}, "delay"),
        ({"delay": 5}, "delay"),
        ({"run_at": NOW, "delay": timedelta(0)}, "delay"),
        ({"dedupe_key": ""}, "dedupe_key"),
        ({"dedupe_scope": "ever"}, "dedupe_scope"),
        ({"dedupe_scope": None}, "dedupe_scope"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_attempts": 1_000_001}, "max_attempts"),
        ({"max_crashes": True}, "max_crashes"),
    ],
)
def test_an_invocation_that_is_not_valid_cannot_be_made(
    options: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        Invocation(**{"task_key": "greet", **options})
    assert caught.value.field == field
    if field == "run_at" and isinstance(options["run_at"], datetime):
        assert isinstance(caught.value, NaiveDatetime)


@pytest.mark.parametrize("scope", ["retained", DedupeScope.RETAINED])
def test_a_scope_is_the_scope_however_it_is_given(scope: Any) -> None:
    """A string compares equal to it, and an identity check would not see that."""
    made = Invocation(task_key="greet", dedupe_key="k", dedupe_scope=scope)
    assert made.dedupe_scope is DedupeScope.RETAINED


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"key": "no spaces"}, "name"),
        ({"queue": ""}, "queue"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_crashes": 0}, "max_crashes"),
        ({"timeout": timedelta(0)}, "timeout"),
        ({"timeout": 30}, "timeout"),
    ],
)
def test_task_options_that_are_not_valid_cannot_be_made(
    options: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        TaskOptions(**{"key": "greet", **options})
    assert caught.value.field == field


def test_the_defaults_of_a_task() -> None:
    options = TaskOptions("greet")
    assert (options.queue, options.max_attempts, options.max_crashes) == ("default", 3, 3)
    assert (options.timeout, options.retry) == (None, RetryPolicy())
    assert TaskOptions("greet", timeout=HOUR, max_crashes=1).timeout == HOUR


def test_no_claim_is_made_twice() -> None:
    """I1: not within one orchestrator's life, and no two orchestrators share an identity."""
    one, other = Registration(new_id(), 1), Registration(new_id(), 1)
    claims = [owner.next_claim() for owner in (one, one, other, one)]
    assert [claim.number for claim in claims] == [1, 2, 1, 3]
    assert len(set(claims)) == 4
    assert claims[0] == Claim(one.orchestrator_id, 1)


def test_registrations_compare_by_identity() -> None:
    identity = new_id()
    one, same = Registration(identity, 1), Registration(identity, 1)
    one.next_claim()
    assert one == same
    assert hash(one) == hash(same)
    assert "count" not in repr(one)


@pytest.mark.parametrize(
    ("crashes", "max_crashes", "alone"),
    [(0, 1, False), (0, 2, False), (1, 2, True), (1, 3, False), (2, 3, True), (0, 3, False)],
)
def test_alone_is_one_crash_short_of_the_limit(crashes: int, max_crashes: int, alone: bool) -> None:
    fetched = Fetched(
        id=UUID(int=1), claim=Claim(UUID(int=2), 1), task_key="greet", queue="default",
        payload=None, attempt=1, max_attempts=3, crashes=crashes, max_crashes=max_crashes,
        priority=0, run_at=NOW, created_at=NOW,
    )  # fmt: skip
    assert fetched.alone is alone


def test_three_states_are_finished() -> None:
    finished = {state.value for state in ExecutionState if state.finished}
    assert finished == {"completed", "failed", "cancelled"}


# --- revisions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("installed", "floor", "known", "required", "error"),
    [
        (1, 0, 1, 1, None),
        (5, 0, 1, 1, None),
        (5, 1, 1, 1, None),
        (5, 2, 1, 1, SchemaTooNew),
        (2, 2, 1, 1, SchemaTooNew),
        (1, 0, 3, 2, SchemaBehind),
        (2, 0, 3, 2, None),
        (0, 0, 1, 1, SchemaBehind),
    ],
)
def test_who_may_work_on_which_schema(
    installed: int, floor: int, known: int, required: int, error: type[Exception] | None
) -> None:
    status = SchemaStatus(installed, floor)
    if error is None:
        status.check(known, required)
        return
    with pytest.raises(error, match=f"{installed:04d}"):
        status.check(known, required)


def test_this_release_can_work_on_its_own_schema() -> None:
    assert REQUIRED_REVISION <= KNOWN_REVISION
    SchemaStatus(KNOWN_REVISION, KNOWN_REVISION).check()
