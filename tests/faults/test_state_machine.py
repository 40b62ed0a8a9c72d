"""Random lives of several orchestrators, against a pure model; the fakes and PostgreSQL alike.

The machine is in ``tests/contracts/lives.py``, the model beside it. That the machine would notice
is tested as well: each of the mutants below lacks one rule of the engine, and does not survive.
(Mutants of the SQL itself are in ``tests/contracts/test_mutants.py``.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from pgconductor.domain.outcomes import Completed, Failed, Suspended
from pgconductor.domain.steps import StepKind
from pgconductor.testing import (
    EventRow,
    ExecutionRow,
    FakeDatabase,
    StepRow,
    ending,
    executions,
    invoking,
    operating,
    orchestrators,
    pairing,
    settling,
    steps,
)
from pgconductor.testing.ending import state_after
from pgconductor.testing.matching import matches
from pgconductor.testing.pairing import matched_events
from pgconductor.testing.rows import Tables
from pgconductor.types import ExecutionState
from tests.contracts.harness import FakeHarness, PostgresHarness
from tests.contracts.lives import Lives
from tests.contracts.lives_of_waits import WaitingLives

ORDINARY = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
# The same examples each time, and no time spent on making the one that fails pretty.
HUNT = settings(
    ORDINARY,
    max_examples=3_000,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    report_multiple_bugs=False,
    print_blob=False,
)
TABLES = ", ".join(
    f"pgconductor.{name}" for name in ("executions", "steps", "events", "orchestrators")
)
Factory = Callable[[], Lives]


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that recovering a few executions takes several transactions."""
    monkeypatch.setattr("pgconductor.services.orchestrators.RECOVERY_BATCH", 2)


@pytest.fixture
def fake_lives(runner: asyncio.Runner) -> Factory:
    return lambda: Lives(FakeHarness(FakeDatabase()), runner.run)


@pytest.fixture
def fake_waiting_lives(runner: asyncio.Runner) -> Factory:
    return lambda: WaitingLives(FakeHarness(FakeDatabase()), runner.run)


@pytest.fixture
def postgres_lives(runner: asyncio.Runner, database_url: str) -> Iterator[Factory]:
    """Makes machines over one database, which each finds empty."""
    engine = create_async_engine(database_url)
    harness = PostgresHarness(engine)

    async def empty() -> None:
        async with engine.begin() as connection:
            await connection.execute(text(f"TRUNCATE {TABLES}"))

    def fresh() -> Lives:
        runner.run(empty())
        harness.clock.reset()
        return WaitingLives(harness, runner.run)

    yield fresh
    runner.run(empty())
    runner.run(engine.dispose())


def live(factory: Factory, how: settings) -> None:
    run_state_machine_as_test(cast("type[RuleBasedStateMachine]", factory), settings=how)


# Other tests cover the fakes; noting each line once more would double the time of these.
@pytest.mark.no_cover
def test_the_fakes_live_as_the_model_does(fake_lives: Factory) -> None:
    live(fake_lives, ORDINARY)


def test_the_fakes_wait_as_the_model_does(fake_waiting_lives: Factory) -> None:
    live(fake_waiting_lives, settings(ORDINARY, max_examples=80))


@pytest.mark.slow
def test_postgres_lives_as_the_model_does(postgres_lives: Factory) -> None:
    live(postgres_lives, settings(ORDINARY, max_examples=25, stateful_step_count=30))


# --- mutants -------------------------------------------------------------------------------------


def any_owner(row: ExecutionRow | None, _claim: object) -> bool:
    return row is not None and row.state is ExecutionState.RUNNING


def any_claim(row: ExecutionRow | None, claim: Any) -> bool:
    return row is not None and row.held_by(claim.orchestrator_id)


def no_cancellation(row: ExecutionRow, outcome: Any) -> ExecutionState:
    if isinstance(outcome, Completed):
        return ExecutionState.COMPLETED
    if isinstance(outcome, Failed) and outcome.retry_after is None:
        return ExecutionState.FAILED
    return ExecutionState.AVAILABLE


