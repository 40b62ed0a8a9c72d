"""Random lives of the whole engine, against a pure model of random handlers.

The machine is in ``engine_lives.py`` and ``engine_operators.py``, its orchestrators are in
``fleet.py``, its handlers in ``programs.py`` and ``performers.py``, the model is in
``programs_model.py``, and what is asserted in the end in ``verdicts.py``. For a longer hunt,
``PGCONDUCTOR_TEST_LIVES`` says how many lives to live.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from typing import cast

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from tests.faults.engine_operators import OperatedLives
from tests.faults.fleet import Fleet
from tests.support.servers import connect

pytestmark = [pytest.mark.faults, pytest.mark.slow]

LIVES = int(os.environ.get("PGCONDUCTOR_TEST_LIVES", "20"))
# A life takes seconds, and what others do in it is not repeated to the letter: making a life that
# fails shorter is left out. What happened in it is told with the error.
ORDINARY = settings(
    max_examples=LIVES,
    stateful_step_count=40,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.filter_too_much,
        HealthCheck.data_too_large,
        HealthCheck.large_base_example,
    ],
)
TABLES = ", ".join(
    f"pgconductor.{name}" for name in ("executions", "steps", "events", "orchestrators")
)
EFFECTS = "CREATE TABLE effects (execution_id uuid NOT NULL, key text NOT NULL, token int NOT NULL)"


@pytest.fixture
def lives(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], OperatedLives]]:
    """Makes machines over one database, which each finds empty."""
    monkeypatch.setattr("pgconductor.services.orchestrators.RECOVERY_BATCH", 2)
    with asyncio.Runner() as runner, connect(database_url) as connection:
        connection.execute(EFFECTS)

        def fresh() -> OperatedLives:
            connection.execute(f"TRUNCATE {TABLES}, effects".encode())
            return OperatedLives(Fleet(database_url), runner.run)

        yield fresh


@pytest.mark.timeout(120 + 30 * LIVES)
def test_the_engine_lives_as_the_model_allows(lives: Callable[[], OperatedLives]) -> None:
    run_state_machine_as_test(cast("type[RuleBasedStateMachine]", lives), settings=ORDINARY)
