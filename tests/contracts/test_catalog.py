"""Declared tasks and queues."""

from __future__ import annotations

from datetime import timedelta

from pgconductor.domain.tasks import TaskOptions
from tests.contracts.harness import Harness


async def keys_and_names(db: Harness) -> tuple[list[str], list[str]]:
    async with db.begin() as repositories:
        return await repositories.tasks.keys(), await repositories.queues.names()


async def test_declared_tasks_and_queues_are_known(db: Harness) -> None:
    await db.orchestrators.declare([], [])
    assert await keys_and_names(db) == ([], [])
    tasks = [TaskOptions("zeta"), TaskOptions("alpha", timeout=timedelta(minutes=1))]
    await db.orchestrators.declare(tasks, ["slow", "fast"])
    await db.orchestrators.declare([TaskOptions("mid")], ["fast", "new"])
    assert await keys_and_names(db) == (["alpha", "mid", "zeta"], ["fast", "new", "slow"])


async def test_a_task_declared_again_takes_its_new_options(db: Harness) -> None:
    for limit in (5, 5, 8):
        await db.orchestrators.declare([TaskOptions("greet", max_attempts=limit)], [])
        assert (await db.get(await db.invoke("greet"))).max_attempts == limit


async def test_an_execution_keeps_the_limits_that_it_was_invoked_with(db: Harness) -> None:
    there = await db.invoke("greet")
    await db.orchestrators.declare([TaskOptions("greet", max_attempts=9, max_crashes=9)], [])
    found = await db.get(there)
    assert (found.max_attempts, found.max_crashes) == (3, 3)


async def test_a_declaration_that_rolls_back_is_not_known(db: Harness) -> None:
    async with db.rolled_back() as repositories:
        await repositories.tasks.declare_many([TaskOptions("greet")])
        await repositories.queues.declare_many(["slow"])
        assert await repositories.tasks.keys() == ["greet"]
        assert await repositories.queues.names() == ["slow"]
    assert await keys_and_names(db) == ([], [])
