"""What the boundary accepts, PostgreSQL stores, and gives back as it was."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from pgconductor.domain.failures import storable
from pgconductor.domain.limits import check_dedupe_key, check_queue, check_task_key
from pgconductor.domain.payloads import decode, encode
from pgconductor.exceptions import InvalidInput

STORE = text(
    "INSERT INTO pgconductor.executions (id, task_key, queue, dedupe_key, payload, last_error)"
    " VALUES (gen_random_uuid(), :task_key, :queue, :dedupe_key, CAST(:payload AS jsonb), :error)"
    " RETURNING task_key, queue, dedupe_key, CAST(payload AS text) AS payload, last_error"
)
PLAIN: dict[str, Any] = {
    "task_key": "greet", "queue": "default", "dedupe_key": None, "payload": None, "error": None,
}  # fmt: skip
# The database is the same for all examples: each rolls back.
examples = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
TEXTS = st.text(st.characters() | st.sampled_from("\x00\ud800aZ09_-.:/ \n\\'\""), max_size=60)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | TEXTS
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


def stored(engine: Engine, **values: Any) -> Any:
    """The row as it would be read, or the constraint that it violates."""
    with engine.connect() as connection:
        return connection.execute(STORE, {**PLAIN, **values}).one()


def as_floats(value: Any) -> Any:
    """JSON has one kind of number: 1e22 is stored, and read, as a whole one."""
    match value:
        case dict():
            return {key: as_floats(one) for key, one in value.items()}
        case list():
            return [as_floats(one) for one in value]
        case float():
            return value or 0.0  # there is no negative zero
        case int() if not isinstance(value, bool) and abs(value) > 2**53:
            return float(value)
        case _:
            return value


@examples
@given(VALUES)
def test_a_payload_is_stored_as_it_was_encoded(sync_engine: Engine, value: Any) -> None:
    try:
        encoded = encode(value)
    except InvalidInput:
        return
    found = stored(sync_engine, payload=encoded).payload
    assert as_floats(decode(found)) == as_floats(value)


@examples
@given(TEXTS)
def test_an_error_is_stored_whatever_it_says(sync_engine: Engine, message: str) -> None:
    message = storable(message, 50)
    assert stored(sync_engine, error=message).last_error == message


@examples
@given(TEXTS)
def test_accepted_names_and_keys_satisfy_the_constraints(sync_engine: Engine, name: str) -> None:
    for column, check in (
        ("task_key", check_task_key),
        ("queue", check_queue),
        ("dedupe_key", check_dedupe_key),
    ):
        try:
            check(name)
        except InvalidInput:
            continue
        assert stored(sync_engine, **{column: name})._mapping[column] == name


@pytest.mark.parametrize(
    ("column", "value"),
    [("task_key", "a" * 128), ("queue", "a" * 48), ("dedupe_key", "k" * 512),
     ("dedupe_key", "中" * 170)],
)  # fmt: skip
def test_the_longest_names_fit(sync_engine: Engine, column: str, value: str) -> None:
    assert stored(sync_engine, **{column: value})._mapping[column] == value
