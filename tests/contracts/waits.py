"""Short cuts for contracts of waits, children and events."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from pgconductor.domain.claims import Fetched, Registration
from pgconductor.domain.ids import new_id
from pgconductor.domain.outcomes import Suspended, Verdict
from pgconductor.domain.steps import ChildSpec, Recorded, Settled, StepKind, StepStart
from tests.contracts.harness import Harness

HOUR = timedelta(hours=1)


def start(held: Fetched, key: str, kind: StepKind, **values: Any) -> StepStart:
    return StepStart(execution_id=held.id, claim=held.claim, key=key, kind=kind, **values)


def sleep(held: Fetched, key: str = "sleep", delay: timedelta = HOUR) -> StepStart:
    return start(held, key, StepKind.SLEEP, delay=delay)


def child(held: Fetched, key: str = "child", **values: Any) -> StepStart:
    values = {"detail": "work", "child": ChildSpec(new_id(), "children"), **values}
    return start(held, key, StepKind.CHILD, **values)


def event(held: Fetched, key: str = "event", match: str | None = None, **values: Any) -> StepStart:
    return start(held, key, StepKind.EVENT, **{"detail": "paid", "text": match, **values})


async def begin(db: Harness, *starts: StepStart) -> list[Recorded]:
    """Begin something as its owner, to whom nothing is refused."""
    answers = await db.steps.start_many(starts)
    assert all(one.held for one in answers)
    return [one.recorded for one in answers if one.recorded is not None]


async def begin_child(db: Harness, held: Fetched, key: str = "child", **values: Any) -> UUID:
    (found,) = await begin(db, child(held, key, **values))
    assert found.child_id is not None
    return found.child_id


async def parent_and_child(db: Harness, **options: Any) -> tuple[Fetched, Fetched]:
    """A running execution, and its child, which is running as well."""
    owner, parent = await db.running(**options)
    made = await begin_child(db, parent)
    (fetched,) = await db.fetch(owner, queue="children")
    assert fetched.id == made
    return parent, fetched


async def emit(db: Harness, name: str = "paid", payload: str | None = None) -> UUID:
    async with db.begin() as repositories:
        return (await repositories.steps.emit(name, payload)).id


async def settle(db: Harness, held: Fetched, seen: int = 0) -> Settled:
    """As its owner."""
    (found,) = await db.steps.settle({held.id: seen})
    assert found.execution_id == held.id
    return found


async def ended(db: Harness, held: Fetched) -> dict[str, Recorded]:
    """What has ended by now, by its keys."""
    return {one.key: one for one in (await settle(db, held)).ended}


async def suspend(db: Harness, held: Fetched, wakes: int = 0) -> Verdict:
    return await db.report(Suspended(held.id, held.claim, wakes))


async def history(db: Harness, held: Fetched) -> dict[str, Recorded]:
    return dict((await db.steps.histories([held.id]))[held.id].records)


async def fetched_again(db: Harness, owner: Registration, held: Fetched) -> Fetched:
    (again,) = await db.fetch(owner)
    assert again.id == held.id
    return again


async def cancel_alone(db: Harness, execution_id: UUID) -> bool:
    """Without its children."""
    async with db.begin() as repositories:
        return await repositories.executions.cancel(execution_id, children=False)


async def retry_from(db: Harness, execution_id: UUID, step: str) -> bool:
    async with db.begin() as repositories:
        return await repositories.executions.retry(execution_id, from_step=step)
