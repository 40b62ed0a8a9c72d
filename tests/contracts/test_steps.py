"""I5: steps are keyed by name, recorded once, and by the owner only (I1)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from pgconductor.domain.claims import Claim, Fetched
from pgconductor.domain.ids import new_id
from pgconductor.domain.payloads import decode
from pgconductor.domain.steps import Recorded, StepKind, StepRecord
from pgconductor.exceptions import OwnershipLost
from tests.contracts.harness import FAILURE, Harness


async def record(db: Harness, held: Fetched, key: str, result: str | None) -> Any:
    async with db.begin() as repositories:
        return decode(await repositories.steps.record(StepRecord(held.id, held.claim, key, result)))


async def results(db: Harness, held: Fetched) -> dict[str, Any]:
    return {key: decode(text) for key, text in (await db.results(held.id)).items()}


async def test_a_recorded_step_is_returned_not_replaced(db: Harness) -> None:
    _, held = await db.running()
    assert await record(db, held, "charge", '{"id": 1}') == {"id": 1}
    assert await record(db, held, "charge", '{"id": 2}') == {"id": 1}
    assert await results(db, held) == {"charge": {"id": 1}}


async def test_a_step_without_a_result_is_recorded_too(db: Harness) -> None:
    _, held = await db.running()
    assert await record(db, held, "a", None) is None
    assert await record(db, held, "a", '"later"') is None
    assert await results(db, held) == {"a": None}


async def test_steps_belong_to_their_execution_and_keep_their_order(db: Harness) -> None:
    _, held = await db.running()
    _, other = await db.running()
    for key in ("z", "a", "m"):
        await record(db, held, key, f'"{key}"')
        db.advance(timedelta(seconds=1))
    await record(db, other, "a", '"other"')
    assert list((await results(db, held)).items()) == [("z", "z"), ("a", "a"), ("m", "m")]
    assert await results(db, other) == {"a": "other"}


async def test_steps_outlive_the_attempt(db: Harness) -> None:
    """I4: at most one recorded result for a step, whoever comes next."""
    owner, held = await db.running()
    await record(db, held, "charge", "1")
    await db.fail(held, retry_after=timedelta(0))
    (again,) = await db.fetch(owner)
    assert await record(db, again, "charge", "2") == 1
    await db.crash(owner)
    (third,) = await db.fetch(await db.register())
    assert await results(db, third) == {"charge": 1}


async def test_a_step_that_rolls_back_is_not_recorded(db: Harness) -> None:
    _, held = await db.running()
    async with db.rolled_back() as repositories:
        await repositories.steps.record(StepRecord(held.id, held.claim, "charge", "1"))
    assert await results(db, held) == {}
    assert await record(db, held, "charge", "2") == 2


@pytest.mark.parametrize(
    "how",
    ["completed", "failed", "released", "recovered", "other claim", "other orchestrator",
     "fetched again", "no such execution"],
)  # fmt: skip
async def test_a_stale_owners_step_is_refused(db: Harness, how: str) -> None:
    """I1, B3: nothing is written, nor is what is on record handed out."""
    owner, held = await db.running()
    await record(db, held, "first", "1")
    execution_id, claim = held.id, held.claim
    match how:
        case "completed":
            await db.complete(held)
        case "failed":
            await db.fail(held)
        case "released":
            await db.release(held)
        case "recovered":
            await db.crash(owner)
        case "other claim":
            claim = Claim(claim.orchestrator_id, claim.number + 1)
        case "other orchestrator":
            claim = (await db.register()).next_claim()
        case "fetched again":
            await db.release(held)
            await db.fetch(owner)
        case _:
            execution_id = new_id()
    for key in ("first", "second"):
        async with db.begin() as repositories:
            with pytest.raises(OwnershipLost) as caught:
                await repositories.steps.record(StepRecord(execution_id, claim, key, "2"))
            assert caught.value.execution_id == execution_id
    assert await results(db, held) == {"first": 1}


async def test_a_step_goes_on_while_a_cancellation_is_only_asked_for(db: Harness) -> None:
    """The owner holds it until its next boundary."""
    _, held = await db.running()
    await db.executions.cancel(held.id)
    assert await record(db, held, "charge", "1") == 1


async def test_a_key_is_only_itself(db: Harness) -> None:
    _, held = await db.running()
    keys = ["a", "A", "a ", "ä", "a\u0308", "a" * 512]
    for number, key in enumerate(keys):
        await record(db, held, key, str(number))
    assert await results(db, held) == {key: number for number, key in enumerate(keys)}


# --- many at once --------------------------------------------------------------------------------


async def record_many(db: Harness, *steps: StepRecord) -> list[Recorded | OwnershipLost]:
    return await db.steps.record_many(steps)


async def recorded(db: Harness, *steps: StepRecord) -> list[str | None]:
    answers = await record_many(db, *steps)
    return [one.result for one in answers if isinstance(one, Recorded)]


async def test_many_are_recorded_together(db: Harness) -> None:
    owner = await db.register()
    await db.invoke_several(2)
    one, two = await db.fetch(owner)
    steps = [
        StepRecord(two.id, two.claim, "b", '"two"'),
        StepRecord(one.id, one.claim, "a", None),
        StepRecord(one.id, one.claim, "b", "1", place=2),
    ]
    assert await recorded(db, *steps) == ['"two"', None, "1"]
    found = await db.steps.histories([one.id, two.id, new_id()])
    assert {it: list(history.records.values()) for it, history in found.items()} == {
        one.id: [Recorded(key="a"), Recorded(key="b", result="1", place=2)],
        two.id: [Recorded(key="b", result='"two"')],
    }
    assert {history.wakes for history in found.values()} == {0}


@pytest.mark.parametrize(
    "how", ["completed", "released", "fetched again", "other claim", "other orchestrator"]
)
async def test_of_many_each_must_prove_its_owner(db: Harness, how: str) -> None:
    """I1: the stale one learns it, and the others are recorded."""
    owner = await db.register()
    await db.invoke_several(2)
    one, two = await db.fetch(owner)
    stale = one.claim
    match how:
        case "completed":
            await db.complete(one)
        case "released":
            await db.release(one)
        case "fetched again":
            await db.release(one)
            await db.fetch(owner)
        case "other claim":
            stale = Claim(stale.orchestrator_id, stale.number + 7)
        case _:
            await db.invoke()
            (two,) = await db.fetch(await db.register())
            # The same number, of another orchestrator.
            assert two.claim.number == stale.number
            stale = two.claim
    lost, kept = await record_many(
        db, StepRecord(one.id, stale, "a", "1"), StepRecord(two.id, two.claim, "a", "2")
    )
    assert isinstance(lost, OwnershipLost)
    assert lost.execution_id == one.id
    assert kept == Recorded(key="a", result="2")
    assert await results(db, one) == {}


async def test_of_many_a_recorded_step_is_returned_not_replaced(db: Harness) -> None:
    """Also of two in one call: the answer to a batch was lost, and it comes again."""
    _, held = await db.running()
    step = StepRecord(held.id, held.claim, "a", "1")
    assert await recorded(db, step) == ["1"]
    assert await recorded(db, step, StepRecord(held.id, held.claim, "b", "2")) == ["1", "2"]
    assert await recorded(db, StepRecord(held.id, held.claim, "a", "9")) == ["1"]


async def test_an_error_is_recorded_for_good(db: Harness) -> None:
    """I4: as a result is; what comes later is not, whatever it is."""
    _, held = await db.running()
    failed = StepRecord(held.id, held.claim, "a", failure=FAILURE)
    error = Recorded(key="a", error_type=FAILURE.type, error=FAILURE.message)
    assert await record_many(db, failed) == [error]
    assert await record_many(db, StepRecord(held.id, held.claim, "a", "1")) == [error]
    assert (await db.steps.histories([held.id]))[held.id].records == {"a": error}


async def test_a_kind_is_recorded(db: Harness) -> None:
    """As it was first: a patch that is asked for as a step later can be told apart."""
    _, held = await db.running()
    patch = StepRecord(held.id, held.claim, "a", "true", StepKind.PATCH)
    assert await record_many(db, patch) == [Recorded(key="a", kind=StepKind.PATCH, result="true")]
    (found,) = await record_many(db, StepRecord(held.id, held.claim, "a", "1"))
    assert found == Recorded(key="a", kind=StepKind.PATCH, result="true")
