"""Many waits and many events at once: who takes what is as a plain reading of the rule says."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select

from pgconductor.domain.claims import Fetched
from pgconductor.domain.ids import new_id
from pgconductor.domain.invocations import Invocation
from pgconductor.domain.steps import Recorded, StepKind
from pgconductor.models import Step
from tests.contracts.harness import Harness, PostgresHarness
from tests.contracts.waits import (
    begin,
    emit,
    ended,
    event,
    fetched_again,
    history,
    retry_from,
    settle,
)

MANY = 300
#: What waits ask for: shapes that share values, so that one event is for several of them.
MATCHES: list[Any] = [
    None,
    {},
    {"a": 1},
    {"a": 2},
    {"b": 1},
    {"a": 1, "b": 1},
    {"a": 1, "b": 2},
    {"c": {"a": 1}},
    {"c": {"a": 1}, "b": 2},
    {"c": {}},
    {"l": [1]},
    {"l": [1, 2], "a": 1},
    {"a": None},
    {"a": True},
    {"a": "1"},
    [1],
    1,
]


def contains(whole: Any, part: Any) -> bool:
    """What ``@>`` says of the payloads and matches of this file."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(
            key in whole and contains(whole[key], part[key]) for key in part
        )
    if isinstance(part, list):
        return isinstance(whole, list) and all(
            any(contains(one, other) for one in whole) for other in part
        )
    return type(whole) is type(part) and whole == part


def is_for(payload: Any, match: Any) -> bool:
    if match is None:
        return True
    if isinstance(payload, list) and not isinstance(match, list | dict):
        return any(contains(one, match) for one in payload)
    return payload is not None and contains(payload, match)


@dataclass
class Oracle:
    """The rule, word by word: waits in the order of their beginning, each takes its first event."""

    waits: list[tuple[str, Any]] = field(default_factory=list[tuple[str, Any]])
    events: list[Any] = field(default_factory=list[Any])
    took: dict[str, int] = field(default_factory=dict[str, int])

    def settle(self) -> dict[str, Any]:
        for key, match in self.waits:
            if key in self.took:
                continue
            for number, payload in enumerate(self.events):
                if number not in self.took.values() and is_for(payload, match):
                    self.took[key] = number
                    break
        return {key: self.events[number] for key, number in self.took.items()}


def text_of(value: Any) -> str | None:
    return None if value is None else json.dumps(value)


async def begin_many(
    db: Harness, held: Fetched, name: str, waits: Sequence[tuple[str, Any]]
) -> None:
    await begin(db, *(event(held, key, text_of(match), detail=name) for key, match in waits))


async def emit_many(db: Harness, name: str, payloads: Sequence[Any]) -> None:
    async with db.begin() as repositories:
        for payload in payloads:
            await repositories.steps.emit(name, text_of(payload))


async def taken(db: Harness, held: Fetched) -> dict[str, Any]:
    return {
        key: None if one.result is None else json.loads(one.result)
        for key, one in (await history(db, held)).items()
        if not one.pending
    }


def any_payload(dice: random.Random, numbers: int) -> Any:
    if dice.random() < 0.1:
        return dice.choice([None, [1, 2], 1, "1", {}])
    payload: dict[str, Any] = {
        "a": dice.choice([1, 2, None, True, "1"]),
        "n": dice.randrange(numbers),
    }
    if dice.random() < 0.5:
        payload["b"] = dice.choice([1, 2])
    if dice.random() < 0.3:
        payload["c"] = {"a": dice.choice([1, 2]), "x": 1}
    if dice.random() < 0.3:
        payload["l"] = dice.sample([1, 2, 3], 2)
    return payload


def any_match(dice: random.Random, numbers: int) -> Any:
    if dice.random() < 0.5:
        match = {"n": dice.randrange(numbers)}
        return match if dice.random() < 0.7 else {**match, "a": 1}
    return dice.choice(MATCHES)


