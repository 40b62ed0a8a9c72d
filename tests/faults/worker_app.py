"""A worker process of the drills: freezes at a marked point, or serves until it is stopped.

``DRILL`` names the point: ``registered``, ``fetched``, ``ended`` (the handler has, nothing is
written), ``committed`` (written, and the process does not know yet), or ``none``.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pgconductor.domain.claims import Registration
from pgconductor.domain.outcomes import Completed, Outcome, Verdict
from pgconductor.runtime.completer import Completer
from pgconductor.services import ExecutionService, OrchestratorService
from tests.faults import boundaries
from tests.faults.drill_tasks import drill_conductor, freeze, say

POINT = os.environ["DRILL"]


def watch_registration() -> None:
    register = OrchestratorService.register

    async def registered(self: OrchestratorService, **options: Any) -> Registration:
        registration = await register(self, **options)
        say("registered", registration.orchestrator_id)
        if POINT == "registered":
            freeze("frozen")
        return registration

    OrchestratorService.register = registered  # type: ignore[method-assign]


def freeze_after_fetch() -> None:
    fetch = ExecutionService.fetch

    async def fetched(self: ExecutionService, *args: Any, **options: Any) -> Any:
        batch = await fetch(self, *args, **options)
        if batch:
            freeze("frozen", len(batch))
        return batch

    ExecutionService.fetch = fetched  # type: ignore[method-assign]


def freeze_before_completion() -> None:
    add = Completer.add

    def ended(self: Completer, outcome: Outcome) -> None:
        if isinstance(outcome, Completed):
            freeze("frozen")
        add(self, outcome)

    Completer.add = ended  # type: ignore[method-assign]


def freeze_after_commit() -> None:
    complete = ExecutionService.complete

    async def committed(self: ExecutionService, outcomes: Sequence[Outcome]) -> list[Verdict]:
        verdicts = await complete(self, outcomes)
        freeze("frozen")
        return verdicts

    ExecutionService.complete = committed  # type: ignore[method-assign]


async def main() -> None:
    if os.environ.get("DRILL_LATE"):
        boundaries.go_on_late()
    if os.environ.get("DRILL_BLIND"):
        boundaries.look_at_nothing()
    conductor = drill_conductor(os.environ["DRILL_URL"])
    queues = os.environ.get("DRILL_QUEUES")
    orchestrator = conductor.orchestrator(
        queues=queues.split(",") if queues else None,
        concurrency=int(os.environ.get("DRILL_CONCURRENCY", "4")),
    )
    if os.environ.get("DRILL_ONCE"):
        reason = await orchestrator.drain()
    else:
        reason = await orchestrator.run()
    say("exit", reason)
    await conductor.close()


if __name__ == "__main__":
    faulthandler.enable()
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)d %(name)s %(message)s")
    watch_registration()
    if boundaries.LIFE is not None:
        boundaries.watch()
    {
        "fetched": freeze_after_fetch,
        "ended": freeze_before_completion,
        "committed": freeze_after_commit,
    }.get(POINT, lambda: None)()
    asyncio.run(main())
