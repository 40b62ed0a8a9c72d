"""A1: upgrade from empty, check, execute and go back on every Postgres that is found here."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from alembic import command
from sqlalchemy.ext.asyncio import create_async_engine

from pgconductor.dev import Binaries, EmbeddedServer, find_all
from pgconductor.domain.orchestrators import StaleObserver
from pgconductor.domain.outcomes import Completed, Failed, Failure, Released
from pgconductor.domain.steps import StepRecord
from pgconductor.repositories import sql_repositories
from pgconductor.services import ExecutionService, OrchestratorService
from pgconductor.types import ExecutionState
from tests.migrations.support import (
    catalog,
    config_for,
    execute,
    gate,
    in_thread,
    ledger,
    rows,
    written,
)
from tests.support.servers import Server

INSTALLATIONS = {f"{one.provider}-{one.release}": one for one in find_all()}


@pytest.fixture(scope="module", params=INSTALLATIONS.values(), ids=list(INSTALLATIONS))
def any_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    binaries: Binaries = request.param
    with EmbeddedServer.start(binaries=binaries, fsync=False) as embedded:
        server = Server(embedded.url)
        assert server.version == binaries.version
        yield server
        server.close()


@pytest.fixture
def url(any_server: Server) -> Iterator[str]:
    with any_server.database() as name:
        yield any_server.url_for(name)


@pytest.fixture
def migrated(url: str) -> str:
    in_thread(command.upgrade, config_for(url), "head")
    return url


def test_up_check_down_and_up(migrated: str) -> None:
    before = catalog(migrated)
    in_thread(command.check, config_for(migrated))
    in_thread(command.downgrade, config_for(migrated), "base")
    in_thread(command.upgrade, config_for(migrated), "head")
    assert catalog(migrated) == before
    assert (ledger(migrated), gate(migrated)) == ([(1, "initial", False)], [(1, 0)])


def test_the_script(any_server: Server, migrated: str) -> None:
    config = config_for(migrated)
    in_thread(command.upgrade, config, "head", sql=True)
    with any_server.database() as name:
        other = any_server.url_for(name)
        execute(other, written(config))
        assert catalog(other) == catalog(migrated)


def test_sql_functions(migrated: str) -> None:
    ((made,),) = rows(migrated, "SELECT id FROM pgconductor.invoke('send')")
    batch = (
        "SELECT id FROM pgconductor.invoke_batch(ARRAY[ROW('send','mail','{}',NULL,'k',NULL,"
        "NULL,NULL,7), ROW('send','mail','{}',NULL,'k',NULL,NULL,NULL,7)]"
        "::pgconductor.execution_spec[])"
    )
    (first,), (second,) = rows(migrated, batch)
    assert first == second != made
    assert rows(migrated, f"SELECT pgconductor.cancel_execution('{made}', 'why')") == [(True,)]
    assert rows(migrated, "SELECT pgconductor.clock() <= pgconductor.wall_clock()") == [(True,)]
    ((version,),) = rows(migrated, "SELECT substr(pgconductor.uuidv7()::text, 15, 1)")
    assert version == "7"


async def test_every_use_of_the_statements(migrated: str) -> None:
    engine = create_async_engine(migrated)
    executions, orchestrators = ExecutionService(engine), OrchestratorService(engine)
    registration = await orchestrators.register()
    for number in range(4):
        await executions.invoke("send", {"number": number}, max_attempts=1)
    fetched = await executions.fetch(registration, limit=4)
    assert [one.payload for one in fetched] == [f'{{"number": {n}}}' for n in range(4)]
    done, failed, released, cancelled = fetched
    async with engine.begin() as connection:
        steps = sql_repositories(connection).steps
        assert await steps.record(StepRecord(done.id, done.claim, "step", "[1]")) == "[1]"
    assert await executions.cancel(cancelled.id)
    assert (await orchestrators.heartbeat(registration)).cancellations == {cancelled.id}
    await executions.complete(
        [
            Completed(done.id, done.claim, '"sent"'),
            Failed(failed.id, failed.claim, Failure("ValueError", "no")),
            Released(released.id, released.claim),
            Completed(cancelled.id, cancelled.claim, "1"),
        ]
    )
    assert await executions.retry(failed.id)
    counted = await executions.count()
    assert {state: number for state, number in counted.items() if number} == {
        ExecutionState.COMPLETED: 1,
        ExecutionState.AVAILABLE: 2,
        ExecutionState.CANCELLED: 1,
    }
    await executions.fetch(registration, limit=1)
    recovery = await orchestrators.recover_stale(StaleObserver(timedelta(seconds=30)))
    assert recovery.executions == 0
    assert (await orchestrators.leave(registration)).available == 1
    await engine.dispose()