async def remove_at_once(self: Any, orchestrator_id: Any) -> bool:
    tables = await self._transaction.write()
    return tables.orchestrators.pop(orchestrator_id, None) is not None


def a_crash_is_an_attempt(row: ExecutionRow, crashed: bool, now: datetime) -> ExecutionRow:
    return ending.taken_back(row, False, now)


Executions, Orchestrators = executions.FakeExecutionRepository, orchestrators
MUTANTS: dict[str, list[tuple[Any, str, Any]]] = {
    "I1: a completion need not prove its owner": [(executions, "holds", any_owner)],
    "I1: a completion need not prove its claim number": [(executions, "holds", any_claim)],
    "I1: a step need not prove its owner": [(steps, "holds", any_owner)],
    "I2: anybody may fetch": [(Executions, "_may_fetch", lambda *_: True)],
    "I2: rows are removed whatever they hold": [
        (orchestrators.FakeOrchestratorRepository, "remove", remove_at_once)
    ],
    "I8: keys are not looked at": [(invoking, "unfinished", lambda *_: None)],
    "I8: a retry does not look for a rival": [(operating, "unfinished", lambda *_: None)],
    "A2: crashes are not counted": [(executions, "taken_back", a_crash_is_an_attempt)],
    "suspects are fetched with others": [(ExecutionRow, "suspect", False)],
    "B4: cancellations and limits are forgotten": [(ending, "state_after", no_cancellation)],
    "nobody is ever late": [
        (orchestrators.FakeOrchestratorRepository, "_is_late", lambda *_: False)
    ],
    "who is late is late at once": [
        (orchestrators.FakeOrchestratorRepository, "_is_late", lambda *_: True)
    ],
}


def suspend_blindly(row: ExecutionRow, outcome: Any) -> ExecutionState:
    if isinstance(outcome, Suspended) and row.cancel_requested_at is None:
        return ExecutionState.WAITING
    return state_after(row, outcome)


def forget_families(_tables: object, row: ExecutionRow) -> list[ExecutionRow]:
    return [row]


def any_event(tables: Tables, _row: object, waits: Sequence[StepRow]) -> dict[str, EventRow]:
    events = sorted(tables.events.values(), key=lambda one: one.emitted_at)
    found = {
        wait.key: next((one for one in events if matches(one.payload, wait.match)), None)
        for wait in waits
        if wait.kind is StepKind.EVENT
    }
    return {key: event for key, event in found.items() if event is not None}


def by_their_keys(
    tables: Tables, row: ExecutionRow, waits: Sequence[StepRow]
) -> dict[str, EventRow]:
    return matched_events(tables, row, sorted(waits, key=lambda one: one.key))


#: The same of waits.
WAITING_MUTANTS: dict[str, list[tuple[Any, str, Any]]] = {
    "B2: a suspension does not look": [(ending, "state_after", suspend_blindly)],
    "I1: a wait need not prove its owner": [(steps, "holds", any_owner)],
    "an event is taken twice, or before the invocation": [(settling, "matched_events", any_event)],
    "waits take events by their keys": [(settling, "matched_events", by_their_keys)],
    "everything matches": [(pairing, "matches", lambda *_: True)],
    "children are not cancelled": [(operating, "_family", forget_families)],
}


@pytest.mark.no_cover
@pytest.mark.slow
@pytest.mark.parametrize("changes", WAITING_MUTANTS.values(), ids=WAITING_MUTANTS.keys())
def test_no_mutant_of_waits_survives(
    fake_waiting_lives: Factory,
    changes: list[tuple[Any, str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    test_no_mutant_survives(fake_waiting_lives, changes, monkeypatch)


@pytest.mark.no_cover
@pytest.mark.parametrize("changes", MUTANTS.values(), ids=MUTANTS.keys())
def test_no_mutant_survives(
    fake_lives: Factory,
    changes: list[tuple[Any, str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for target, name, value in changes:
        monkeypatch.setattr(target, name, value)
    with pytest.raises(Exception):  # noqa: B017, PT011 - whichever assertion notices
        live(fake_lives, HUNT)
