"""JSON comes back as ``jsonb`` has it, from the fake too: not quite as it was given."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from pgconductor.domain.invocations import Invocation
from pgconductor.domain.outcomes import Completed
from pgconductor.domain.payloads import decode
from pgconductor.domain.steps import StepKind, StepRecord, StepStart
from pgconductor.exceptions import InvalidPayload
from pgconductor.testing.jsonb import as_jsonb
from tests.contracts.harness import Harness
from tests.integration.bad_values import JSON_TEXTS

#: What is given, and what comes back.
CASES = [
    ('{"bb":1,"a":2,"Z":3,"é":4,"aa":5}', '{"Z": 3, "a": 2, "aa": 5, "bb": 1, "é": 4}'),
    ('{"a":{"d":[1,2],"c":{}},"a":{"y":1,"x":[]}}', '{"a": {"x": [], "y": 1}}'),
    ("[-0.0,-0,0.0,1.50,-0e3]", "[0.0, 0, 0.0, 1.50, 0]"),
    ("[1e22,1.5E3,-2.50e1,1e-7,12e-1]", "[10000000000000000000000, 1500, -25.0, 0.0000001, 1.2]"),
    (' [ true ,null,"\\u00e9\\/\\u0001\\"" ] ', '[true, null, "é/\\u0001\\""]'),
    ("18446744073709551617", "18446744073709551617"),
]


@pytest.mark.parametrize(("given", "stored"), CASES)
async def test_it_is_the_same_wherever_it_is_stored(db: Harness, given: str, stored: str) -> None:
    owner = await db.register()
    await db.executions.invoke_many([Invocation(task_key="greet", payload=given)])
    (held,) = await db.fetch(owner)
    assert held.payload == stored
    async with db.begin() as repositories:
        steps = repositories.steps
        assert await steps.record(StepRecord(held.id, held.claim, "one", given)) == stored
        (many,) = await steps.record_many([StepRecord(held.id, held.claim, "many", given)])
        assert getattr(many, "result", None) == stored
        wait = StepStart(
            execution_id=held.id,
            claim=held.claim,
            key="wait",
            kind=StepKind.EVENT,
            detail="told",
            text=given,
        )
        await steps.start_many([wait])
    await db.executions.emit_text("told", given)
    async with db.begin() as repositories:
        (settled,) = await repositories.steps.settle({held.id: 0})
        assert [one.result for one in settled.ended] == [stored]
    assert await db.results(held.id) == {"one": stored, "many": stored, "wait": stored}
    await db.report(Completed(held.id, held.claim, given))
    # Compared as text: 1e22 and 10**22 are equal, and the order of keys is not looked at.
    assert json.dumps((await db.get(held.id)).result) == json.dumps(decode(stored))


@pytest.mark.parametrize("given", [text for text, _ in JSON_TEXTS.values()], ids=list(JSON_TEXTS))
async def test_what_jsonb_cannot_hold_is_refused(db: Harness, given: str) -> None:
    refused = pytest.raises((DBAPIError, InvalidPayload))
    with refused:
        await db.executions.invoke_many(
            [Invocation(task_key="greet"), Invocation(task_key="greet", payload=given)]
        )
    with refused:
        await db.executions.emit_text("told", given)
    assert sum((await db.executions.count()).values()) == 0


def _object(pairs: list[tuple[str, str]]) -> str:
    return "{" + ",".join(f"{json.dumps(key)}:{value}" for key, value in pairs) + "}"


NUMBERS = st.from_regex(
    r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,12})?([eE][+-]?[0-9]{1,3})?", fullmatch=True
)
STRINGS = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=8)
TEXTS = st.recursive(
    NUMBERS | STRINGS.map(json.dumps) | st.sampled_from(["true", "false", "null"]),
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda many: f"[{','.join(many)}]")
        | st.lists(st.tuples(STRINGS, inner), max_size=5).map(_object)
    ),
    max_leaves=10,
)


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(TEXTS)
@example("1e400")
@example("-0.000e-5")
@example("0e700")
def test_the_fake_writes_as_postgres_does(sync_engine: Engine, given: str) -> None:
    with sync_engine.connect() as connection:
        statement = text("SELECT CAST(CAST(CAST(:given AS text) AS jsonb) AS text)")
        found: Any = connection.execute(statement, {"given": given}).scalar_one()
    assert as_jsonb(given, "payload") == found


def test_what_postgres_would_refuse_for_its_size_is_left_alone() -> None:
    assert as_jsonb("[1e999999999, 1e-999999999]", "x") == "[1e999999999, 1e-999999999]"
    assert as_jsonb(None, "x") is None
