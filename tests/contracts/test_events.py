"""Events: a wait takes the first that matches and that no other wait of its execution has taken."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy.exc import DBAPIError

from pgconductor.domain.steps import Due, Recorded, StepKind
from pgconductor.exceptions import InvalidInput
from tests.contracts.harness import Harness
from tests.contracts.waits import HOUR, begin, emit, ended, event, history, settle

SECOND = timedelta(seconds=1)
#: What a payload contains, as jsonb has it: payload, match, and whether it does.
MATCHES = [
    ("1", None, True),
    (None, None, True),
    (None, "1", False),
    ("null", "null", False),
    ("1", "1.0", True),
    ("1e2", "100", True),
    ("1", '"1"', False),
    ("1", "true", False),
    ("true", "true", True),
    ('{"a": 1, "b": 2}', '{"a": 1}', True),
    ('{"a": 1}', '{"a": 1, "b": 2}', False),
    ('{"a": 1}', '{"a": 2}', False),
    ('{"a": null}', '{"a": null}', True),
    ('{"b": null}', '{"a": null}', False),
    ('{"a": {"b": 1, "c": 2}}', '{"a": {"b": 1}}', True),
    ('{"a": {"b": 1}}', '{"b": 1}', False),
    ('{"a": 1}', "{}", True),
    ("[1]", "{}", False),
    ("[1, 2, [3]]", "[2, 2]", True),
    ("[1, 2, [3]]", "[3]", False),
    ("[1, 2, [3]]", "[[3]]", True),
    ('[{"a": 1, "b": 2}]', '[{"a": 1}]', True),
    ("[1, 2]", "2", True),
    ('{"a": [1, 2]}', '{"a": 2}', False),
    ('{"a": [1, 2]}', '{"a": [2]}', True),
    ("[[1]]", "1", False),
    ("2", "[2]", False),
]


async def unmatched(db: Harness) -> Due:
    async with db.begin() as repositories:
        return await repositories.steps.due(limit=9)


async def test_what_matches(db: Harness) -> None:
    """As ``jsonb @>`` has it."""
    _, held = await db.running()
    for number, (payload, match, _) in enumerate(MATCHES):
        await begin(db, event(held, str(number), match, detail=f"e{number}"))
        await emit(db, f"e{number}", payload)
    expected = {str(number) for number, (*_, matches) in enumerate(MATCHES) if matches}
    assert set(await ended(db, held)) == expected


async def test_an_event_ends_a_wait(db: Harness) -> None:
    _, held = await db.running()
    (begun,) = await begin(db, event(held, place=4))
    assert begun == Recorded(key="event", kind=StepKind.EVENT, pending=True, detail="paid", place=4)
    assert await ended(db, held) == {}
    async with db.notifications() as sent:
        await emit(db, "paid", '{"a": 1}')
    assert sent == [("pgconductor_waits", "")]
    assert await ended(db, held) == {
        "event": Recorded(key="event", kind=StepKind.EVENT, detail="paid", result='{"a": 1}')
    }
    assert await db.results(held.id) == {"event": '{"a": 1}'}


async def test_an_event_may_have_no_payload(db: Harness) -> None:
    _, held = await db.running()
    await begin(db, event(held))
    await emit(db)
    assert await ended(db, held) == {
        "event": Recorded(key="event", kind=StepKind.EVENT, detail="paid")
    }


async def test_an_event_of_another_name_is_not_taken(db: Harness) -> None:
    _, held = await db.running()
    await begin(db, event(held))
    await emit(db, "Paid")
    assert await ended(db, held) == {}


async def test_an_event_may_come_before_the_wait_but_not_before_the_invocation(
    db: Harness,
) -> None:
    await emit(db, "paid", '"too early"')
    db.advance(SECOND)
    _, held = await db.running()
    db.advance(SECOND)
    await emit(db, "paid", '"first"')
    db.advance(SECOND)
    await emit(db, "paid", '"second"')
    # Looked at by everybody else, long ago.
    await db.steps.settle_due()
    assert (await unmatched(db)).event_ids == ()
    await begin(db, event(held))
    assert (await ended(db, held))["event"].result == '"first"'


async def test_an_event_is_for_every_execution(db: Harness) -> None:
    _, one = await db.running()
    _, two = await db.running()
    await begin(db, event(one))
    await emit(db, "paid", "1")
    await begin(db, event(two))
    for held in (one, two):
        assert (await ended(db, held))["event"].result == "1"


async def test_of_two_waits_the_older_takes_the_first(db: Harness) -> None:
    _, held = await db.running()
    await begin(db, event(held, "z"))
    db.advance(SECOND)
    await begin(db, event(held, "a"))
    await emit(db, "paid", "1")
    assert await ended(db, held) == {
        "z": Recorded(key="z", kind=StepKind.EVENT, detail="paid", result="1")
    }
    assert (await history(db, held))["a"].pending
    db.advance(SECOND)
    await emit(db, "paid", "2")
    found = await settle(db, held, seen=1)
    assert (found.wakes, [(one.key, one.result) for one in found.ended]) == (2, [("a", "2")])


async def test_several_waits_take_one_event_each_at_once(db: Harness) -> None:
    """One call is enough, and it is counted once."""
    _, held = await db.running()
    for key, match in [("c", None), ("b", None), ("a", '"two"'), ("d", None)]:
        await begin(db, event(held, key, match))
        db.advance(SECOND)
    for payload in ('"one"', '"two"', '"three"'):
        await emit(db, "paid", payload)
        db.advance(SECOND)
    found = await settle(db, held)
    # The older takes what the younger would have, too.
    assert {one.key: one.result for one in found.ended} == {
        "c": '"one"', "b": '"two"', "d": '"three"',
    }  # fmt: skip
    assert found.wakes == 1


async def test_a_wait_leaves_what_does_not_match_to_others(db: Harness) -> None:
    _, held = await db.running()
    await begin(db, event(held, "a", '{"id": 2}'))
    db.advance(SECOND)
    await begin(db, event(held, "b"))
    await emit(db, "paid", '{"id": 1}')
    assert {key: one.result for key, one in (await ended(db, held)).items()} == {"b": '{"id": 1}'}


async def test_an_event_that_does_not_come_in_time(db: Harness) -> None:
    _, held = await db.running()
    await begin(db, event(held, "late", delay=HOUR), event(held, "later", delay=2 * HOUR))
    db.advance(HOUR)
    (found,) = (await settle(db, held)).ended
    assert found == Recorded(
        key="late",
        kind=StepKind.EVENT,
        detail="paid",
        error_type="(timeout)",
        error="it did not come in time",
    )
    # That it comes later changes nothing for this one.
    await emit(db, "paid", "1")
    assert {key: one.result for key, one in (await ended(db, held)).items()} == {
        "late": None,
        "later": "1",
    }


async def test_an_event_at_the_last_moment_is_not_late(db: Harness) -> None:
    """The other wait of the same name is: there is but one."""
    _, held = await db.running()
    await begin(db, event(held, "a", delay=HOUR), event(held, "b", delay=HOUR))
    await emit(db, "paid", "1")
    db.advance(HOUR)
    found = await ended(db, held)
    assert (found["a"].result, found["b"].error_type) == ("1", "(timeout)")


async def test_an_event_that_rolls_back_was_never_emitted(db: Harness) -> None:
    _, held = await db.running()
    await begin(db, event(held))
    async with db.notifications() as sent, db.rolled_back() as repositories:
        await repositories.steps.emit("paid", None)
    assert sent == []
    assert (await ended(db, held), (await unmatched(db)).event_ids) == ({}, ())


@pytest.mark.parametrize("name", ["", "1st", "a b", "ä", "x" * 129])
async def test_a_name_that_is_none_is_refused(db: Harness, name: str) -> None:
    with pytest.raises((InvalidInput, DBAPIError)):
        await emit(db, name)
    assert (await unmatched(db)).event_ids == ()
