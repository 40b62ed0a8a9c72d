"""What is logged, with which fields; and that nothing is said by default."""

from __future__ import annotations

import logging

import pytest

from pgconductor import Conductor, TaskContext
from tests.integration.runtime_world import AT_ONCE, World
from tests.support.processes import Children

SECRET = "correct-horse-battery-staple"
SCRIPT = """
import asyncio, os
from pgconductor import Conductor, TaskContext

conductor = Conductor(database_url=os.environ["URL"])

@conductor.task(max_attempts=1)
async def fails(ctx: TaskContext) -> None:
    ctx.logger.error("from the handler")
    raise ValueError("a failure")

@conductor.task
async def works(ctx: TaskContext) -> object:
    return {1, 2}

async def main() -> None:
    await fails.invoke()
    await works.invoke()
    print(await conductor.orchestrator().drain())
    await conductor.close()

asyncio.run(main())
"""


async def test_quiet_by_default(database_url: str, children: Children) -> None:
    """Without logging configured, nothing on standard error; not even failures of handlers."""
    child = await children.start("-c", SCRIPT, env={"URL": database_url})
    assert await child.wait() == 0
    assert child.lines == ["clean"]
    assert child.errors == []


async def test_records_say_which_execution(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever is said of an execution carries execution_id, task, queue and attempt."""
    conductor = world.conductor()

    @conductor.task(max_attempts=2, retry=AT_ONCE, queue="other")
    async def fail(ctx: TaskContext) -> None:
        ctx.logger.info("at work", extra={"mine": 1})
        raise ValueError("a failure")

    with caplog.at_level(logging.DEBUG, "pgconductor"):
        handle = await fail.invoke()
        await conductor.orchestrator().drain()
    mine = [record for record in caplog.records if record.getMessage() == "at work"]
    failures = [r for r in caplog.records if r.getMessage().startswith("failed")]
    assert [record.levelname for record in failures] == ["INFO", "WARNING"]
    for attempt, pair in enumerate(zip(mine, failures, strict=True), start=1):
        for record in pair:
            fields = vars(record)
            assert fields["execution_id"] == str(handle.id)
            assert (fields["task"], fields["queue"]) == ("fail", "other")
            assert fields["attempt"] == attempt
    assert [vars(record)["mine"] for record in mine] == [1, 1]


async def test_payloads_and_results_are_not_logged(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Reliability (security): at any level, of whichever logger."""
    conductor: Conductor = world.conductor()

    @conductor.task
    async def echo(ctx: TaskContext, secret: str) -> str:
        return secret

    @conductor.task
    async def wrong(ctx: TaskContext, number: int) -> None:
        return

    @conductor.task
    async def unstorable(ctx: TaskContext, secret: str) -> object:
        return {secret}

    for name in ("pgconductor", "asyncio"):
        caplog.set_level(logging.DEBUG, name)
    await echo.invoke(SECRET)
    await unstorable.invoke(SECRET)
    await conductor.task_ref("wrong").invoke({"secret": SECRET})
    await conductor.orchestrator().drain()
    assert "failed" in caplog.text
    assert SECRET not in caplog.text
    stored = world.rows("SELECT string_agg(last_error, ' ') AS e FROM pgconductor.executions")
    assert SECRET not in stored[0]["e"]


async def test_no_password_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Reliability (security): nor is it in the error."""
    broken = World(f"postgresql+asyncpg://someone:{SECRET}@127.0.0.1:1/nowhere")
    conductor = broken.conductor(startup_timeout=0.3)

    @conductor.task
    async def task(ctx: TaskContext) -> None:
        return

    with caplog.at_level(logging.DEBUG), pytest.raises(TimeoutError) as caught:
        await conductor.orchestrator().start()
    assert SECRET not in caplog.text
    assert SECRET not in repr(caught.value)
    assert SECRET not in repr(conductor.settings)
    await broken.close()