@pytest.mark.parametrize("most", [3, 12, 60, MANY])
@pytest.mark.parametrize("seed", range(4))
async def test_waits_take_what_the_rule_says(db: Harness, seed: int, most: int) -> None:
    """Whatever begins, is emitted, is looked at and is settled, in whatever order and number."""
    dice = random.Random(f"{seed} {most}")
    _, held = await db.running()
    _, other = await db.running()
    await begin(db, event(other, "another execution takes for itself", detail="busy"))
    oracle = Oracle()
    for _ in range(6):
        for act in dice.sample(["begin", "emit", "emit", "settle", "settle_due"], 5):
            if act == "begin":
                made = [
                    (f"{dice.random()}", any_match(dice, most))
                    for _ in range(dice.randint(1, max(most // 6, 1)))
                ]
                await begin_many(db, held, "busy", made)
                oracle.waits += made
            elif act == "emit":
                made_events = [
                    any_payload(dice, most) for _ in range(dice.randint(1, max(most // 8, 1)))
                ]
                await emit_many(db, "busy", made_events)
                oracle.events += made_events
                db.advance(timedelta(milliseconds=dice.choice([0, 1])))
            elif act == "settle":
                await settle(db, held)
                assert await taken(db, held) == oracle.settle()
            else:
                # A wait is looked at by its owner first; everybody else looks for what is new.
                await settle(db, held)
                await db.steps.settle_due()
                assert await taken(db, held) == oracle.settle()
    assert (await history(db, other))["another execution takes for itself"].pending is False


SAME = {"kind": "vote"}
#: What each of many waits asks for, and what each of as many events says.
MIXES: dict[str, tuple[Any, Any]] = {
    "none": (lambda _: None, lambda n: {"n": n}),
    "same": (lambda _: SAME, lambda n: {**SAME, "n": n}),
    "each": (lambda n: {"n": n}, lambda n: {"n": MANY - 1 - n}),
    "nested": (lambda n: {"o": {"n": n}}, lambda n: {"o": {"n": n, "x": 1}}),
    "lists": (lambda n: {"l": [n]}, lambda n: {"l": [n, -1]}),
    "mixed": (
        lambda n: (None, SAME, {"n": n})[n % 3],
        lambda n: {**SAME, "n": MANY - 1 - n},
    ),
}


@pytest.mark.parametrize("looked", [False, True])
@pytest.mark.parametrize("mix", MIXES)
async def test_many_waits_take_many_events_in_one_call(db: Harness, mix: str, looked: bool) -> None:
    match, payload = MIXES[mix]
    _, held = await db.running()
    waits = [(f"w{n}", match(n)) for n in range(MANY)]
    events = [payload(n) for n in range(MANY)]
    await begin_many(db, held, "busy", waits)
    if looked:
        assert (await settle(db, held)).ended == ()
    await emit_many(db, "busy", events)
    found = await settle(db, held)
    assert found.wakes == 1
    assert await taken(db, held) == Oracle(waits, events).settle()


@pytest.mark.parametrize("owned", [False, True])
async def test_many_executions_take_one_event_each(db: Harness, owned: bool) -> None:
    """Of one name, each its own: more than are compared one by one."""
    owner = await db.register()
    await db.invoke_several(40)
    held = await db.fetch(owner)
    for number, one in enumerate(held):
        await begin(db, event(one, match=f'{{"n": {number}}}'))
    if owned:
        await db.steps.settle({one.id: 0 for one in held})
    await emit_many(db, "paid", [{"n": number} for number in reversed(range(len(held)))])
    await db.steps.settle_due()
    for number, one in enumerate(held):
        assert await taken(db, one) == {"event": {"n": number}}


async def test_an_event_is_for_all_executions_of_one_call(db: Harness) -> None:
    owner = await db.register()
    await db.invoke_several(3)
    held = await db.fetch(owner)
    for one in held:
        await begin(db, event(one))
    await emit(db, "paid", "1")
    await db.steps.settle({one.id: 0 for one in held})
    assert [await taken(db, one) for one in held] == [{"event": 1}] * 3


# --- the order of beginning ----------------------------------------------------------------------


@pytest.mark.parametrize("keys", [("z", "a", "m"), ("vote 9", "vote 10", "vote 11")])
@pytest.mark.parametrize("match", [None, '{"a": 1}'])
async def test_what_begins_together_takes_in_the_order_of_beginning(
    db: Harness, keys: tuple[str, ...], match: str | None
) -> None:
    _, held = await db.running()
    await begin(db, *(event(held, key, match) for key in keys))
    await emit_many(db, "paid", [{"a": 1, "n": number} for number in range(len(keys))])
    assert [one.key for one in (await settle(db, held)).ended] == list(keys)
    assert await taken(db, held) == {key: {"a": 1, "n": n} for n, key in enumerate(keys)}
    assert list(await history(db, held)) == list(keys)


async def test_what_begins_one_after_the_other_does_so_too(db: Harness) -> None:
    """However fast: the fake's clock stands still meanwhile."""
    _, held = await db.running()
    for key in ("z", "a", "m"):
        await begin(db, event(held, key))
    await emit_many(db, "paid", [1, 2, 3])
    await settle(db, held)
    assert await taken(db, held) == {"z": 1, "a": 2, "m": 3}


# --- since the invocation ------------------------------------------------------------------------


@pytest.mark.parametrize("match", [None, '{"a": 1}'])
async def test_an_event_from_before_the_invocation_is_not_taken(
    db: Harness, match: str | None
) -> None:
    """Not even if hardly any time has passed, or none, where a test's clock stands still."""
    await emit(db, "paid", '{"a": 1}')
    _, held = await db.running()
    await begin(db, event(held, match=match))
    assert await ended(db, held) == {}
    await db.steps.settle_due()
    assert await ended(db, held) == {}
    await emit(db, "paid", '{"a": 1, "b": 2}')
    assert (await ended(db, held))["event"].result == '{"a": 1, "b": 2}'


async def test_an_event_of_the_transaction_that_invokes_is_taken(db: Harness) -> None:
    """Invoked is the beginning of that transaction."""
    made = new_id()
    async with db.begin() as repositories:
        await repositories.executions.add_many([Invocation(task_key="a", id=UUID(int=0x7 << 76))])
        await repositories.steps.emit("paid", "1")
        await repositories.executions.add_many([Invocation(task_key="b", id=made)])
    held = {one.id: one for one in await db.fetch(await db.register())}[made]
    await begin(db, event(held))
    assert (await ended(db, held))["event"].result == "1"


# --- what is new ---------------------------------------------------------------------------------


async def test_a_wait_that_has_looked_takes_what_is_new(db: Harness) -> None:
    _, held = await db.running()
    await emit_many(db, "paid", [{"n": n} for n in range(20)])
    await db.steps.settle_due()
    await begin(db, *(event(held, f"w{n}", f'{{"n": {n}}}') for n in range(15, 30)))
    assert set(await ended(db, held)) == {f"w{n}" for n in range(15, 20)}
    await emit_many(db, "paid", [{"n": n} for n in range(10, 25)])
    await db.steps.settle_due()
    assert set(await ended(db, held)) == {f"w{n}" for n in range(15, 25)}


async def test_what_nobody_has_looked_at_goes_to_the_older_wait(db: Harness) -> None:
    """Though it has looked before, and the younger one looks for the first time."""
    _, held = await db.running()
    await begin(db, event(held, "old", '{"a": 1}'))
    assert await ended(db, held) == {}
    await emit_many(db, "paid", [{"a": 1}])
    await begin(db, event(held, "young"))
    assert set(await ended(db, held)) == {"old"}


async def test_an_event_that_a_retry_gives_back_is_taken_by_who_is_left(db: Harness) -> None:
    """A retry goes by numbers first: so one is left that began after what has been dropped."""
    owner, held = await db.running()
    await begin(db, event(held, "a", place=6))
    await emit_many(db, "paid", [1])
    assert set(await ended(db, held)) == {"a"}
    db.advance(timedelta(milliseconds=1))
    await begin(db, event(held, "b", place=3))
    assert set(await ended(db, held)) == {"a"}
    await db.steps.settle_due()
    await db.fail(held)
    assert await retry_from(db, held.id, "a")
    again = await fetched_again(db, owner, held)
    assert await ended(db, again) == {
        "b": Recorded(key="b", kind=StepKind.EVENT, detail="paid", result="1")
    }


async def test_one_that_is_locked_holds_up_nobody(postgres: PostgresHarness) -> None:
    """More events than one look takes stay unmarked because of it; others get theirs."""
    _, frozen = await postgres.running()
    _, other = await postgres.running()
    await begin(postgres, event(frozen, "a", detail="a"), event(frozen, "b", detail="b"))
    await begin(postgres, event(other, detail="b", match="1"))
    await postgres.steps.settle({frozen.id: 0, other.id: 0})
    async with postgres.begin() as freezing:
        await freezing.executions.complete([])
        await freezing.steps.settle({frozen.id: None})
        await emit_many(postgres, "a", [{"n": n} for n in range(600)])
        await emit_many(postgres, "b", [1, 2])
        await postgres.steps.settle_due()
        assert set(await taken(postgres, other)) == {"event"}
        assert await taken(postgres, frozen) == {}
    await postgres.steps.settle_due()
    assert await taken(postgres, frozen) == {"a": {"n": 0}, "b": 1}
    async with postgres.begin() as repositories:
        assert (await repositories.steps.due(limit=9)).event_ids == ()


async def test_what_was_emitted_early_and_commits_late_is_not_lost(
    postgres: PostgresHarness,
) -> None:
    """Later ones were taken, and marked, by then."""
    _, held = await postgres.running()
    _, other = await postgres.running()
    await begin(postgres, *(event(held, key, '{"a": 1}') for key in ("x", "y")))
    await begin(postgres, event(other, match='{"late": true}'))
    await postgres.steps.settle({held.id: 0, other.id: 0})
    async with postgres.begin() as emitting:
        await emitting.steps.emit("paid", '{"a": 1, "late": true}')
        await emit_many(postgres, "paid", [{"a": 1}])
        await postgres.steps.settle_due()
        assert set(await taken(postgres, held)) == {"x"}
    await postgres.steps.settle_due()
    late = {"a": 1, "late": True}
    assert await taken(postgres, held) == {"x": {"a": 1}, "y": late}
    assert await taken(postgres, other) == {"event": late}


async def test_a_backlog_is_worked_off_in_order(postgres: PostgresHarness) -> None:
    """More than one look takes, and more than are looked at together: nothing is passed over."""
    _, held = await postgres.running()
    await begin(postgres, event(held, "last", '{"n": 5999}'), event(held, "first", '{"a": 1}'))
    await settle(postgres, held)
    async with postgres.engine.begin() as connection:
        await connection.exec_driver_sql(
            "SELECT count(e.id) FROM generate_series(0, 5999) n, LATERAL"
            " pgconductor.emit_event('paid', jsonb_build_object('n', n, 'a', 1)) e"
        )
    await settle(postgres, held)
    assert await taken(postgres, held) == {"first": {"n": 0, "a": 1}}
    await postgres.steps.settle_due()
    assert (await taken(postgres, held))["last"] == {"n": 5999, "a": 1}


async def test_what_commits_in_between_hides_nothing(postgres: PostgresHarness) -> None:
    """More early events than are looked at together, between looking for what is due and settling:
    what is about to be marked is looked at in any case."""
    _, held = await postgres.running()
    await begin(postgres, event(held, match='{"wanted": true}'))
    await settle(postgres, held)
    async with postgres.engine.begin() as early:
        await early.exec_driver_sql(
            "SELECT count(e.id) FROM generate_series(0, 5999) n, LATERAL"
            " pgconductor.emit_event('paid', jsonb_build_object('n', n) - 'n') e"
        )
        await emit(postgres, "paid", '{"wanted": true}')
        async with postgres.begin() as repositories:
            due = await repositories.steps.due(limit=500)
        assert due.execution_ids == (held.id,)
    async with postgres.begin() as repositories:
        await repositories.steps.settle({held.id: None}, until=due.until)
        await repositories.steps.mark_matched(due.event_ids)
    assert await taken(postgres, held) == {"event": {"wanted": True}}


async def test_a_look_is_remembered(postgres: PostgresHarness) -> None:
    """So the next one reads what is new only."""
    _, held = await postgres.running()
    await emit_many(postgres, "paid", [1, 2])
    await begin(postgres, event(held, "a", "1"), event(held, "b", "3"))
    await settle(postgres, held)
    async with postgres.engine.connect() as connection:
        rows = await connection.execute(select(Step.key, Step.pending, Step.looked))
        assert {row.key: (row.pending, row.looked) for row in rows} == {
            "a": (False, False),
            "b": (True, True),
        }
